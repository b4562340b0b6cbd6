"""Where FFmpeg is given a file: one that is open already, so that it reads no path and no URL, in the formats of files
that hold their video themselves."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

import av
import av.container

from stoa.data.decoding.base import DecodeError, Video
from stoa.data.decoding.findings import as_missing
from stoa.data.decoding.limits import PICTURE_PX, require_picture
from stoa.files import open_regular

# FFmpeg's names. Left out is what names other files or addresses (playlists, manifests, session descriptions, numbered
# pictures), is a device or a script, or is a text that is drawn.
_FORMATS = (
    *("mov", "matroska", "avi", "mpegts", "mpeg", "flv", "ogg", "asf", "rm", "mxf", "gxf", "dv", "nut", "wtv", "nsv"),
    *("ivf", "obu", "h261", "h263", "h264", "hevc", "vvc", "mpegvideo", "m4v", "mjpeg", "vc1", "dirac", "cavsvideo"),
    *("amv", "yuv4mpegpipe", "gif", "apng", "webp"),
    *("jpeg_pipe", "png_pipe", "webp_pipe", "bmp_pipe", "tiff_pipe", "gif_pipe", "jpegxl_pipe", "j2k_pipe"),
)
# FFmpeg opens nothing itself; none of its protocols has this name.
_CONTAINER_OPTIONS = {"format_whitelist": ",".join(_FORMATS), "protocol_whitelist": "none"}
_CODEC_OPTIONS = {"max_pixels": str(PICTURE_PX)}


def open_file(video: Video) -> BinaryIO:
    """The file, open, or its content as one.

    Raises:
        DecodeError: the file is missing, empty, not to be reached, or none.
        OSError: the storage does not answer.
    """
    if isinstance(video, bytes):
        file, size = cast(BinaryIO, io.BytesIO(video)), len(video)
    else:
        try:
            file = cast(BinaryIO, open_regular(video))
            size = os.fstat(file.fileno()).st_size
        except (OSError, ValueError) as error:
            raise as_missing(error) from None
    if not size:
        file.close()
        raise DecodeError("empty", "file is empty (0 bytes)")
    return file


@contextmanager
def open_container(video: Video) -> Iterator[av.container.InputContainer]:
    """The file as FFmpeg reads it.

    Raises:
        DecodeError: it is missing or empty.
        av.FFmpegError: it is none that FFmpeg knows, or of a format that is not read.
        OSError: the storage does not answer.
    """
    with open_file(video) as file, _container(file) as container:
        yield container


def _container(file: BinaryIO) -> av.container.InputContainer:
    return av.open(_Nameless(file), "r", options=_CODEC_OPTIONS, container_options=_CONTAINER_OPTIONS)


class _Nameless:
    """Of a file what FFmpeg is to know: by a name it would guess a format, or look for more such files."""

    def __init__(self, file: BinaryIO) -> None:
        self.read, self.seek, self.tell = file.read, file.seek, file.tell


def video_streams(container: av.container.InputContainer) -> list[av.VideoStream]:
    """Those that are no cover picture."""
    covers = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
    return [stream for stream in container.streams.video if not stream.disposition & covers]


def video_stream(container: av.container.InputContainer) -> av.VideoStream:
    """The first video stream that is no cover picture: whatever a library would choose, every decoder gets this one.

    Raises:
        DecodeError: there is none, or no decoder for it; or its pictures are too large.
    """
    streams = video_streams(container)
    if not streams:
        raise DecodeError("no video", "no video stream")
    codec = streams[0].codec_context
    if codec is None:
        raise DecodeError("codec", "no decoder for its codec")
    if codec.width or codec.height:  # else they are told by the first picture
        require_picture(codec.height, codec.width)
    if not codec.is_open:
        codec.options = {**codec.options, **_CODEC_OPTIONS}
    return streams[0]
