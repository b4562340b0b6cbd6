"""A wheel built once, installed on another node: no checkout, no compiler."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from test_install import sources

CLIPS = ["--num_train", "16", "--num_val", "4", "--num_test", "4", "--num_galleries", "1"]
SET = ["--out", "set", *CLIPS, "--size", "32", "--seconds", "1"]
CONFIG = {"train_micro_batch_size_per_gpu": 4, "zero_optimization": {"stage": 1}}
OPTIONS = [
    *("--deepspeed_config", "ds.json", "--recipe", "recipes/small/stoa.yaml", "--data.manifest", "set/manifest.jsonl"),
    *("--training.output_dir", "run", "--model.backbone.name", "stoa-tiny", "--model.fusion.layers", "2"),
    *("--model.num_frames", "3", "--training.max_steps", "2", "--training.optim.warmup_steps", "1"),
    *("--data.num_workers", "0"),
]


def ended(command: list[str | Path], cwd: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    given = {name: value for name, value in os.environ.items() if not name.startswith(("STOA_", "PYTHONPATH"))}
    words = [str(part) for part in command]
    return subprocess.run(words, cwd=cwd, env=given | environment, capture_output=True, text=True)


def run(command: list[str | Path], cwd: Path, **environment: str) -> str:
    result = ended(command, cwd, environment)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout


def no_cuda(folder: Path) -> str:
    """A toolkit of another CUDA, which the build passes over: to compile for GPUs takes minutes."""
    for path in ("bin", "include"):
        (folder / path).mkdir(parents=True)
    (folder / "include" / "cuda_runtime.h").touch()
    (folder / "bin" / "nvcc").write_text("#!/bin/sh\necho release 1.0, V1.0\n")
    (folder / "bin" / "nvcc").chmod(0o755)
    return str(folder)


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.timeout(2400)
def test_a_wheel_trains_on_another_node(repo_root: Path, tmp_path: Path) -> None:
    checkout = sources(repo_root, tmp_path / "checkout")
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, checkout]
    run(build, tmp_path, STOA_FORCE_EXT="1", CUDA_HOME=no_cuda(tmp_path / "toolkit"))
    shutil.rmtree(checkout)

    # torch and the rest, gigabytes, are those of this environment, whose .pth files (an editable stoa) are not read.
    node = tmp_path / "node"
    venv.create(node, with_pip=True)
    python = node / "bin" / "python"
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(node), "platbase": str(node)}))
    (packages / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
    run([python, "-m", "pip", "uninstall", "-y", "setuptools"], tmp_path)  # older than what torch asks for
    run([python, "-m", "pip", "install", "--no-index", next(tmp_path.glob("stoa-*.whl"))], tmp_path)

    # DeepSpeed brings it; what it compiles without a GPU was compiled before (TORCH_EXTENSIONS_DIR).
    (node / "bin" / "ninja").symlink_to(str(shutil.which("ninja")))
    work = tmp_path / "work"
    work.mkdir()
    (work / "ds.json").write_text(json.dumps(CONFIG))
    without = {"PATH": str(node / "bin"), "OMP_NUM_THREADS": "1"}  # a compiler
    of = "import torch, stoa, stoa._C; print(stoa.__file__, stoa._C.__file__)"
    assert all(Path(file).is_relative_to(packages) for file in run([python, "-c", of], work, **without).split())
    run([node / "bin" / "stoa", "synth", *SET], work, **without)
    torchrun = [python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    said = run([*torchrun, "-m", "stoa.cli", "train", *OPTIONS], work, **without)
    assert "2 process(es)" in said
    assert (work / "run" / "checkpoints" / "step-00000002" / "model.safetensors").is_file(), said
    told = json.loads(ended([node / "bin" / "stoa", "doctor", "--json"], work, without).stdout)
    (operators,) = (one for one in told["findings"] if one["name"] == "operators")
    assert operators["verdict"] == "good" and "7 compiled for CPU" in operators["said"], operators
