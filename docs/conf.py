"""Sphinx: `make docs`. The sources are the Markdown files of the repository, where they stand."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

import stoa  # noqa: E402

project, author = "stoa", "the authors of stoa"
release = stoa.__version__
root_doc = "docs/index"
include_patterns = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "cluster/README.md", "docs/*.md"]
# Nothing else is looked through: the environment and the data have many files.
exclude_patterns = [path.name for path in ROOT.iterdir() if path.is_dir() and path.name not in ("cluster", "docs")]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "gallery", "reading"]
myst_heading_anchors = 3
default_role = "code"
highlight_language = "none"

html_theme = "furo"
html_title = "stoa"
html_show_copyright = False
html_copy_source = html_show_sourcelink = False
html_additional_pages = {"index": "redirect.html"}
templates_path = ["templates"]
html_static_path = ["static"]
html_css_files = ["site.css"]

autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_custom_sections = ["Source"]
nitpick_ignore_regex = [("py:obj", r"typing\.Literal\[.*")]
