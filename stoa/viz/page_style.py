"""Style and script of the page of an explained clip. Both are the same on every page, but for colours and layers."""

from __future__ import annotations

from collections.abc import Sequence

from stoa.viz.marks import Rgb, ink_on

_STYLE = """
:root{color-scheme:light dark;--ink:#1a1a1e;--quiet:#5a5c64;--line:#d8dae0;--paper:#fff;--mark:#34384a}
@media(prefers-color-scheme:dark){:root{--ink:#ececf0;--quiet:#a6a9b4;--line:#3a3d48;--paper:#16171c;--mark:#4a5068}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1.2rem;max-width:84rem;background:var(--paper);color:var(--ink);
 font:1rem/1.5 system-ui,sans-serif;overflow-wrap:anywhere}
h1{font-size:1rem;font-weight:400;color:var(--quiet);margin:0}h2{font-size:1.05rem;margin:1.6rem 0 .4rem}
.caption{display:flex;flex-wrap:wrap;gap:.3rem .7rem;margin:.6rem 0;padding:0;list-style:none}
.caption b{font-size:1.5rem;font-weight:400;line-height:1.3;display:block}
.caption svg{display:block;width:0;min-width:100%;height:3px}.caption small{color:var(--quiet)}
.chip{display:inline-block;border-radius:.3em;padding:0 .4em;font-size:.8rem;font-weight:700;
 border:1px solid currentColor;margin-right:.2em}
.action{background:var(--mark);color:#fff}
.facts{display:flex;flex-wrap:wrap;gap:.3rem 1.4rem;margin:0}.facts div{display:flex;gap:.4rem}
.facts dt{color:var(--quiet)}.facts dd{margin:0;font-weight:700}
form{display:flex;flex-wrap:wrap;gap:.5rem 1.4rem;position:sticky;top:0;z-index:1;background:var(--paper);
 padding:.6rem 0;border-bottom:1px solid var(--line)}
fieldset{border:0;padding:0;margin:0;display:flex;flex-wrap:wrap;gap:.2rem 1rem}
legend{float:left;font-weight:700;padding:0;margin-right:.2rem;line-height:1.9rem}
label{display:inline-flex;gap:.35rem;align-items:center;min-height:1.9rem;cursor:pointer}
input{width:1.1rem;height:1.1rem;accent-color:#0072b2}
:focus-visible{outline:3px solid #0072b2;outline-offset:2px}
.frames{display:grid;gap:.8rem;grid-template-columns:repeat(auto-fill,minmax(min(100%,14rem),1fr));padding:0;
 margin:.8rem 0;list-style:none}
.frames figure{margin:0}.frames figcaption{color:var(--quiet);font-size:.85rem}
.frame{display:block;width:100%;height:auto;background:#111}
.frame text{font:700 5px system-ui,sans-serif}
.attention,.heat-note,.edges,.picked{display:none}
.heat{image-rendering:pixelated}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.2rem .9rem .2rem 0;border-bottom:1px solid var(--line);font-weight:400}
thead th{color:var(--quiet)}.wide{overflow-x:auto}
.scale{display:block;background:#222;width:12rem;max-width:100%;height:.7rem}
.notes{color:var(--quiet);font-size:.9rem;padding-left:1.1rem}
body:has(#tracks:not(:checked)) .tracks{display:none}
body:has(#edges:checked) .picked{display:inline}
body:not(.picking):has(#edges:checked) .edges{display:inline}
body:has(:is(#edges,.looks):checked) .picture{filter:grayscale(1) brightness(.6)}
body:has(.looks:checked) .heat-note{display:block}
"""

SCRIPT = """
'use strict';
const graph = JSON.parse(document.getElementById('graph').textContent);
const frames = [...document.querySelectorAll('svg.frame')];
const status = document.getElementById('said');
const [rows, columns] = graph.grid;
const chosen = frames.map(() => Math.floor(rows / 2) * columns + Math.floor(columns / 2));
function square(frame, patch, attributes) {
  const shape = document.createElementNS('http://www.w3.org/2000/svg', 'rect');
  const place = {x: 100 / columns * (patch % columns), y: 100 / rows * Math.floor(patch / columns),
    width: 100 / columns, height: 100 / rows, ...attributes};
  for (const [name, value] of Object.entries(place)) shape.setAttribute(name, value);
  frames[frame].querySelector('.picked').append(shape);
}
function clear() {
  document.body.classList.remove('picking');
  for (const frame of frames) frame.querySelector('.picked').replaceChildren();
}
function pick(t, patch) {
  chosen[t] = patch;
  document.getElementById('edges').checked = true;
  clear();
  document.body.classList.add('picking');
  const seen = graph.targets[t][patch], weights = graph.weights[t][patch];
  const most = Math.max(...weights, 1e-9), said = [];
  seen.forEach((target, i) => {
    if (target < 0) return;
    const frame = Math.floor(target / (rows * columns)), other = target % (rows * columns);
    square(frame, other, {fill: '#ffb000', 'fill-opacity': 0.15 + 0.6 * weights[i] / most});
    said.push(`frame ${frame + 1} row ${Math.floor(other / columns) + 1} column ${other % columns + 1} ` +
      `(${(100 * weights[i]).toFixed(1)}%)`);
  });
  square(t, patch, {fill: 'none', stroke: '#fff', 'stroke-width': 1.2});
  status.textContent = `The patch of frame ${t + 1}, row ${Math.floor(patch / columns) + 1}, column ` +
    `${patch % columns + 1} looks most at ${said.join(', ') || 'itself alone'}.`;
}
frames.forEach((frame, t) => {
  frame.addEventListener('click', event => {
    const box = frame.getBoundingClientRect();
    const place = (value, most) => Math.min(most - 1, Math.max(0, Math.floor(value * most)));
    pick(t, place((event.clientY - box.top) / box.height, rows) * columns +
      place((event.clientX - box.left) / box.width, columns));
  });
  frame.addEventListener('keydown', event => {
    let row = Math.floor(chosen[t] / columns), column = chosen[t] % columns;
    if (event.key === 'Escape') { clear(); status.textContent = ''; return; }
    if (event.key === 'ArrowUp') row -= 1;
    else if (event.key === 'ArrowDown') row += 1;
    else if (event.key === 'ArrowLeft') column -= 1;
    else if (event.key === 'ArrowRight') column += 1;
    else if (event.key !== 'Enter' && event.key !== ' ') return;
    event.preventDefault();
    pick(t, Math.min(rows - 1, Math.max(0, row)) * columns + Math.min(columns - 1, Math.max(0, column)));
  });
});
"""


def style(colours: Sequence[Rgb], num_actions: int) -> str:
    """With the colours of the trajectories, and which action token's attention is seen."""
    rules = [f".c{n}{{background:{as_hex(colour)};color:{as_hex(ink_on(colour))}}}" for n, colour in enumerate(colours)]
    rules += [f"body:has(#look-{m}:checked) .attention-{m}{{display:inline}}" for m in range(num_actions)]
    return _STYLE + "\n".join(rules) + "\n"


def as_hex(colour: Rgb) -> str:
    return "#" + bytes(colour).hex()
