"""One writer to a folder, whoever is killed."""

import errno
import fcntl
import os
import socket
import subprocess
import sys
import time

import pytest

from stoa.locks import LOCK_FILE, InUse, only_writer, only_writer_of


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_the_second_is_refused_with_who_has_it_and_since_when(hold, tmp_path, kind):
    take = only_writer if kind == "folder" else only_writer_of
    process = hold(tmp_path / "run", kind)
    with pytest.raises(InUse) as caught, take(tmp_path / "run", "training.output_dir"):
        pass
    stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d"
    assert caught.match(
        rf"^{tmp_path / 'run'} is being written by process {process.pid} on {socket.gethostname()} since {stamp} "
        r"\(stoa finetune\); wait for it, or choose another training.output_dir$"
    )
    process.end()
    with take(tmp_path / "run", "training.output_dir"):
        pass
    assert not list(tmp_path.iterdir())  # neither the lock nor a folder in which nothing was written


@pytest.mark.parametrize("child", ["", "fork", "start"])
def test_a_holder_that_is_killed_leaves_nothing_to_clear(hold, tmp_path, child):
    """Children that outlive it, with all that they inherit, do not keep the lock."""
    process = hold(tmp_path, child=child)
    process.kill()
    assert (tmp_path / LOCK_FILE).is_file()
    with only_writer(tmp_path, "--out"):
        assert f'"process": {os.getpid()}' in (tmp_path / LOCK_FILE).read_text()
    assert not list(tmp_path.iterdir())


def test_a_fork_that_ends_does_not_give_the_lock_up(tmp_path):
    with only_writer(tmp_path, "--out"):
        child = os.fork()
        if not child:
            os.closerange(3, 64)
            os._exit(0)
        os.waitpid(child, 0)
        probe = (
            "import sys; from pathlib import Path; from stoa.locks import only_writer\n"
            "with only_writer(Path(sys.argv[1]), 'x'): pass"
        )
        done = subprocess.run([sys.executable, "-c", probe, str(tmp_path)], capture_output=True, text=True)
        assert "InUse" in done.stderr and f"process {os.getpid()} " in done.stderr


def test_within_a_process_too(tmp_path):
    with only_writer(tmp_path, "--out"):
        same = tmp_path / ".." / tmp_path.name
        with pytest.raises(InUse, match="by this process already; choose another --out"), only_writer(same, "--out"):
            pass
        with only_writer(tmp_path / "other", "--out"), only_writer_of(tmp_path / "report.json", "--out"):
            pass
    with only_writer(tmp_path, "--out"):
        pass


def test_who_may_wait_does(hold, tmp_path):
    process, said = hold(tmp_path), []

    def say(line: str) -> None:
        said.append(line)
        process.kill()

    with only_writer(tmp_path, "--out", wait=say):
        pass
    assert len(said) == 1 and said[0].endswith("(stoa finetune); waiting for it")


def test_a_lock_that_its_holder_deletes_is_taken_anew(tmp_path, monkeypatch):
    """The second has opened the file, the first ends, a third makes another file: these two must not both have it."""
    lockf, tries = fcntl.lockf, []

    def first_ends_meanwhile(descriptor: int, how: int) -> None:
        tries.append(descriptor)
        lockf(descriptor, how)
        if len(tries) == 1:
            (tmp_path / LOCK_FILE).unlink()

    monkeypatch.setattr(fcntl, "lockf", first_ends_meanwhile)
    with only_writer(tmp_path, "--out"):
        assert len(tries) == 2 and (tmp_path / LOCK_FILE).is_file()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_without_locks_it_says_so_and_goes_on(tmp_path, monkeypatch, capsys, number):
    def refused(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "lockf", refused)
    with only_writer(tmp_path, "--out"):
        pass
    assert capsys.readouterr().out == (
        f"{tmp_path}: its file system has no locks ({os.strerror(number)}); see to it that nobody else writes there\n"
    )


def test_many_at_once_one_at_a_time(tmp_path):
    """Each appends to a file that it found as it left it."""
    work = (
        "import sys, time\nfrom pathlib import Path\nfrom stoa.locks import only_writer\n"
        "folder = Path(sys.argv[1])\n"
        "for _ in range(5):\n"
        "    with only_writer(folder, 'x', wait=lambda line: None):\n"
        "        count = int((folder / 'n').read_text())\n        time.sleep(0.002)\n"
        "        (folder / 'n').write_text(str(count + 1))\n"
    )
    (tmp_path / "n").write_text("0")
    begun = time.monotonic()
    processes = [subprocess.Popen([sys.executable, "-c", work, str(tmp_path)]) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert (tmp_path / "n").read_text() == "15" and time.monotonic() - begun < 60
