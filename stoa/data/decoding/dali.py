"""Decoding, resizing and cropping on the device with NVIDIA DALI, or with DALI on the CPU where there is no GPU.

Shape legend: B clips, T frames, C channels, H height, W width, S side of the square.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from stoa.data.decoding.base import DecodeError
from stoa.data.decoding.encoded import JPEG, EncodedFrames
from stoa.data.decoding.orientation import UPRIGHT, Orientation
from stoa.data.placement import place

_CPU_CODECS = {JPEG, "mjpeg", "vp8", "vp9"}
_THREADS = 4


class DaliDecoder:
    """Encoded frames in, what :func:`stoa.data.transforms.resize_and_crop` makes of the decoded ones out.

    Which frames, and their size and crop, are those of the CPU decoders. Pixels differ: on frame packs by rounding
    alone (on 26 real clips at S = 224 by 0.2 levels of 255 in the mean of the worst frame, 8 at most), on video by the
    colour conversion as well, in which DALI interpolates the chroma (VP8 and VP9: 1.2 in the mean; 12 at most, 50 at a
    hard edge of colour). That is of DALI on the CPU; nvJPEG and NVDEC have arithmetic of their own.

    Args:
        num_frames: of every clip (T).
        side: of the square in pixels (S).
        max_clips: most clips decoded at once.
        device: where to decode; frames stay there.

    Raises:
        ValueError: DALI is not installed.
    """

    def __init__(self, *, num_frames: int, side: int, max_clips: int, device: torch.device) -> None:
        _import_dali()
        self.num_frames, self.side, self.max_clips, self.device = num_frames, side, max_clips, device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._pipeline: Any = None
        self._clips: Sequence[EncodedFrames] = ()
        self._tasks: list[_Task] = []

    def start(self, clips: Sequence[EncodedFrames]) -> None:
        """Begin to decode clips, all packs or all videos; :meth:`finish` must follow.

        Raises:
            ValueError: DALI has no decoder for a codec on this device.
        """
        for codec in sorted({clip.codec for clip in clips} - _CPU_CODECS):
            if self.device.type == "cpu":
                raise ValueError(
                    f"data.decoder is 'dali', which decodes no {codec} without a GPU, only frame packs, VP8, VP9 and "
                    "MJPEG; make frame packs with 'stoa prepare', or use data.decoder auto"
                )
        self._clips = clips
        self._tasks = [task for clip in clips for task in _tasks(clip, self.side)]
        if self._pipeline is None:
            self._pipeline = self._build(of_videos=clips[0].codec != JPEG)
        for name in self._tasks[0].inputs:
            self._pipeline.feed_input(name, [task.inputs[name] for task in self._tasks])
        self._pipeline.schedule_run()

    def finish(self) -> torch.Tensor:
        """The frames of the clips of :meth:`start`, uint8 (B, T, C, S, S) on the device.

        Raises:
            DecodeError: one of them does not decode; the decoder is ready for others.
        """
        try:
            pictures, shapes = self._pipeline.outputs()
        except Exception as error:  # of several classes; whichever it is, the pipeline can be used no more
            self._pipeline = None
            raise DecodeError("corrupt", f"DALI: {_reason(error)}") from None
        for task, shape in zip(self._tasks, shapes.as_array().tolist(), strict=True):
            if tuple(shape) != task.decoded_shape:
                raise DecodeError("corrupt", f"DALI: decodes to {tuple(shape)}, expected {task.decoded_shape}")
        if self._stream is None:
            return self._gather(pictures)
        # DALI uses the memory of its output again, so it is copied at once. Waiting for a stream that has nothing else
        # to do waits for no training step.
        with torch.cuda.stream(self._stream):
            frames_BTCHW = self._gather(pictures)
        self._stream.synchronize()
        frames_BTCHW.record_stream(torch.cuda.current_stream(self.device))
        return frames_BTCHW

    def decode_one(self, clip: EncodedFrames) -> torch.Tensor:
        """Frames of one clip, uint8 (T, C, S, S). Raises as :meth:`start` and :meth:`finish` do."""
        self.start([clip])
        return self.finish()[0]

    def _gather(self, pictures: Any) -> torch.Tensor:
        """A copy of DALI's output, whose rows are the tasks, in the order of clips and frames."""
        pictures_NHWC = torch.from_dlpack(pictures.as_tensor()).view(-1, self.side, self.side, 3)
        rows, first = [], 0
        for clip in self._clips:
            is_pack = clip.codec == JPEG
            rows.append(first + (clip.picks_T if is_pack else np.arange(self.num_frames)))
            first += len(clip.files) if is_pack else self.num_frames
        chosen = torch.from_numpy(np.concatenate(rows)).to(pictures_NHWC.device)
        frames_BTHWC = pictures_NHWC[chosen].view(len(self._clips), self.num_frames, self.side, self.side, 3)
        for frames_THWC, clip in zip(frames_BTHWC, self._clips, strict=True):
            if clip.orientation != UPRIGHT:
                frames_THWC.copy_(_turned(frames_THWC, clip.orientation))
        return frames_BTHWC.permute(0, 1, 4, 2, 3).contiguous()

    def _build(self, *, of_videos: bool) -> Any:
        """A pipeline that gives resized and cropped pictures, and the shapes they had when decoded."""
        dali = _import_dali()
        fn, types = dali.fn, dali.types
        pipeline = dali.Pipeline(
            batch_size=self.max_clips * (1 if of_videos else self.num_frames),
            num_threads=_THREADS,
            device_id=self._stream.device.index if self._stream is not None else None,
            prefetch_queue_depth=1,
        )
        where = "cpu" if self._stream is None else "mixed"
        with pipeline:
            files = fn.external_source(name="file", dtype=types.UINT8, ndim=1)
            if of_videos:
                numbers = fn.external_source(name="numbers", dtype=types.INT32, ndim=1)
                # Without padding a number outside the file is an error, never a black frame.
                decoded = fn.decoders.video(files, device=where, frames=numbers, pad_mode="none", affine=False)
            else:
                decoded = fn.decoders.image(
                    files,
                    device=where,
                    output_type=types.RGB,
                    adjust_orientation=False,
                    jpeg_fancy_upsampling=True,
                    affine=False,
                )
            size = fn.external_source(name="size", dtype=types.FLOAT, ndim=1)
            start = fn.external_source(name="start", dtype=types.INT32, ndim=1)
            resized = fn.resize(decoded, size=size, interp_type=types.INTERP_CUBIC, antialias=True)
            cropped = fn.slice(resized, start=start, shape=[self.side, self.side], axis_names="HW")
            pipeline.set_outputs(cropped, decoded.shape(device="cpu"))
        pipeline.build()
        return pipeline


class _Task(NamedTuple):
    """One sample of the pipeline: what goes into it, and the shape that its file must decode to."""

    inputs: dict[str, np.ndarray]
    decoded_shape: tuple[int, ...]


def _tasks(clip: EncodedFrames, side: int) -> list[_Task]:
    """A video is one task, a pack one for each JPEG."""
    size_hw, start_hw = _stored_placement(clip, side)
    inputs = {"size": np.array(size_hw, dtype=np.float32), "start": np.array(start_hw, dtype=np.int32)}
    shape: tuple[int, ...] = (*clip.size_hw, 3)
    if clip.codec != JPEG:
        inputs["numbers"] = clip.picks_T.astype(np.int32)
        shape = len(clip.picks_T), *shape
    return [_Task({"file": np.frombuffer(file, dtype=np.uint8), **inputs}, shape) for file in clip.files]


def _stored_placement(clip: EncodedFrames, side: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Height and width that stored pictures are resized to, and the corner of what is the centre square once turned."""
    turn = clip.orientation
    height, width, top, left = place(*turn.shape(*clip.size_hw), side)
    if turn.rows_reversed:
        top = height - side - top
    if turn.columns_reversed:
        left = width - side - left
    return ((width, height), (left, top)) if turn.transposed else ((height, width), (top, left))


def _turned(frames_THWC: torch.Tensor, turn: Orientation) -> torch.Tensor:
    """Squares as displayed, a copy."""
    shown = frames_THWC.transpose(1, 2) if turn.transposed else frames_THWC
    return shown.flip([1] * turn.rows_reversed + [2] * turn.columns_reversed).clone()


def _reason(error: Exception) -> str:
    """The line of DALI's message that says what happened."""
    told = str(error).split("encountered:")[-1].split("C++ context:")[0].split("Current pipeline object")[0]
    return " ".join(told.split())[:200] or type(error).__name__


def _import_dali() -> Any:
    try:
        import nvidia.dali
        import nvidia.dali.fn
        import nvidia.dali.types
    except ImportError:
        extra = "dali-cu12" if (torch.version.cuda or "").startswith("12.") else "dali-cu13"
        raise ValueError(
            f"data.decoder is 'dali', which is not installed: pip install '.[{extra}]' in the checkout"
        ) from None
    return nvidia.dali
