"""A model as an encoder of the ``mteb`` package (extra ``mteb``), which runs its video-text tasks with it.

Shape legend: N rows of a data set, d joint width.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from stoa.api import Model
from stoa.progress import Progress

try:
    from datasets import Video
    from mteb.models import ModelMeta
    from mteb.models.abs_encoder import AbsEncoder
    from mteb.models.model_meta import ScoringFunction
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"stoa.mteb_encoder needs mteb ({error}): pip install '.[mteb]' in the checkout", name=error.name
    ) from None

if TYPE_CHECKING:
    from torch.utils.data import DataLoader


class MtebEncoder(AbsEncoder):  # type: ignore[misc, unused-ignore]
    """To be given to ``mteb.evaluate``. Texts are encoded as they are, without instructions. Videos are decoded
    here, as in training and without torchcodec; they have no detections, and their sound is not heard.

    Args:
        model: see :func:`stoa.load`. Its ``batch_size`` is that of videos.
        name: by which mteb keeps its results, with the SHA-256 of the weights as revision.
        training_datasets: names of mteb's data sets that it has been trained on, where that is known.
    """

    def __init__(self, model: Model, *, name: str = "stoa/model", training_datasets: set[str] | None = None) -> None:
        self.model = model
        weights = list(model.trained.model.parameters())
        config = model.trained.model.config
        self.mteb_model_meta = ModelMeta(
            loader=None,
            name=name,
            revision=model.trained.origin["weights sha256"],
            release_date=None,
            languages=["eng-Latn"],
            n_parameters=sum(weight.numel() for weight in weights),
            memory_usage_mb=sum(weight.nbytes for weight in weights) / 2**20,
            max_tokens=config.max_tokens,
            embed_dim=model.width,
            license=None,
            open_weights=None,
            public_training_code=None,
            public_training_data=None,
            framework=["PyTorch"],
            similarity_fn_name=ScoringFunction.COSINE,
            use_instructions=False,
            training_datasets=training_datasets,
            modalities=["video", "text"],
            experiment_kwargs={"num_frames": config.num_frames},
        )

    def encode(self, inputs: DataLoader, *, show_progress_bar: bool = True, **_: Any) -> torch.Tensor:
        """Vectors (N, d) float32 of the rows of a data set: of unit length where these are texts or videos, the sum of
        two where they are both.

        Args:
            inputs: over the data set, of which the columns ``text`` and ``video`` are read.
            show_progress_bar: as mteb passes it.

        Raises:
            ValueError: it has neither, or a video cannot be read; names its row.
        """
        rows: Any = inputs.dataset
        batch = inputs.batch_size or 1
        parts = []
        if "text" in rows.features:
            texts = list(rows["text"])
            parts.append(self.model.embed_text(texts))
        if "video" in rows.features:
            rows = rows.cast_column("video", Video(decode=False))
            with Progress(len(rows), "encode", "videos", show=show_progress_bar) as progress:
                found = []
                for first in range(0, len(rows), batch):
                    found.append(self._of_videos(rows[first : first + batch]["video"], first))
                    progress.update(len(found[-1]))
            parts.append(torch.cat(found))
        if not parts:
            raise ValueError(f"mteb's data have the columns {', '.join(rows.features)}; expected text or video")
        return torch.stack(parts).sum(dim=0)

    def _of_videos(self, videos: list[dict[str, Any]], first: int) -> torch.Tensor:
        with tempfile.TemporaryDirectory(prefix="stoa-mteb-") as folder:
            paths = list(_files(videos, Path(folder), first))
            try:
                return self.model.embed_video(paths)
            except ValueError as error:
                raise ValueError(f"rows {first} to {first + len(paths) - 1} of mteb's data: {error}") from None


def _files(videos: list[dict[str, Any]], folder: Path, first: int) -> Iterator[Path]:
    """Where each video is: the file that it names, or one in ``folder`` of the bytes that it holds."""
    for row, video in enumerate(videos, start=first):
        if video["bytes"] is not None:
            path = folder / f"{row}.mp4"
            path.write_bytes(video["bytes"])
        elif video["path"] is not None and Path(video["path"]).is_file():
            path = Path(video["path"])
        else:
            raise ValueError(f"row {row} of mteb's data holds no video, and names no file: {video['path']!r}")
        yield path
