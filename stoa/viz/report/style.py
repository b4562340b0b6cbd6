"""How a report looks: one column of sections, charts that wrap, the colours of the reader's system."""

STYLES = ("first", "second")
"""Classes of the runs, in their order."""

STYLE = """
:root{color-scheme:light dark;--ink:#1d2126;--quiet:#5c6670;--line:#d9dee3;--ground:#fff;--card:#f7f8fa;
--first:#1f66b0;--second:#b9540a}
@media(prefers-color-scheme:dark){:root{--ink:#e4e7ea;--quiet:#9aa4ae;--line:#343b42;--ground:#14171a;--card:#1b1f24;
--first:#6cb0f5;--second:#f3a04f}}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,sans-serif;max-width:74rem;margin:0 auto;padding:1rem 1rem 4rem;color:var(--ink);
background:var(--ground);overflow-wrap:break-word}
h1{font-size:1.5rem;margin:.5rem 0}h2{font-size:1.15rem;margin:2.2rem 0 .6rem;border-bottom:1px solid var(--line)}
h3{font-size:1rem;margin:1.2rem 0 .3rem}
nav{display:flex;flex-wrap:wrap;gap:.2rem 1rem;font-size:.9rem}a{color:inherit}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,19rem),1fr));gap:.8rem}
figure{margin:0;padding:.6rem .7rem;background:var(--card);border:1px solid var(--line);border-radius:6px;min-width:0}
figcaption{font-weight:600}figcaption span,.said,.note{color:var(--quiet);font-weight:400}
figure p{margin:.1rem 0;font-size:.85rem;font-variant-numeric:tabular-nums}
svg{display:block;width:100%;height:auto;margin:.3rem 0}
svg text{font:10px system-ui,sans-serif;fill:var(--quiet);font-variant-numeric:tabular-nums}
.grid path{stroke:var(--line)}
polyline{fill:none;stroke:currentColor;stroke-width:1.4;stroke-linejoin:round}
polygon{fill:currentColor;opacity:.16}circle{fill:currentColor}
.first,.beside-first{color:var(--first)}.second,.beside-second{color:var(--second)}
.beside-first polyline,.beside-second polyline{stroke-dasharray:2 3;stroke-width:1.2}
.mark{display:inline-block;width:.75em;height:.75em;border-radius:2px;background:currentColor;margin-right:.4em}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;margin:.3rem 0}
th{font-weight:600;color:var(--quiet);font-size:.85rem}
td,th{padding:.15rem .9rem .15rem 0;vertical-align:top;border-bottom:1px solid var(--line)}
.number{text-align:right;white-space:nowrap}.word{text-align:left;max-width:34rem;overflow-wrap:anywhere}
details{margin:.4rem 0}summary{cursor:pointer;color:var(--quiet)}
pre{overflow-x:auto;font-size:.8rem;background:var(--card);border:1px solid var(--line);padding:.6rem;
border-radius:6px;max-height:40rem}
@media print{figure{break-inside:avoid}}
"""
