"""The tables of measured figures, made of benchmarks/results.

python docs/tables.py            writes them into the documents, between `<!-- table: NAME -->` and `<!-- end -->`
python docs/tables.py --check    ends with status 1 where a document has others
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
RESULTS = DOCS.parent / "benchmarks" / "results"
_REGION = re.compile(r"(?P<begin><!-- table: (?P<name>[\w-]+) -->\n\n)(?P<table>.*?)(?P<end>\n<!-- end -->)", re.DOTALL)


def operators() -> str:
    rows = [
        (
            row["operator"] if " " in row["operator"] else f"`{row['operator']}`",
            row["sizes"],
            row["against"],
            f"{row['ratio']:.1f}",
            f"{row['lowest']:.1f} to {row['highest']:.1f}",
            _target(row["ratio"], row["target"]),
        )
        for row in _read("cpu")["rows"]
    ]
    return _table(("operator", "sizes", "against", "times faster", "lowest to highest", "target"), rows)


def formulations() -> str:
    measured = _read("formulations-cpu")["forward + backward"]
    told = {
        "released": ("as the method's release has it: 34 text passes, PLM word by word, dense trajectories", 2.5),
        "clean": ("as one would write it in PyTorch: SDPA, PLM in one pass, torchvision's RoIAlign", 1.15),
    }
    rows = [
        (
            text,
            f"{(one := measured[name])['ratio']:.2f}",
            f"{one['lowest']:.2f} to {one['highest']:.2f}",
            _target(one["ratio"], least),
        )
        for name, (text, least) in told.items()
    ]
    return _table(("", "times as long as ours", "lowest to highest", "target"), rows)


def graph() -> str:
    found = _read("graph-cpu")
    ratios = {
        int(
            re.findall(r"T=(\d+)", row["sizes"])[0]
        ): f"{row['ratio']:.1f} ({row['lowest']:.1f} to {row['highest']:.1f})"
        for row in found["rows"]
        if row["against"] == "all pairs"
    }
    peaks = found["peak MiB"]
    band, pairs = (dict(zip(peaks["frames"], peaks[name], strict=True)) for name in ("band", "all_pairs"))
    frames = sorted({*ratios, *band})
    lines = [
        ("attention and similarities of all pairs, over those of the band", ratios),
        ("peak memory of the band", {count: f"{mib:,.0f} MiB" for count, mib in band.items()}),
        ("of all pairs", {count: f"{mib:,.0f} MiB" for count, mib in pairs.items()}),
    ]
    return _table(
        ("", *(f"{count} frames" for count in frames)),
        [(text, *(values.get(count, "") for count in frames)) for text, values in lines],
    )


def data() -> str:
    sets = [_read("data_real"), _read("data")]
    rate = "rate over that of the original files"
    loader = "time of the whole loader over the bare loop"
    bare = "time of the whole loader over a bare loop (read, decode, resize), frame packs"
    lines = [
        ("frame packs, clips/s over that of the original files, whole loader", f"{rate}, frames store", 1),
        ("re-encoded video, the same", f"{rate}, video store", 1),
        (bare, f"{loader}, frames store", 2),
        ("the same, re-encoded video", f"{loader}, video store", 2),
    ]
    rows = [(text, *(_spread(one[key], digits) for one in sets)) for text, key, digits in lines]
    stored = [
        ", ".join(f"{one[f'kB a clip, {kind}']:,}" for kind in ("original files", "frames", "video")) for one in sets
    ]
    return _table(("", "real", "made"), [*rows, ("kB a clip: original, frame packs, video", *stored)])


def downstream() -> str:
    found = _read("downstream")
    said, ranked = found["captions"], found["re-ranking"]
    rows = [
        (
            f"captions of ViT-B/16 `stoa`, {said['tokens']} tokens, {said['beams']} beams, {said['clips']} clips at "
            "once: without cached keys and values, over with",
            f"{_spread(said['times as long without'], 1)}, {'same' if said['same captions'] else 'other'} captions",
        ),
        (
            f"re-ranking {ranked['candidates']} candidates for each of {ranked['queries']:,} captions, model of the "
            "demo: in all, over the bare fusion forward",
            _spread(ranked["times as long in all"], 2),
        ),
    ]
    return _table(("", ""), rows)


def memory() -> str:
    rows = [
        (
            f"`{case['recipe']}`",
            case["stage"],
            case["recomputed"].strip("[]").replace(",", ", ") or "nothing",
            case["clips"],
            case["world"],
            f"{case['planned'] / 2**30:.2f}",
            f"{case['measured'] / 2**30:.2f}",
            f"{case['planned over measured']:.3f}",
        )
        for case in _read("plan-memory-cpu")["cases"]
    ]
    return _table(("recipe", "ZeRO", "computed again", "clips", "ranks", "planned", "measured", "ratio"), rows)


TABLES: dict[str, Callable[[], str]] = {
    "operators": operators,
    "formulations": formulations,
    "graph": graph,
    "data": data,
    "downstream": downstream,
    "memory": memory,
}


def renewed(text: str, source: str) -> str:
    """A document with its tables made anew.

    Raises:
        ValueError: it marks a table that nothing makes.
    """

    def table(found: re.Match[str]) -> str:
        if found["name"] not in TABLES:
            raise ValueError(f"{source}: table {found['name']!r} is unknown; it is one of {', '.join(TABLES)}")
        return f"{found['begin']}{TABLES[found['name']]()}{found['end']}"

    return _REGION.sub(table, text)


def documents() -> list[Path]:
    """Those with tables."""
    return [path for path in sorted(DOCS.glob("*.md")) if _REGION.search(path.read_text())]


def _read(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text())


def _spread(measured: dict[str, float], digits: int) -> str:
    median, lowest, highest = (f"{measured[name]:.{digits}f}" for name in ("median", "lowest", "highest"))
    return f"{median} ({lowest} to {highest})"


def _target(ratio: float, least: float) -> str:
    return f"{least:g}, {'met' if ratio >= least else 'not met'}"


def _table(head: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    lines = [list(map(str, row)) for row in (head, *rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "".join(
        "|" + "|".join(f" {cell} " if cell not in ("", "---") else cell or " " for cell in row) + "|\n" for row in lines
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    check, status = parser.parse_args().check, 0
    for path in documents():
        text = path.read_text()
        new = renewed(text, path.name)
        if new == text:
            continue
        print(f"{path.name} {'has other tables' if check else 'has new tables'}")
        status = int(check)
        if not check:
            path.write_text(new)
    return status


if __name__ == "__main__":
    sys.exit(main())
