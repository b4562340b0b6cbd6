"""Files of any content: each is read, or refused in one line. Nothing else is raised, and nothing takes long."""

import contextlib
import copy
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from arguments.commands import parsed
from factories import run_facts
from hypothesis import given, settings
from hypothesis import strategies as st

from stoa.config import Config
from stoa.data.ledger import Ledger, Replacements
from stoa.data.sampler import GlobalBatchSampler
from stoa.doctor.flight_recorder import read_dumps
from stoa.manifest import read_manifest
from stoa.prepare.detections.labels import read_class_names
from stoa.profiling.profile import read as read_profile
from stoa.profiling.table import lines
from stoa.questions import read_questions
from stoa.tasks.ablation.plan import read_plan
from stoa.tasks.report import read_predictions
from stoa.training.checkpoint import read_run
from stoa.training.deepspeed_config import read_config
from stoa.training.inspection import described
from stoa.training.metrics import read_metrics
from stoa.training.resumable import Shape, require_same_run

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "20"))
ROOT = Path(__file__).parent.parent.parent
ROW = {
    "id": "a", "video": "a.mp4", "split": "train", "start_seconds": 0.5, "end_seconds": 2, "detections": "a.npz",
    "captions": ["a dog", {"text": "a dog runs", "nouns": [[2, 5]], "verbs": [[6, 10]], "noun_labels": [16]}],
}  # fmt: skip
QUESTION = {
    "id": "q", "clip": "a", "type": "what", "question": "which?", "answer": "b", "options": ["b", "c"], "split": "test",
}  # fmt: skip
ENTRY = {
    "record_id": 0, "collective_seq_id": 1, "is_p2p": False, "process_group": ["0", "default_pg"], "state": "completed",
    "profiling_name": "gloo:all_reduce", "input_sizes": [[3]], "output_sizes": [[3]], "input_dtypes": ["Float"],
    "output_dtypes": ["Float"], "frames": [{"name": "f", "filename": "train.py", "line": 3}],
}  # fmt: skip
DUMP = {
    "version": "2.10", "entries": [ENTRY], "pg_config": {"0": {"name": "0", "desc": "default_pg", "ranks": "[0]"}},
}  # fmt: skip

PROFILE = {
    "device": "cpu", "precision": "fp32", "ranks": 1, "clips": 8, "steps": 3, "step_seconds": 0.5, "overhead": 0.01,
    "parts": {"video": 0.3, "unexplained": 0.1}, "metrics": {"MFU": 0.2}, "counts": {"operations": 3},
    "memory_gib": {"weights": 0.1}, "flops": {"video": 1.0},
}  # fmt: skip

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(["a", "[Infinity]", 10**400])
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
)


@st.composite
def changed(draw: Callable[..., Any], sound: Any) -> Any:
    """It with some values, at any depth, taken out, replaced, or given once more under another name."""
    result = copy.deepcopy(sound)
    for _ in range(draw(st.integers(1, 3))):
        place = result
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            inner = place[key]
            if isinstance(inner, dict | list) and inner and draw(st.integers(0, 3)):
                place = inner
                continue
            what = draw(st.integers(0, 5))
            if what == 0:
                del place[key]
            elif what == 1 and isinstance(place, dict):
                place[draw(st.text(max_size=8))] = inner
            else:
                place[key] = draw(values)
            break
    return result


@st.composite
def damaged(draw: Callable[..., Any], sound: bytes) -> bytes:
    """Its bytes with some changed, cut out or doubled."""
    content = bytearray(sound)
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(len(content) - 1, 0)))
        content[at : at + draw(st.integers(0, 8))] = draw(st.binary(max_size=6) | st.sampled_from([b"[", b"{", b"\0"]))
    first = draw(st.integers(0, len(content)))
    return bytes(content) + bytes(content[first:]) * draw(st.integers(0, 1))


def in_json(value: Any) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


def in_yaml(value: Any) -> bytes:
    return yaml.safe_dump(value, allow_unicode=True).encode("utf-8", "surrogatepass")


def recipe(path: Path) -> Any:
    return parsed("train", "--recipe", str(path))


def questions(path: Path) -> Any:
    return list(read_questions(path))


def log(path: Path) -> Any:
    return read_metrics(path)


def dumps(path: Path) -> Any:
    return read_dumps(path.parent)


def of_yaml(path: str) -> tuple[Any, Callable[[Any], bytes]]:
    return yaml.safe_load((ROOT / path).read_text()), in_yaml


def of_json(path: str) -> tuple[Any, Callable[[Any], bytes]]:
    return json.loads((ROOT / path).read_text()), in_json


FILES: dict[str, tuple[str, Any, Callable[[Any], bytes], Callable[[Path], Any]]] = {
    "manifest": ("m.jsonl", ROW, in_json, read_manifest),
    "questions": ("q.jsonl", QUESTION, in_json, questions),
    "predictions": ("p.jsonl", {"id": "a", "prediction": "b"}, in_json, read_predictions),
    "recipe": ("r.yaml", *of_yaml("recipes/stoa_stgt.yaml"), recipe),
    "small recipe": ("r.yaml", *of_yaml("tests/recipe.yaml"), recipe),
    "plan": ("plan.yaml", *of_yaml("recipes/study/plan.yaml"), read_plan),
    "deepspeed": ("d.json", *of_json("ds_configs/pretrain.json"), read_config),
    "offloading": ("d.json", *of_json("ds_configs/zero3_offload_bf16.json"), read_config),
    "class names": ("labels.json", ["a", "b"], in_json, read_class_names),
    "profile": ("profile.json", PROFILE, in_json, lambda path: lines([read_profile(path)] * 2)),
    "log": ("metrics.jsonl", {"step": 3, "loss": 2.5, "generation": 1, "left_out": 1}, in_json, log),
    "flight recorder": ("rank_0", DUMP, in_json, dumps),
}


def read(kind: str, content: bytes) -> None:
    """It is sound, or refused."""
    name, _, _, reader = FILES[kind]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        begun = time.process_time()
        try:
            reader(path)
        except ValueError as error:
            assert type(error) is ValueError, repr(error)  # and none of a library
            assert len(str(error).splitlines()) == 1, error
        assert time.process_time() - begun < 10


@pytest.mark.parametrize("kind", FILES)
def test_they_are_read_as_they_are(kind, tmp_path):
    name, sound, write, reader = FILES[kind]
    (tmp_path / name).write_bytes(write(sound))
    assert reader(tmp_path / name)


@pytest.mark.parametrize("kind", FILES)
@settings(max_examples=EXAMPLES)
@given(data=st.data())
def test_other_values(kind, data):
    _, sound, write, _ = FILES[kind]
    read(kind, write(data.draw(changed(sound))))


@pytest.mark.parametrize("kind", FILES)
@settings(max_examples=EXAMPLES)
@given(data=st.data())
def test_other_bytes(kind, data):
    _, sound, write, _ = FILES[kind]
    read(kind, data.draw(st.binary(max_size=40) | damaged(write(sound))))


NESTED = {
    "brackets": b"[" * 100_000,
    "braces": b'{"a":' * 100_000,
    "a long number": b'{"id": ' + b"9" * 100_000 + b"}",
    "a long key": b'{"' + b"k" * 1_000_000 + b'": 1}',
    "NUL": bytes(10_000),
    "a long line": b"x" * 10_000_000,
    "anchors": b"a: &a [x, x]\n" + b"".join(b"%c: &%c [*%c, *%c]\n" % (n, n, n - 1, n - 1) for n in range(98, 122)),
    "a tree of aliases": b"training: {max_steps: [&a [x], %s]}\n"
    % b", ".join(b"&%c [*%c, *%c]" % (n, n - 1, n - 1) for n in range(98, 123)),
    "a circle": b"a: &a [*a]\n",
    "an unhashable key": b"? [1, 2]\n: 3\n",
    "an object": b"!!python/object/apply:os.system ['true']\n",
    "an odd tag": b"training: !!timestamp x\n",
    "a merge of nothing": b"<<: 3\ntraining: {<<: [1]}\n",
    "a date": b"training: {max_steps: 2026-11-30}\n",
    "a set": b"training: !!set {max_steps}\n",
    "bytes": b"training: {output_dir: !!binary aGVsbG8=}\n",
}


@pytest.mark.parametrize("content", NESTED)
@pytest.mark.parametrize("kind", FILES)
def test_what_is_nested_long_or_of_another_language(kind, content):
    read(kind, NESTED[content])


@settings(max_examples=EXAMPLES)
@given(data=st.data())
def test_a_ledger_is_read_around_its_damage(data):
    """Whatever some lines hold, a run goes on by the others."""
    blamed = {"event": "blamed", "clip": "a", "reason": "why", "path": "a.mp4", "epoch": 1, "name": "a"}
    replaced = {"event": "replaced", "clip": "b", "reason": "why", "kind": "corrupt", "path": "b.mp4", "epoch": 0}
    lines = [in_json(line) + b"\n" for line in (blamed, replaced)]
    odd = data.draw(st.lists(changed(blamed).map(in_json) | changed(replaced).map(in_json) | st.binary(max_size=40)))
    odd += [data.draw(damaged(line)) for line in lines]
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder) / "ledger.jsonl")
        replacements = Replacements(ledger.path)
        ledger.path.write_bytes(b"\n".join(odd) + b"\n" + b"".join(lines))
        assert "a" in ledger.blamed()
        assert any("'b'" in line or "more clips" in line for line in replacements.new_lines())


@settings(max_examples=4 * EXAMPLES)
@given(data=st.data())
def test_facts_of_a_checkpoint(data):
    """Whoever reads them finds the types that it counts on."""
    sampler = GlobalBatchSampler(48, 8, rank=0, world=1, seed=0, fingerprint="clips")
    more = {"sampler": sampler.state_dict(), "losses": ["vtc"], "used_token_ids": [1, 2], "validation metric": "r1"}
    facts = data.draw(changed(run_facts(3, config=asdict(Config()), **more)))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "run.json").write_bytes(in_json(facts))
        try:
            read = read_run(Path(folder))
        except ValueError as error:
            assert type(error) is ValueError and "\n" not in str(error)
            return
        described(Path(folder))
        current = run_facts(3, config=asdict(Config()), **more)
        for use in (
            lambda: require_same_run(read, current, Path(folder)),
            *((lambda: Shape.of(read), lambda: sampler.load_state_dict(read["sampler"])) if "sampler" in read else ()),
        ):
            with contextlib.suppress(ValueError):
                use()
