"""What is made of the steps between two reports, without a training."""

import json
from types import SimpleNamespace

import pytest
import torch

from stoa.training.console import Console
from stoa.training.metrics import MetricsLog, read_metrics
from stoa.training.reports import Reports, StepRecord


def reports(folder, *, fp16: bool, skipped: int = 0, peak_tflops: float | None = None, **policy) -> Reports:
    engine = SimpleNamespace(fp16_enabled=lambda: fp16, gradient_clipping=lambda: 1.0, skipped_steps=0)
    made = Reports(
        engine,
        max_steps=9,
        samples=8,
        tflop=0.5,
        peak_tflops=peak_tflops,
        device=torch.device("cpu"),
        checkpoints=folder / "checkpoints",
        console=Console(enabled=False),
        log=MetricsLog(folder, last_step=0, tensorboard=False),
        replacements=None,
        **policy,
    )
    engine.skipped_steps = skipped
    return made


def add(made: Reports, *norms: float, loss: float = 1.0) -> None:
    for step, norm in enumerate(norms, start=1):
        made.add(
            StepRecord(step, ["loss", "grad_norm"], torch.tensor([loss, norm]), torch.tensor(False), 0.1, 0.0, 0, 0)
        )


@pytest.mark.parametrize("peak", [None, 125.0])
def test_the_speed_is_of_all_steps_of_a_window(tmp_path, peak):
    made = reports(tmp_path, fp16=False, peak_tflops=peak)
    add(made, 0.5, 0.5)
    made.report()
    made.close()
    for record in read_metrics(tmp_path / "metrics.jsonl"):
        assert record["tflops"] == pytest.approx(0.5 / record["step_seconds"])
        assert record.get("mfu(%)") == (peak and pytest.approx(100 * record["tflops"] / peak))


def test_skipped_steps_of_half_precision_have_no_norm_and_the_log_is_json(tmp_path):
    made = reports(tmp_path, fp16=True, skipped=1)
    add(made, 0.5, torch.inf, 2.0, 3.0)
    made.report()
    made.close()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line, parse_constant=lambda name: pytest.fail(name)) for line in lines]
    assert [record.get("grad_norm") for record in records] == [0.5, None, 2.0, 3.0]
    assert all(record["clipped_share"] == pytest.approx(2 / 3) for record in records)


@pytest.mark.parametrize(
    ("norms", "loss", "message"),
    [
        ((1.0, torch.inf, 1.0), 1.0, "grad_norm of step 2 is inf"),
        ((1.0, 1.0), torch.nan, "loss of step 1 is nan"),
    ],
)
def test_what_is_not_finite_ends_a_run_and_is_in_its_log(tmp_path, norms, loss, message):
    made = reports(tmp_path, fp16=False)
    add(made, *norms, loss=loss)
    with pytest.raises(FloatingPointError, match=message):
        made.report()
    made.close()
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == len(norms)


def test_steps_that_are_not_finite_are_left_out_up_to_a_limit(tmp_path, capsys):
    made = reports(tmp_path, fp16=False, skip_nonfinite=2)
    add(made, 1.0, torch.inf, 1.0, torch.inf)
    made.report()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line, parse_constant=lambda name: pytest.fail(name)) for line in lines]
    assert [record.get("left_out") for record in records] == [None, 1.0, None, 1.0]
    assert ["grad_norm" in record for record in records] == [True, False, True, False]
    add(made, 1.0, loss=torch.nan)
    with pytest.raises(FloatingPointError, match="loss of step 1 is nan"):
        made.report()
    made.close()


@pytest.mark.parametrize(("loss", "stands_out"), [(2.9, False), (3.1, True)])
def test_a_loss_that_stands_out_is_told(tmp_path, loss, stands_out):
    made = reports(tmp_path, fp16=False, spike_factor=3.0)
    add(made, *[1.0] * 19)
    made.report()
    add(made, 1.0, loss=50.0)  # too few before it to tell
    add(made, 1.0, loss=loss)
    made.report()
    assert (made.spike is not None) == stands_out
    if stands_out:
        assert str(made.spike) == "loss of step 1 is 3.1, 3.1 times the median of those before"
        made.roll_back(1)
        assert made.spike is None
    made.close()
