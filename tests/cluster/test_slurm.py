"""cluster/slurm.sbatch under a real Slurm: a controller and two nodes on this machine, training over gloo."""

import json
import os
import tempfile
import time
from pathlib import Path

import psutil
import pytest
import torch
from data_sets import built_once
from launch import free_port
from safetensors.torch import load_file
from slurm_cluster import HOW, MISSING, SlurmCluster

from stoa.synthetic import SynthConfig
from stoa.training.metrics import read_metrics

ROOT = Path(__file__).parent.parent.parent
STEPS = 30
pytestmark = [
    pytest.mark.slow,
    pytest.mark.dist,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)} not installed: {HOW}"),
    pytest.mark.skipif(os.geteuid() != 0, reason="slurmd wants to be root"),
]


@pytest.fixture(scope="module")
def cluster():
    with tempfile.TemporaryDirectory(prefix="slurm", dir="/tmp") as folder:  # sockets have short names
        Path(folder).chmod(0o755)
        with SlurmCluster(Path(folder)) as up:
            yield up


@pytest.fixture(scope="module")
def data_set(tmp_path_factory):
    config = SynthConfig(num_train=48, num_val=8, num_test=8, num_galleries=2, size=32, seconds=1.0)
    return built_once(tmp_path_factory, "of_training", config)


def submit(cluster, data_set, folder, *arguments, steps=STEPS, options=(), **variables):
    """A training on two nodes of one process each, through the batch script; number of the job."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"train_micro_batch_size_per_gpu": 4, "gradient_clipping": 1.0, "zero_optimization": {"stage": 1}}
    (folder / "ds.json").write_text(json.dumps(config))
    return cluster.submit(
        *("--chdir", str(ROOT), "--nodes=2", "--gpus-per-node=0", "--cpus-per-task=1", "--time=60"),
        *("--output", str(folder / "job.out"), *options, "cluster/slurm.sbatch"),
        *("--deepspeed_config", str(folder / "ds.json"), "--recipe", "tests/recipe.yaml"),
        *("--data.manifest", str(data_set / "manifest.jsonl"), "--training.output_dir", str(folder / "run")),
        *("--model.backbone.name", "stoa-tiny", "--model.fusion.layers", "2", "--model.num_frames", "3"),
        *("--training.max_steps", str(steps), "--training.save_every", "5", "--training.log_every", "1"),
        *("--training.optim.warmup_steps", "2", "--training.tensorboard", "false", "--data.num_workers", "0"),
        *arguments,
        NPROC_PER_NODE="1",
        MASTER_ADDR="127.0.0.1",  # nobody resolves the names of these nodes
        MASTER_PORT=str(free_port()),
        OMP_NUM_THREADS="1",
        **variables,
    )


def ended(cluster, job, seconds=240):
    cluster.wait_for(lambda: cluster.state(job) in ("COMPLETED", "FAILED", "CANCELLED"), f"end of job {job}", seconds)
    return cluster.state(job)


def of_job(job):
    """Processes that Slurm has started for a job."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("SLURM_JOB_ID") == job:
                found.append(process)
        except psutil.Error:
            continue
    return found


def nobody_is_left(cluster, job):
    cluster.wait_for(lambda: not of_job(job), f"end of all processes of job {job}", 60)


@pytest.fixture(scope="module")
def undisturbed(cluster, data_set, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    job = submit(cluster, data_set, folder)
    assert ended(cluster, job) == "COMPLETED", (folder / "job.out").read_text()[-3000:]
    assert "2 process(es)" in (folder / "job.out").read_text()
    return folder


def same(folder, other):
    last = f"run/checkpoints/step-{STEPS:08d}/model.safetensors"
    weights, others = load_file(folder / last), load_file(other / last)
    assert all(torch.equal(weights[name], others[name]) for name in weights | others)
    records = [read_metrics(each / "run" / "metrics.jsonl") for each in (folder, other)]
    assert [[r["step"], r["loss"]] for r in records[0]] == [[r["step"], r["loss"]] for r in records[1]]


def test_a_killed_node_s_job_is_requeued_and_ends_with_the_same_bits(cluster, data_set, tmp_path, undisturbed):
    job = submit(cluster, data_set, tmp_path)
    cluster.wait_for((tmp_path / "run/checkpoints/step-00000010").is_dir, "checkpoint of step 10")
    cluster.kill_node("n2")
    cluster.wait_for(lambda: cluster.state(job) in ("PENDING", "CONFIGURING"), f"requeue of job {job}")
    nobody_is_left(cluster, job)
    cluster.start("n2")
    assert ended(cluster, job) == "COMPLETED", (tmp_path / "job.out").read_text()[-3000:]
    assert "resuming from" in (tmp_path / "job.out").read_text()
    same(tmp_path, undisturbed)


def test_a_rank_that_fails_ends_all(cluster, data_set, tmp_path):
    job = submit(cluster, data_set, tmp_path, steps=100_000)
    cluster.wait_for(lambda: any((tmp_path / "run/checkpoints").glob("step-????????")), "checkpoint")
    (victim,) = (p for p in of_job(job) if p.environ().get("RANK") == "1" and "train.py" in " ".join(p.cmdline()))
    victim.kill()
    begun = time.monotonic()
    assert ended(cluster, job, 60) == "FAILED"
    nobody_is_left(cluster, job)
    assert time.monotonic() - begun < 60


def test_ahead_of_its_time_limit_a_job_saves_and_is_requeued(cluster, data_set, tmp_path):
    """Slurm's limits are of whole minutes; the signal is asked for so early that it comes in the first."""
    options, rarely = ("--time=1", "--signal=USR2@40"), ("--training.save_every", "100000")
    job = submit(cluster, data_set, tmp_path, *rarely, steps=100_000, options=options)
    out = tmp_path / "job.out"
    cluster.wait_for(lambda: out.exists() and "interrupted, saved at step" in out.read_text(), "save", 120)
    cluster.wait_for(lambda: cluster.state(job) == "PENDING", f"requeue of job {job}")
    cluster.update(job, "TimeLimit=60")  # or the signal comes while it starts
    cluster.wait_for(lambda: "resuming from" in out.read_text(), "second start", 240)
    cluster.cancel(job)
    nobody_is_left(cluster, job)


def test_a_dry_run_prints_what_nodes_would_run(cluster, data_set, tmp_path):
    job = submit(cluster, data_set, tmp_path, STOA_DRY_RUN="1")
    assert ended(cluster, job) == "COMPLETED"
    said = (tmp_path / "job.out").read_text()
    assert all(f"--node-rank {rank} --nproc-per-node 1" in said for rank in (0, 1))
    assert not (tmp_path / "run").exists()
