"""What the documents name exists."""

import re

import pytest
from launch import ROOT

FOUND = (path for pattern in ("*.md", "docs/*.md", "cluster/*.md") for path in ROOT.glob(pattern))
DOCUMENTS = sorted(path.relative_to(ROOT).as_posix() for path in FOUND)
NAMED = re.compile(r"`((?:(?:tests|stoa|benchmarks|recipes|ds_configs|cluster|docs|constraints)/)?[\w/.-]+\.\w{2,6})`")
FOLDERS = ("", "tests/resilience/")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_and_targets(document):
    text = (ROOT / document).read_text()
    places = ("tests/", "stoa/", "benchmarks/", "recipes/", "ds_configs/", "cluster/", "constraints/")
    files = [
        name
        for name in NAMED.findall(text)
        if name.startswith(places) or (name.startswith("test_") and name.endswith(".py"))
    ]
    assert [name for name in files if not any((ROOT / folder / name).exists() for folder in FOLDERS)] == []
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
    assert [link for link in links if not (ROOT / document).parent.joinpath(link).exists()] == []
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([\w-]+)", text)) <= targets


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_into_documents(document):
    """Lead to headings that are there."""
    for link, heading in re.findall(r"\]\(([^)#:]*)#([^)]*)\)", (ROOT / document).read_text()):
        target = (ROOT / document).parent / link if link else ROOT / document
        headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
        assert heading in [re.sub(r"[^\w -]", "", name.lower()).replace(" ", "-") for name in headings]
