"""A directive that runs a script and shows it with what it prints.

```{example} examples/operators.py
```
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "docs" / "examples").glob("*.py"))
SECONDS = 1800  # for what hangs: a busy machine may take minutes

_started: dict[Path, Future[str]] = {}


def run(script: Path) -> str:
    """What a script prints.

    Raises:
        RuntimeError: it fails, or warns; the message has its last words.
    """
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    done = subprocess.run(
        [sys.executable, script], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=SECONDS
    )
    if done.returncode or "Warning" in done.stderr:
        raise RuntimeError(f"{script} ends with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


class Example(SphinxDirective):
    """The script, and below it what it prints now."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        relative, absolute = self.env.relfn2path(self.arguments[0])
        self.env.note_dependency(relative)
        script = Path(absolute)
        try:
            printed = _started[script].result()
        except (KeyError, RuntimeError, subprocess.TimeoutExpired) as error:
            raise self.error(f"{type(error).__name__}: {error}") from None
        code = nodes.literal_block("", script.read_text(), language="python")
        return [code, nodes.paragraph("", "prints"), nodes.literal_block("", printed, language="none")]


def start(app: Sphinx) -> None:
    """Run all of them, two at a time, while the pages are read."""
    pool = ThreadPoolExecutor(2)
    _started.update((script, pool.submit(run, script)) for script in SCRIPTS)


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("example", Example)
    app.connect("builder-inited", start)
    return {"parallel_read_safe": False}
