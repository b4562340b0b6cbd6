"""Fixtures and markers of all tests."""

import itertools
import os
import random
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import fork_server
import numpy as np
import pytest
import torch
from holding import Holder

try:
    import hypothesis
except ModuleNotFoundError:  # on a GPU machine that is given torch and pytest
    import without_hypothesis as hypothesis

    sys.modules["hypothesis"] = hypothesis

REPO_ROOT = Path(__file__).resolve().parent.parent
_REAL_DATA_MISSING = "no real data in"
_skipped_for_real_data = pytest.StashKey[list[str]]()

# How long an example takes says what else the machine does, not whether the code is right. A change is judged by the
# same examples each time; `make fuzz` looks for others.
hypothesis.settings.register_profile(
    "any-machine",
    deadline=None,
    derandomize="FUZZ_EXAMPLES" not in os.environ,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("any-machine")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_skipped_for_real_data] = []
    # Small tensors gain nothing from more threads, and tests may share the machine.
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    # Processes that tests start find the tools of this environment, activated or not, and what `make setup` has built.
    os.environ["PATH"] = str(Path(sys.executable).parent) + os.pathsep + os.environ.get("PATH", "")
    os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(Path(sys.prefix) / "torch_extensions"))
    if address := getattr(config, "workerinput", {}).get("fork_server"):
        fork_server.use(address)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node) -> None:
    """The processes of pytest-xdist share a server."""
    node.workerinput["fork_server"] = fork_server.address()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Those that start processes come first: they are the longest, they wait, and what is last should be short.

    Each process of pytest-xdist begins with an equal part of the list, in its order. So each part begins with some of
    those, whole files at a time.
    """
    workers = getattr(config, "workerinput", {}).get("workercount", 1)
    files: dict[Path, list[pytest.Item]] = {}
    short = []
    for item in items:
        if item.get_closest_marker("dist") is None:
            short.append(item)
        else:
            files.setdefault(item.path, []).append(item)
    parts: list[list[pytest.Item]] = [[] for _ in range(workers)]
    for tests in sorted(files.values(), key=len, reverse=True):
        min(parts, key=len).extend(tests)
    for number, part in enumerate(parts, start=1):
        size = max(number * len(items) // workers - (number - 1) * len(items) // workers - len(part), 0)
        part += short[:size]
        del short[:size]
    items[:] = itertools.chain(*parts, short)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("needs_cuda") is None or torch.cuda.is_available():
        return
    if os.environ.get("FAIL_WITHOUT_CUDA"):
        pytest.fail("FAIL_WITHOUT_CUDA is set and there is no GPU", pytrace=False)
    pytest.skip("needs a GPU")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and _REAL_DATA_MISSING in str(report.longrepr):
        item.config.stash[_skipped_for_real_data].append(item.nodeid)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    skipped = config.stash[_skipped_for_real_data]
    if skipped:
        terminalreporter.write_line(
            f"{len(skipped)} tests were skipped: {_REAL_DATA_MISSING} {_real_data_root()} (set STOA_TEST_DATA)"
        )


@pytest.fixture(autouse=True)
def _random_state() -> Iterator[None]:
    """Every test starts from the same random state, in whatever order they run, and leaves none behind."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    yield
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """The root of the checkout."""
    return REPO_ROOT


@pytest.fixture
def real_data() -> Path:
    """The folder of real data beside the project (STOA_TEST_DATA); the test is skipped where there is none."""
    root = _real_data_root()
    if not root.is_dir():
        pytest.skip(f"{_REAL_DATA_MISSING} {root}")
    return root


def _real_data_root() -> Path:
    return Path(os.environ.get("STOA_TEST_DATA", REPO_ROOT.parent / "shared" / "data"))


@pytest.fixture
def hold() -> Iterator[Callable[..., Holder]]:
    """Hold a folder or a file in another process; see :class:`Holder`."""
    started = []

    def hold(*arguments, **settings) -> Holder:
        started.append(Holder(*arguments, **settings))
        return started[-1]

    yield hold
    for holder in started:
        holder.close()


@pytest.fixture
def decoder_faults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """In every process started from here on, to open a video named ``crash*`` is a segmentation fault, and to open
    ``hang*`` takes for ever. Each try leaves a byte in the file of that name in the folder that is returned."""
    folder = tmp_path / "decoder_faults"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import os, signal, time\n"
        "whole = os.open\n"
        "def faulty(file, *arguments, **settings):\n"
        "    name = os.path.basename(file) if isinstance(file, str) else ''\n"
        "    if name.startswith(('crash', 'hang')):\n"
        f"        with open(os.path.join({str(folder)!r}, name), 'a') as tries:\n"
        "            tries.write('x')\n"
        "    if name.startswith('crash'):\n"
        "        os.kill(os.getpid(), signal.SIGSEGV)\n"
        "    if name.startswith('hang'):\n"
        "        time.sleep(1000)\n"
        "    return whole(file, *arguments, **settings)\n"
        "os.open = faulty\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return folder
