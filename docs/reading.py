"""How Sphinx reads what is written for GitHub and for Python."""

from __future__ import annotations

import pydoc
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import make_refnode

_SEVERAL = re.compile(r"(?P<indent> +)(?P<names>\w+(?:, \w+)+): (?P<text>.*)")
_RESULT = re.compile(r"    (?P<name>\w+): (?P<text>.*)")


def one_name_a_line(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """``k, v: (B, S, D)`` describes two arguments, which Napoleon takes for one with a type."""
    out: list[str] = []
    while lines:
        found = _SEVERAL.fullmatch(line := lines.pop(0))
        if found is None:
            out.append(line)
            continue
        more = []
        while lines and lines[0].startswith(f"{found['indent']} "):
            more.append(lines.pop(0))
        for one in found["names"].split(", "):
            out += [f"{found['indent']}{one}: {found['text']}", *more]
    lines[:] = out


def results_are_a_list(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Several named results, of which Napoleon would make one paragraph."""
    if "Returns:" not in lines:
        return
    first = lines.index("Returns:") + 1
    end = next((n for n in range(first, len(lines)) if lines[n] and not lines[n].startswith(" ")), len(lines))
    if sum(_RESULT.fullmatch(line) is not None for line in lines[first:end]) > 1:
        lines[first:end] = [
            _RESULT.sub(r"    * ``\g<name>``: \g<text>", line) if _RESULT.fullmatch(line) else f"  {line}".rstrip()
            for line in lines[first:end]
        ]


def names_without_their_module(
    app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, content: nodes.TextElement
) -> nodes.Node | None:
    """Docstrings name what their module imports. What has no entry in the site is text, if there is such a thing."""
    if node.get("refdomain") != "py":
        return None
    target, module = node["reftarget"], node.get("py:module") or ""
    known = env.domains.python_domain.objects
    fitting = [name for name in known if name.endswith(f".{target}")]
    if len(fitting) == 1:
        entry = known[fitting[0]]
        return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, content)
    return content if any(pydoc.locate(name) for name in (target, f"{module}.{target}")) else None


def pages_without_a_place(app: Sphinx, docname: str, source: list[str]) -> None:
    """The star of the index stands for the pages that it does not name."""
    if docname == app.config.root_doc:
        named = {*source[0].splitlines(), Path(docname).name}
        others = sorted({page.stem for page in Path(__file__).parent.glob("*.md")} - named)
        source[0] = source[0].replace("\n*\n", "".join(f"\n{page}" for page in others) + "\n")


def folders_are_text(app: Sphinx, doctree: nodes.document) -> None:
    """A folder of the repository is no page: links to one that is there become text."""
    here = Path(app.env.doc2path(app.env.docname)).parent
    for link in list(doctree.findall(addnodes.pending_xref)):
        if link.get("reftype") == "myst" and (here / link["reftarget"]).is_dir():
            link.replace_self(link.children)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", one_name_a_line, priority=100)  # Napoleon has 500
    app.connect("autodoc-process-docstring", results_are_a_list, priority=100)
    app.connect("source-read", pages_without_a_place)
    app.connect("doctree-read", folders_are_text)
    app.connect("missing-reference", names_without_their_module)
    return {"parallel_read_safe": True}
