"""Manifests by the schemas of Kubernetes and the models of Kubeflow's trainer, and node.sh under what they set."""

import os
import subprocess
from pathlib import Path

import pytest
import yaml

FOLDER = Path(__file__).parent.parent.parent / "cluster" / "kubernetes"
TRAIN_JOBS = sorted(FOLDER.glob("trainjob*.yaml"))


@pytest.mark.parametrize("path", [FOLDER / "job.yaml"], ids=lambda path: path.name)
def test_built_in_kinds_are_valid(path):
    import kubernetes_validate

    for manifest in yaml.safe_load_all(path.read_text()):
        kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("path", TRAIN_JOBS, ids=lambda path: path.name)
def test_train_jobs_lose_nothing_in_the_published_models(path):
    """The models ignore what they do not know, so that a misspelt key is one that is gone."""
    from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob

    manifest = yaml.safe_load(path.read_text())
    job = TrainerV1alpha1TrainJob.from_dict(manifest)
    assert job.to_dict() == manifest


def printed(**variables):
    clean = {
        k: v for k, v in os.environ.items() if not k.startswith(("PET_", "NNODES", "NODE_RANK", "MASTER_", "SLURM"))
    }
    done = subprocess.run(
        [FOLDER.parent / "node.sh", "--deepspeed_config", "x.json"],
        env=clean | variables | {"STOA_DRY_RUN": "1"},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout + done.stderr


def test_kubeflow_s_variables():
    variables = {"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "stoa-node-0-0.stoa", "MASTER_PORT": "29400"}
    code, said = printed(**{f"PET_{name}": value for name, value in variables.items()}, PET_NPROC_PER_NODE="8")
    assert code == 0
    assert "--nnodes 2 --node-rank 1 --nproc-per-node 8 --master-addr stoa-node-0-0.stoa --master-port 29400" in said
    assert said.rstrip().endswith("-- train.py --deepspeed_config x.json")


def test_an_indexed_job_s_variables():
    (job,) = (m for m in yaml.safe_load_all((FOLDER / "job.yaml").read_text()) if m["kind"] == "Job")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    given = {entry["name"]: entry["value"] for entry in container["env"]}
    assert given["NNODES"] == str(job["spec"]["completions"]) == str(job["spec"]["parallelism"])
    code, said = printed(**given, JOB_COMPLETION_INDEX="1")
    assert code == 0 and "--nnodes 2 --node-rank 1 " in said and "--master-addr stoa-0.stoa" in said


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"PET_NNODES": "2", "PET_NODE_RANK": "0"}, "MASTER_ADDR is not set"),
        ({"PET_NNODES": "2", "PET_MASTER_ADDR": "a"}, "NODE_RANK is not set"),
        ({"NNODES": "two"}, "NNODES is 'two'; expected a number of nodes"),
        ({"NNODES": "2", "NODE_RANK": "2", "MASTER_ADDR": "a"}, "NODE_RANK is '2'; expected 0 to 1"),
    ],
)
def test_variables_that_are_missing_or_wrong_are_one_line(variables, message):
    code, said = printed(**variables)
    assert code == 2 and message in said and len(said.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [("node01", "line 2: node01"), ("node01 slots=many", "line 2"), ("node01 gpus=8", "expected NAME slots=NUMBER")],
)
def test_a_wrong_hostfile_is_one_line(tmp_path, line, message):
    (tmp_path / "hosts").write_text(f"# mine\n{line}\n")
    done = subprocess.run([FOLDER.parent / "hostfile_launch.sh", tmp_path / "hosts"], capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1
    assert message.replace("line 2: ", "") in done.stderr and "line 2" in done.stderr


def test_a_hostfile_s_dry_run():
    done = subprocess.run(
        [FOLDER.parent / "hostfile_launch.sh", FOLDER.parent / "hostfile.example", "--deepspeed_config", "x.json"],
        env=os.environ | {"STOA_DRY_RUN": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert "node01 slots=8" in done.stdout and "deepspeed --hostfile" in done.stdout
