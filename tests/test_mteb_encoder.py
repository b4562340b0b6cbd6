"""The mteb package runs its tasks with our model, and finds what we find."""

import json

import pytest
import torch
from data_sets import built_once
from factories import run_facts, tiny_config

import stoa
from stoa.config import Config
from stoa.models.clip import architecture
from stoa.models.video_language import VideoLanguageModel
from stoa.objectives.config import ObjectivesConfig
from stoa.synthetic import SynthConfig
from stoa.tasks.metrics.ranking import rank_metrics
from stoa.training.saving import save_weights

mteb = pytest.importorskip("mteb", reason="the extra mteb is not installed")
datasets = pytest.importorskip("datasets")

CLIPS = 12


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """(path, caption) of Moving Shapes."""
    config = SynthConfig(num_train=0, num_val=0, num_test=CLIPS, num_galleries=0)
    folder = built_once(tmp_path_factory, "mteb", config)
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    return [(folder / row["video"], row.get("caption") or row["captions"][0]["text"]) for row in rows]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """One that nobody has trained."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    used = [*range(320, 420), 49406, 49407]
    model = VideoLanguageModel(tiny_config(), used_token_ids=used)
    config = Config(model=tiny_config(), objectives=ObjectivesConfig()).to_dict()
    facts = run_facts(1, config=config, used_token_ids=used, architecture=architecture(tiny_config().backbone))
    save_weights({name: x.contiguous() for name, x in model.state_dict().items()}, folder / "checkpoints", 1, facts)
    return stoa.load(folder, device="cpu")


def retrieval(queries, corpus, category):
    """A task of mteb on data in memory, each query with one document."""
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
    from mteb.abstasks.task_metadata import TaskMetadata

    relevant = {str(n): {str(n): 1} for n in range(len(queries))}

    class MovingShapes(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name=f"MovingShapes{category.upper()}",
            description="Clips of Moving Shapes and their captions.",
            dataset={"path": "none", "revision": "none"},
            type="Any2AnyRetrieval",
            category=category,
            modalities=["text", "video"],
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="recall_at_1",
            date=("2026-01-01", "2026-01-02"),
            domains=[],
            task_subtypes=[],
            license="not specified",
            annotations_creators="derived",
            dialect=[],
            sample_creation="created",
            bibtex_citation="",
        )

        def load_data(self, **_):
            data = RetrievalSplitData(queries=queries, corpus=corpus, relevant_docs=relevant, top_ranked=None)
            self.dataset, self.data_loaded = {"default": {"test": data}}, True

    return MovingShapes()


def of_texts(clips):
    return datasets.Dataset.from_dict({"id": [str(n) for n in range(len(clips))], "text": [text for _, text in clips]})


def of_videos(clips, *, in_memory):
    videos = [{"path": None, "bytes": path.read_bytes()} if in_memory else str(path) for path, _ in clips]
    rows = datasets.Dataset.from_dict({"id": [str(n) for n in range(len(clips))], "video": videos})
    return rows.cast_column("video", datasets.Video())


@pytest.mark.parametrize("category, in_memory", [("t2v", True), ("v2t", False)])
def test_mteb_finds_what_we_find(model, clips, category, in_memory):
    from stoa.mteb_encoder import MtebEncoder

    sides = {"t": of_texts(clips), "v": of_videos(clips, in_memory=in_memory)}
    task = retrieval(sides[category[0]], sides[category[-1]], category)
    encode = {"batch_size": 5}  # no divisor of the clips
    found = mteb.evaluate(
        MtebEncoder(model), task, cache=None, co2_tracker=False, encode_kwargs=encode, show_progress_bar=False
    )
    (scores,) = found.task_results[0].scores["test"]

    text_Qd = model.embed_text([text for _, text in clips])
    video_Vd = model.embed_video([path for path, _ in clips])
    cosines = text_Qd @ video_Vd.T if category == "t2v" else video_Vd @ text_Qd.T
    ours = rank_metrics(cosines, torch.eye(CLIPS, dtype=torch.bool))
    assert 0 < ours.r5 < 100  # an order that says something
    for k, percent in ((1, ours.r1), (5, ours.r5), (10, ours.r10)):
        assert scores[f"recall_at_{k}"] == pytest.approx(percent / 100, abs=1e-5)  # which mteb rounds to
    assert (found.model_name, found.model_revision) == ("stoa/model", model.trained.origin["weights sha256"])


def loader(rows):
    return torch.utils.data.DataLoader(rows, batch_size=2)


def test_texts_videos_and_both(model, clips):
    from stoa.mteb_encoder import MtebEncoder

    encoder = MtebEncoder(model, name="us/ours", training_datasets={"MSVDT2VRetrieval"})
    clips = clips[:3]
    both = of_videos(clips, in_memory=False).add_column("text", [text for _, text in clips])
    texts, videos, sums = (
        encoder.encode(loader(rows), show_progress_bar=False)
        for rows in (both.remove_columns("video"), both.remove_columns("text"), both)
    )
    torch.testing.assert_close(texts, model.embed_text([text for _, text in clips]))
    torch.testing.assert_close(videos, model.embed_video([path for path, _ in clips]))
    torch.testing.assert_close(sums, texts + videos)
    torch.testing.assert_close(encoder.similarity(sums, texts), torch.nn.functional.normalize(sums, dim=-1) @ texts.T)
    meta = encoder.mteb_model_meta
    assert (meta.name, meta.embed_dim, meta.max_tokens) == ("us/ours", model.width, tiny_config().max_tokens)
    assert set(meta.modalities) == {"text", "video"} and meta.training_datasets == {"MSVDT2VRetrieval"}


def test_what_cannot_be_read_is_named(model, clips, tmp_path):
    from stoa.mteb_encoder import MtebEncoder

    def encode(*videos):
        rows = datasets.Dataset.from_dict({"video": videos}).cast_column("video", datasets.Video())
        MtebEncoder(model).encode(loader(rows), show_progress_bar=False)

    good = {"path": str(clips[0][0]), "bytes": None}
    with pytest.raises(ValueError, match=r"row 2 of mteb's data holds no video, and names no file: '.*gone.mp4'"):
        encode(good, good, {"path": str(tmp_path / "gone.mp4"), "bytes": None})
    with pytest.raises(ValueError, match=r"rows 2 to 2 of mteb's data: .*2\.mp4"):
        encode(good, good, {"path": None, "bytes": b"no video"})
    with pytest.raises(ValueError, match="columns audio; expected text or video"):
        MtebEncoder(model).encode(loader(datasets.Dataset.from_dict({"audio": ["a"]})))
