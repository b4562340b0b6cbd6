"""What is made of the steps between two reports, without a training."""

import json
from types import SimpleNamespace

import pytest
import torch

from stoa.data.ledger import Ledger, Replacements
from stoa.training.console import Console
from stoa.training.metrics import MetricsLog, read_metrics
from stoa.training.reports import Reports, StepRecord, TooManyBadClips

NAMES = ["loss", "grad_norm"]


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
        made.add(StepRecord(step, NAMES, torch.tensor([loss, norm]), torch.tensor(False), 0.1, 0.0, 0, 0))


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


def test_more_bad_clips_than_are_borne_with_are_an_end(tmp_path):
    """A share of what has been read, of 200 clips at least; who they are is said."""
    ledger = Ledger(tmp_path / "ledger.jsonl")
    made = reports(tmp_path, fp16=False)
    made._replacements, made._max_bad_share = Replacements(ledger.path), 0.1

    def step(number: int, bad: int) -> None:
        for _ in range(bad):
            ledger.record("replaced", "clip9", "no video", kind="unreadable", path="/v/9.mp4")
        made.add(
            StepRecord(number, ["loss", "grad_norm"], torch.tensor([1.0, 0.5]), torch.tensor(False), 0.1, 0.0, bad, 0)
        )
        made.report()

    for number in range(1, 6):
        step(number, 4)  # 20 of 40
    with pytest.raises(TooManyBadClips) as caught:
        step(6, 1)
    said = str(caught.value)
    assert said.startswith(
        "21 of 48 clips read could not be used, which data.max_bad_share 0.1 does not allow (1 unread"
    )
    assert "the worst: clip 'clip9' (21 times) /v/9.mp4: no video; all in " in said
    made.close()
    made = reports(tmp_path, fp16=False)
    made._max_bad_share = 0.1
    for number in range(100, 200):
        made.add(
            StepRecord(number, ["loss", "grad_norm"], torch.tensor([1.0, 0.5]), torch.tensor(False), 0.1, 0.0, 0, 0)
        )
    made.add(StepRecord(200, ["loss", "grad_norm"], torch.tensor([1.0, 0.5]), torch.tensor(False), 0.1, 0.0, 60, 0))
    made.report()  # 60 of 808
    made.close()
