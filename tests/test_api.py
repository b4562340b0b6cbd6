"""A model in a program: what it says of videos is what the commands say, however the videos are given."""

import gc
import re
import subprocess
import sys
from dataclasses import replace
from multiprocessing.connection import Connection

import numpy as np
import psutil
import pytest
import torch
from crafted import boxes
from factories import gray_frames, run_facts, tiny_config, write_video
from torch.nn import functional as F

import stoa
from stoa import api
from stoa.config import Config
from stoa.data.clips import FileClips
from stoa.detections import Detections
from stoa.manifest import Caption, ClipRow
from stoa.models.video_language import VideoLanguageModel
from stoa.objectives.config import ObjectivesConfig
from stoa.tasks.gallery import encode_galleries
from stoa.tasks.retrieval import retrieval_scores
from stoa.tasks.videos import VideoReader
from stoa.training.saving import save_weights

USED = [*range(320, 420), 49406, 49407]
TEXTS = ["gray", "dark things", "a light grows"]


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> list:
    folder = tmp_path_factory.mktemp("videos")
    return [write_video(folder / f"{n}.mp4", gray_frames(12 + 2 * n, height=40, width=64)[n:]) for n in range(5)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Of a model that nobody has trained."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    model = VideoLanguageModel(tiny_config(), used_token_ids=USED)
    config = Config(model=tiny_config(), objectives=ObjectivesConfig()).to_dict()
    from stoa.models.clip import architecture

    facts = run_facts(1, config=config, used_token_ids=USED, architecture=architecture(tiny_config().backbone))
    save_weights({name: x.contiguous() for name, x in model.state_dict().items()}, folder / "checkpoints", 1, facts)
    return folder


@pytest.fixture(scope="module")
def model(run):
    return stoa.load(run, device="cpu")


def test_importing_it_loads_no_torch():
    code = "import sys, stoa; assert 'torch' not in sys.modules; assert {*stoa.__all__} <= {*dir(stoa)}"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        stoa.nothing  # noqa: B018


def test_paths_and_frames_are_the_same(model, videos):
    frames = np.stack(gray_frames(12, height=40, width=64))
    given = {
        "array": frames,
        "channels first": frames.transpose(0, 3, 1, 2),
        "tensor": torch.from_numpy(frames),
    }
    vectors = {name: model.embed_video(video) for name, video in given.items()}
    for name, vector in vectors.items():
        assert vector.shape == (model.width,) and vector.dtype == torch.float32, name
        torch.testing.assert_close(vector, vectors["array"])
    assert vectors["array"].norm().item() == pytest.approx(1)
    of_file = model.embed_video(videos[0])
    assert F.cosine_similarity(of_file, vectors["array"], dim=0) > 0.99  # coded once more
    torch.testing.assert_close(model.embed_video(str(videos[0])), of_file)
    mixed = model.embed_video([videos[1], frames, stoa.Clip(video=videos[0])])
    torch.testing.assert_close(mixed[1:], torch.stack([vectors["array"], of_file]))


def test_parts_and_batches(model, videos):
    whole = model.embed_video(videos)
    model.batch_size = 2
    torch.testing.assert_close(model.embed_video(videos), whole)
    model.num_workers = 2
    torch.testing.assert_close(model.embed_video(videos, progress=True), whole)
    model.batch_size, model.num_workers = 16, 0
    part = stoa.Clip(video=videos[0], start_seconds=0.0, end_seconds=0.5)
    assert not torch.allclose(model.embed_video(part), whole[0])


def decoding() -> set[int]:
    """The processes of this one in which videos are decoded."""
    helpers = (p for p in psutil.Process().children() if p.status() != psutil.STATUS_ZOMBIE)
    return {p.pid for p in helpers if "stoa.data.decoding.guard" in p.cmdline()}


def test_one_process_decodes_for_all_calls(run, videos, tmp_path):
    """To start it takes longer than to read a clip."""
    (tmp_path / "none.mp4").write_bytes(b"no video")
    before, model = decoding(), stoa.load(run, device="cpu")
    first = model.embed_video(videos[0])
    (helper,) = decoding() - before
    vectors = [model.embed_video(video) for video in videos]
    with pytest.raises(ValueError, match=r"none.mp4"):
        model.embed_video(tmp_path / "none.mp4")
    model.explain(videos[0], Caption("a light grows"))
    assert decoding() - before == {helper}
    torch.testing.assert_close(vectors[0], first, rtol=0, atol=0)
    assert len({tuple(vector.tolist()) for vector in vectors}) == len(videos)
    del model
    gc.collect()  # the error has been where the model was
    assert decoding() == before


def test_a_call_that_was_interrupted_answers_no_later_one(run, videos, monkeypatch):
    model = stoa.load(run, device="cpu")
    expected = [model.embed_video(video) for video in videos]
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Connection, "recv", interrupted)
        model.embed_video(videos[3])
    assert not torch.equal(expected[0], expected[3])
    torch.testing.assert_close(model.embed_video(videos[0]), expected[0], rtol=0, atol=0)


def interrupted(connection):
    raise KeyboardInterrupt


def test_a_search_is_the_retrieval_of_an_evaluation(model, videos):
    rows = [ClipRow(str(n), str(video), (Caption(TEXTS[0]),)) for n, video in enumerate(videos)]
    reader = VideoReader(FileClips(rows, videos[0].parent), model.trained.model.config, model.trained.side)
    (gallery,) = encode_galleries([model.trained], reader)
    expected = retrieval_scores(model.trained, gallery, top_k=3).text_to_video_QV["itc+vtm"][0]
    encoded = model.encode(videos)
    hits = model.search(TEXTS[0], encoded, top_k=3)
    assert [hit.number for hit in hits] == expected.topk(3).indices.tolist()
    assert [hit.score for hit in hits] == pytest.approx(expected.topk(3).values.tolist(), abs=1e-4)
    assert model.search(TEXTS[0], videos, top_k=99)[0].number in range(5)
    cosines = model.embed_video(videos) @ model.embed_text(TEXTS).T
    assert cosines.shape == (5, 3) and cosines.abs().max() <= 1.0001
    probabilities = model.match(encoded, [TEXTS[0]] * 5)
    torch.testing.assert_close(model.match(encoded, TEXTS[0]), probabilities)
    assert [probabilities[hit.number].item() for hit in hits] == pytest.approx([hit.match for hit in hits], abs=1e-5)


def test_words(model, videos):
    captions = model.caption(videos[:2])
    assert captions == [model.caption(video) for video in videos[:2]]
    assert all(isinstance(caption, str) for caption in captions)
    assert model.answer(videos[0], "what is it?", options=["gray", "red"]) in ("gray", "red")
    assert len(model.answer(videos[:2], "what is it?")) == 2
    assert not model.knows_questions


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda m, v: m.embed_video(3), "'int' object is not iterable|a video is a int"),
        (lambda m, v: m.embed_video([3]), "a video is a int; expected a path, or frames as array or tensor"),
        (lambda m, v: m.embed_video([]), "no videos are given"),
        (lambda m, v: m.embed_text([]), "no texts are given"),
        (lambda m, v: m.embed_video("nothing.mp4"), "nothing.mp4: file does not exist"),
        (lambda m, v: m.embed_video(np.zeros((4, 8, 8, 3))), r"video 0 is \(4, 8, 8, 3\) float64; expected frames"),
        (lambda m, v: m.embed_video(np.zeros((0, 8, 8, 3), np.uint8)), r"video 0 is \(0, 8, 8, 3\) uint8"),
        (lambda m, v: m.embed_video(np.zeros((8, 8, 3), np.uint8)), r"video 0 is \(8, 8, 3\) uint8"),
        (lambda m, v: stoa.Clip(video=np.zeros((4, 8, 8, 3), np.uint8), start_seconds=1), "are for files; cut frames"),
        (lambda m, v: m.embed_video(stoa.Clip(video=v[0], start_seconds=99)), "not before the end of the video"),
        (lambda m, v: m.search("x", v, top_k=0), "top_k is 0; expected at least 1"),
        (lambda m, v: m.match(v[:2], ["a", "b", "c"]), "3 texts for 2 videos; give one each, or one for all"),
        (lambda m, v: stoa.load("nowhere"), "no checkpoint under nowhere"),
    ],
)
def test_mistakes_are_named(model, videos, use, message):
    with pytest.raises((ValueError, TypeError), match=message):
        use(model, videos)


@pytest.mark.parametrize("document", ["README.md", "docs/python.md"])
def test_what_the_documents_show(run, videos, repo_root, monkeypatch, tmp_path, document):
    shown = re.findall(r"^```python\n(.*?)^```", (repo_root / document).read_text(), re.MULTILINE | re.DOTALL)
    for name, video in zip(("a.mp4", "b.mp4", "c.mp4"), videos, strict=False):
        (tmp_path / name).symlink_to(video)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "demo").symlink_to(run)
    Detections(**boxes(2)).save(tmp_path / "a.npz")
    monkeypatch.chdir(tmp_path)
    assert shown and "stoa.load" in shown[0]
    names: dict[str, object] = {}
    for code in shown:
        if "import mteb" not in code:  # which downloads data; tests/test_mteb_encoder.py has data of its own
            exec(code, names)
    if "part" in names:
        assert names["model"].embed_video(names["part"]).shape == (names["model"].width,)


def test_what_a_model_has_not_learned(model, videos):
    lacking = stoa.Model(model.trained, model.abilities._replace(losses=["vtc"]))
    for use in (lacking.caption, lambda video: lacking.answer(video, "what?")):
        with pytest.raises(ValueError, match="trained without PLM"):
            use(videos[0])
    assert lacking.answer(videos[0], "x", options=["one"]) == "one"


def test_its_key_is_of_what_it_is_and_not_of_options_that_it_leaves_alone(model, monkeypatch):
    def key(**changes):
        config = replace(model.trained.model.config, **changes)
        monkeypatch.setattr(model.trained.model, "config", config)
        return stoa.Model.key.func(model)

    plain = key()
    assert len(plain) == 12 and key() == plain
    assert key(num_frames=model.trained.model.config.num_frames + 1) != plain
    monkeypatch.undo()
    defaults = api.asdict
    monkeypatch.setattr(api, "asdict", lambda config: {**defaults(config), "new": {"option": 1}})
    assert stoa.Model.key.func(model) == plain
