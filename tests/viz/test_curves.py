"""Pictures hold what they promise; mistakes are one line."""

import json
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from PIL import Image

from stoa.cli import main
from stoa.viz.curves import draw_curves


def width(picture: Path) -> int:
    with Image.open(picture) as image:
        return image.size[0]


def test_curves(tmp_path, capsys):
    records = [{"step": s, "loss": 1 / s, **({"late": s} if s > 3 else {})} for s in range(1, 9)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    draw_curves([tmp_path], [["loss", "late"], ["loss"]], tmp_path / "c.png", smooth=3)
    assert width(tmp_path / "c.png") > 900
    with pytest.raises(ValueError, match="no metric 'los'; there are late, loss"):
        draw_curves([tmp_path], [["los"]], tmp_path / "c.png")
    with pytest.raises(ValueError, match="holds no metrics; pass the output_dir of a run"):
        draw_curves([tmp_path / "empty"], [["loss"]], tmp_path / "c.png")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
    draw_curves([tmp_path, tmp_path / "other"], [["loss", "late"]], tmp_path / "two.png")
    assert (tmp_path / "two.png").is_file()
    assert main(["curves", "--run", str(tmp_path), "--metrics", '["loss,late"]']) == 0
    assert (tmp_path / "curves.png").is_file()


def test_curves_of_several_runs_have_a_line_each(tmp_path, monkeypatch):
    labels = []
    plot = Axes.plot
    monkeypatch.setattr(Axes, "plot", lambda *args, **rest: labels.append(rest["label"]) or plot(*args, **rest))
    for name, slope in (("one", 1), ("two", 2)):
        (tmp_path / name).mkdir()
        rows = [json.dumps({"step": step, "loss": slope * step}) for step in (1, 2)]
        (tmp_path / name / "metrics.jsonl").write_text("\n".join(rows) + "\n")
    runs = [argument for name in ("one", "two") for argument in ("--run", str(tmp_path / name))]
    assert main(["curves", *runs, "--out", str(tmp_path / "both.png")]) == 0
    assert labels == ["one: loss", "two: loss"]
    assert (tmp_path / "both.png").is_file()
