"""``stoa doctor``: what it finds, what it ends with, and processes that are not alike."""

import json
import socket
import sys

import pytest
import torch
from launch import ROOT, Program, finish, free_port

from stoa.cli import main
from stoa.doctor import machine
from stoa.doctor.findings import Finding, as_json, lines
from stoa.doctor.machine import look


def found(tmp_path, **changes):
    settings = {"spacy": None, "port": free_port()} | changes
    return {one.name: one for one in look(tmp_path, **settings)}


def test_this_machine(tmp_path, capsys):
    findings = found(tmp_path)
    assert findings["versions"].said.startswith("python 3.")
    assert f"torch {torch.__version__.split('+')[0]}" in findings["versions"].said
    for name in ("decord", "av", "port", "disk", "operators"):
        assert findings[name].verdict == "good", findings[name]
    status = main(["doctor", "--folder", str(tmp_path), "--port", str(free_port()), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert status == (0 if told["good"] else 1)
    assert {one["name"] for one in told["findings"]} > {"versions", "/dev/shm", "open files", "spaCy", "Java"}


def test_what_is_bad_or_missing_is_told_with_its_remedy(tmp_path, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert found(tmp_path, port=port)["port"].verdict == "bad"
        assert "MASTER_PORT" in found(tmp_path, port=port)["port"].remedy
    monkeypatch.setattr(machine, "free_bytes", lambda path: 3 * 2**20)
    assert found(tmp_path)["disk"].said.startswith("3.0 MiB free")
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 64 * 2**20})())
    assert "--shm-size" in found(tmp_path)["/dev/shm"].remedy
    monkeypatch.setattr(machine, "build_info", lambda: {"compiled": False})
    assert found(tmp_path)["operators"].verdict == "bad"
    assert found(tmp_path, spacy="xx_none_sm")["spaCy"].verdict == "missing"
    monkeypatch.setitem(sys.modules, "decord", None)
    assert found(tmp_path)["decord"] == Finding("decord", "bad", "not installed", "install again")


def test_missing_is_no_failure_and_bad_is():
    good, missing, bad = (Finding(v, v, "said", "mend it") for v in ("good", "missing", "bad"))
    assert as_json([good, missing])["good"] is True
    assert as_json([good, bad])["good"] is False
    assert [line.split()[0] for line in lines([good, missing, bad])] == ["ok", "--", "BAD"]


@pytest.mark.parametrize(
    ("architecture", "capability", "runs"),
    [
        ("sm_80", (8, 0), True),
        ("sm_80", (8, 6), True),
        ("sm_90a", (9, 0), True),
        ("sm_86", (8, 0), False),
        ("sm_75", (7, 0), False),
        ("sm_90", (10, 0), False),
        ("compute_90", (10, 0), True),
        ("sm_120", (12, 0), True),
    ],
)
def test_which_kernels_a_gpu_runs(architecture, capability, runs):
    assert machine._runs(architecture, *capability) is runs


def together(tmp_path, change="", *arguments):
    """Two processes, the second of which is another in some way; output and status of the first."""
    body = f"import sys; sys.path.insert(0, {str(ROOT)!r})\nimport os\n{change}\n"
    entry = tmp_path / "entry.py"
    entry.write_text(body + "from stoa.cli import main\nsys.exit(main(['doctor', *sys.argv[1:]]))\n")
    port = str(free_port())
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    options = ("--folder", str(tmp_path), "--spacy", "null", "--json", *arguments)
    programs = [
        Program([str(entry), *options], tmp_path, RANK=str(rank), LOCAL_RANK=str(rank), **shared) for rank in (0, 1)
    ]
    finish(programs[1])
    programs[0].wait()
    out, err = programs[0].output
    told = json.loads(out[out.index("{") :])
    assert programs[0].code == (0 if told["good"] else 1), err
    return {one["name"]: one for one in told["findings"]}


@pytest.mark.dist
def test_processes_of_other_versions_and_data_are_told(tmp_path):
    data = tmp_path / "manifest.jsonl"
    data.write_text("{}\n")
    change = (
        "if os.environ['RANK'] == '1':\n"
        "    from stoa.doctor import machine, ranks\n"
        "    own = machine.versions\n"
        "    ranks.versions = lambda: own() | {'torch': '0.1'}\n"
        "    import time; real = time.time; ranks.time.time = lambda: real() + 90\n"
    )
    findings = together(tmp_path, change, "--manifest", str(data))
    assert "torch is" in findings["versions of all"]["said"] and "0.1 on" in findings["versions of all"]["said"]
    assert findings["versions of all"]["verdict"] == "bad"
    assert findings["data of all"]["verdict"] == "good"
    assert findings["clocks"]["verdict"] == "bad" and 88 < float(findings["clocks"]["said"].split()[0]) < 92
    assert "GB/s" in findings["all-reduce"]["said"]
