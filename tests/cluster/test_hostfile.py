"""cluster/hostfile_launch.sh on two nodes that reach each other by ssh, training over gloo."""

import json
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import psutil
import pytest
import torch
from data_sets import built_once
from launch import ROOT, finish, start_training
from safetensors.torch import load_file
from ssh_nodes import HOW, MISSING, SshNodes

from stoa.synthetic import SynthConfig
from stoa.training.metrics import read_metrics

pytestmark = [
    pytest.mark.slow,
    pytest.mark.dist,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)} not installed: {HOW}"),
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces and sshd want root"),
]


@pytest.fixture(scope="module")
def nodes():
    with tempfile.TemporaryDirectory(prefix="ssh", dir="/tmp") as folder, SshNodes(Path(folder)) as up:
        yield up


@pytest.fixture(scope="module")
def data_set(tmp_path_factory):
    config = SynthConfig(num_train=48, num_val=8, num_test=8, num_galleries=2, size=32, seconds=1.0)
    return built_once(tmp_path_factory, "of_training", config)


class Launch:
    """The script on the first node; ``folder`` has what it says, and the run."""

    def __init__(self, nodes, data_set, folder, *arguments, hosts=None):
        self.out = folder / "out"
        (folder / "hostfile").write_text("".join(f"{host} slots=1\n" for host in hosts or nodes.addresses))
        config = {"train_micro_batch_size_per_gpu": 4, "gradient_clipping": 1.0, "zero_optimization": {"stage": 1}}
        (folder / "ds.json").write_text(json.dumps(config))
        command = nodes.command(
            *("cluster/hostfile_launch.sh", str(folder / "hostfile"), "--deepspeed_config", str(folder / "ds.json")),
            *("--recipe", "tests/recipe.yaml", "--data.manifest", str(data_set / "manifest.jsonl")),
            *("--training.output_dir", str(folder / "run"), "--model.backbone.name", "stoa-tiny"),
            *("--model.fusion.layers", "2", "--model.num_frames", "3", "--training.log_every", "1"),
            *("--training.max_steps", "2", "--training.save_every", "5", "--training.optim.warmup_steps", "2"),
            *("--training.tensorboard", "false", "--data.num_workers", "0", *arguments),
        )
        with open(self.out, "w") as out:
            self.process = subprocess.Popen(
                command, stdout=out, stderr=out, cwd=ROOT, env=os.environ | nodes.environment, start_new_session=True
            )

    @property
    def said(self):
        return self.out.read_text()

    def wait_for(self, text, seconds=400):
        limit = time.monotonic() + seconds
        while text not in self.said:
            assert self.process.poll() is None and time.monotonic() < limit, self.said[-3000:]
            time.sleep(0.2)


def test_both_nodes_train_as_two_processes_of_one_machine_do(nodes, data_set, tmp_path):
    launch = Launch(nodes, data_set, tmp_path)
    assert launch.process.wait(600) == 0, launch.said[-3000:]
    assert "device cpu, 2 process(es)" in launch.said
    nodes.nobody_is_left()
    (tmp_path / "local").mkdir()
    steps = ("--training.max_steps", "2")
    finish(start_training(data_set, tmp_path, tmp_path / "local" / "run", *steps, processes=2))
    losses = [
        [one["loss"] for one in read_metrics(at / "run" / "metrics.jsonl")] for at in (tmp_path, tmp_path / "local")
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 2
    last = "run/checkpoints/step-00000002/model.safetensors"
    weights, others = load_file(tmp_path / last), load_file(tmp_path / "local" / last)
    assert all(torch.equal(weights[name], others[name]) for name in weights | others)


def of_rank(nodes, rank):
    found = []
    for process in nodes.trainings():
        try:
            if process.environ().get("RANK") == rank and "train.py" in process.cmdline():
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.parametrize("failure", ["SIGTERM", "SIGKILL", "rank"])
def test_nothing_is_left_when_the_launcher_or_a_rank_is_killed(nodes, data_set, tmp_path, failure):
    launch = Launch(nodes, data_set, tmp_path, "--training.max_steps", "100000", "--training.save_every", "50000")
    launch.wait_for("step 3/")
    if failure == "rank":
        (victim,) = of_rank(nodes, "1")
        victim.kill()
    else:
        launch.process.send_signal(getattr(signal, failure))
    assert launch.process.wait(60) != 0
    nodes.nobody_is_left(60)
    if failure == "SIGTERM":
        assert any((tmp_path / "run/checkpoints").glob("step-*")), launch.said[-3000:]


@pytest.mark.parametrize("wrong", ["silent", "refusing", "unknown"])
def test_a_wrong_hostfile_is_told_by_its_host(nodes, data_set, tmp_path, wrong):
    first = nodes.addresses[0]
    host = {"silent": nodes.nobody, "refusing": f"nobody@{nodes.addresses[1]}", "unknown": "no-such-node"}[wrong]
    begun = time.monotonic()
    launch = Launch(nodes, data_set, tmp_path, hosts=[first, host])
    assert launch.process.wait(60) == 2
    assert time.monotonic() - begun < 60
    (line,) = launch.said.splitlines()
    assert line.startswith("cluster/hostfile_launch.sh: ") and host in line and first not in line
    nodes.nobody_is_left(5)
