"""The metrics log survives kills and resumes."""

import json

import pytest

from stoa.files import StorageError
from stoa.training.console import duration, progress_line
from stoa.training.metrics import MetricsLog, read_metrics


def test_a_resumed_log_has_no_step_twice_and_no_torn_line(tmp_path):
    log = MetricsLog(tmp_path, last_step=0, tensorboard=False)
    for step in range(1, 8):
        log.write(step, {"loss": float(step)})
    log.close()
    with open(log.path, "a") as file:
        file.write('{"step": 8, "lo')
    assert len(read_metrics(log.path)) == 7
    resumed = MetricsLog(tmp_path, last_step=5, tensorboard=False)
    for step in range(6, 9):
        resumed.write(step, {"loss": -float(step)})
    resumed.close()
    assert [r["step"] for r in read_metrics(log.path)] == list(range(1, 9))
    assert [r["loss"] for r in read_metrics(log.path)] == [1, 2, 3, 4, 5, -6, -7, -8]


@pytest.mark.parametrize(
    "damage",
    [
        b"\x00" * 40,
        b"\xff\xfe\xfa",
        b"null",
        b"[1, 2]",
        b'{"loss": 1}',
        b'{"step": "3"}',
        b"{" * 5000,
        b'{"step": 3, "lo',
    ],
)
@pytest.mark.parametrize("at", [0, 2, 4])
def test_a_damaged_line_loses_no_other_record(tmp_path, capsys, damage, at):
    lines = [json.dumps({"step": step, "loss": 1.0}).encode() for step in range(1, 5)]
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"\n".join([*lines[:at], damage, *lines[at:]]) + b"\n")
    assert [record["step"] for record in read_metrics(path)] == [1, 2, 3, 4]
    assert f"{path}: 1 line(s) are no records and are left out (line {at + 1})" in capsys.readouterr().err
    resumed = MetricsLog(tmp_path, last_step=3, tensorboard=False)
    resumed.close()
    capsys.readouterr()
    assert [record["step"] for record in read_metrics(path)] == [1, 2, 3]
    assert capsys.readouterr().err == ""


def test_steps_that_are_done_again_have_a_generation(tmp_path):
    log = MetricsLog(tmp_path, last_step=0, tensorboard=False)
    for generation, steps in ((0, range(1, 6)), (1, range(3, 5)), (2, range(4, 8))):
        if generation:
            log.roll_back(generation)
        for step in steps:
            log.write(step, {"loss": float(generation)})
    log.close()
    records = read_metrics(log.path)
    assert [record["step"] for record in records] == list(range(1, 8))
    assert [record["loss"] for record in records] == [0, 0, 1, 2, 2, 2, 2]
    assert [record.get("generation") for record in records] == [None, None, 1, 2, 2, 2, 2]
    assert len(log.path.read_text().splitlines()) == 11
    resumed = MetricsLog(tmp_path, last_step=6, tensorboard=False, generation=2)
    resumed.write(7, {"loss": 9.0})
    resumed.close()
    assert [record["loss"] for record in read_metrics(log.path)] == [0, 0, 1, 2, 2, 2, 9]


def test_tensorboard_files_are_written(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = MetricsLog(tmp_path, last_step=0, tensorboard=True)
    log.write(1, {"loss": 2.5})
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert events.Scalars("loss")[0].value == 2.5
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 1, "loss": 2.5}


def test_the_progress_line():
    values = {
        "loss": 9.1,
        "vtc": 3.2,
        "plm": 2.0,
        "samples_per_second": 55.12,
        "tflops": 1.2345,
        "data_wait_share": 0.021,
        "eta_seconds": 302,
    }
    line = progress_line(20, 400, values)
    begun = "step 20/400 | loss 9.100 (vtc 3.200 plm 2.000) | 55.1 samples/s | 1.23 TFLOP/s"
    assert line == f"{begun} | data wait 2% | ETA 5m02s"
    assert progress_line(20, 400, values | {"mfu(%)": 41.7}) == f"{begun} (MFU 42%) | data wait 2% | ETA 5m02s"


@pytest.mark.parametrize(
    ("share", "told"), [(0.49, ""), (0.5, " | 50% of steps clipped"), (1, " | 100% of steps clipped")]
)
def test_that_most_steps_are_clipped_is_shown(share, told):
    values = {"loss": 9.1, "samples_per_second": 55, "tflops": 1, "data_wait_share": 0, "eta_seconds": 1}
    values["clipped_share"] = share
    assert progress_line(20, 400, values).partition("ETA 1s")[2] == told


def test_durations():
    assert [duration(s) for s in (0.4, 59.4, 61, 3600, 11240, 187200)] == [
        "0s",
        "59s",
        "1m01s",
        "1h00m",
        "3h07m",
        "2d04h",
    ]


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_a_log_that_is_taken_away_is_told(tmp_path, how):
    log = MetricsLog(tmp_path, last_step=0, tensorboard=False)
    log.write(1, {"loss": 1.0})
    log.flush()
    log.path.unlink()
    if how == "replaced":
        log.path.write_text("")
    log.write(2, {"loss": 1.0})
    with pytest.raises(StorageError, match=r"metrics.jsonl cannot be written: (No such file|Stale file handle)"):
        log.flush()
    log.close()
