"""The page as HTML. Whatever it shows of files and requests is escaped."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from stoa.search.query import Searcher
from stoa.serve.desk import Desk
from stoa.serve.limits import Limits
from stoa.serve.words import Results

_FOLDER = Path(__file__).resolve().parent
_KINDS = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_EXAMPLES = ("a red square moves left", "a green star spins clockwise", "two shapes move apart")


class Page:
    """See the module.

    Args:
        searcher: whose index is shown.
        desk: what the model can do.
        small: whether the model is the one that comes with the package.
        limits: that the page tells of.
    """

    def __init__(self, searcher: Searcher, desk: Desk, small: bool, limits: Limits) -> None:
        environment = Environment(
            loader=FileSystemLoader(_FOLDER / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.globals |= {
            "folder": searcher.index.sources.videos.name,
            "small": small,
            "examples": _EXAMPLES if small else (),
            "speaks": desk.speaks,
            "answers": desk.answers,
            "knows_questions": desk.knows_questions,
            "limits": limits,
        }
        self._searcher = searcher
        self._whole, self._hits = (environment.get_template(name) for name in ("page.html", "hits.html"))

    def whole(self, query: str, results: Results | None, problem: str = "") -> str:
        """The page.

        Args:
            query: that was asked; empty for none.
            results: of it.
            problem: why there are none.
        """
        counts = {"videos": len(self._searcher.files), "windows": len(self._searcher.vectors.files_W)}
        return self._whole.render(counts, query=query, results=results, problem=problem)

    def hits(self, results: Results) -> str:
        """What of the page shows hits."""
        return self._hits.render(results=results)


def static_files() -> dict[str, tuple[bytes, str]]:
    """Content and type of the files that the page refers to, by name."""
    files = (_FOLDER / "static").iterdir()
    return {path.name: (path.read_bytes(), _KINDS[path.suffix]) for path in files if path.suffix in _KINDS}
