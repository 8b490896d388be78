"""Videos that every browser plays: H.264 in 4:2:0, even dimensions, the index in front. Needs the extra ``video``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from retorq.types import UserError

SMALLEST = 320
"""Pixels of the shorter side below which a picture is enlarged."""


def enlarge(frame: np.ndarray, smallest: int = SMALLEST) -> np.ndarray:
    """Repeat pixels by a whole factor until the shorter side has ``smallest``, then make both sides even.

    ``frame`` is uint8 ``[H, W, 3]``. An odd side gets its last row or column twice, because 4:2:0 stores color for two
    by two pixels.
    """
    height, width = frame.shape[:2]
    factor = max(1, -(-smallest // min(height, width)))
    frame = frame.repeat(factor, axis=0).repeat(factor, axis=1)
    return np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), mode="edge")


def encoder() -> Any:
    """What writes frames; raises UserError if imageio-ffmpeg is missing."""
    try:
        import imageio_ffmpeg
    except ImportError:
        raise UserError("video needs imageio-ffmpeg, which is not installed: pip install 'retorq[video]'") from None
    return imageio_ffmpeg.write_frames


def write_video(path: Path, frames: Iterable[np.ndarray], fps: float) -> Path:
    """Write uint8 RGB frames ``[H, W, 3]``, all of one size, as an MP4 with ``fps`` frames per second.

    Frames are taken one at a time, so an iterator of any length needs little memory. The file appears under its name
    only when it is complete. Raises UserError if imageio-ffmpeg is missing, there is no frame, a frame has another
    shape or type, ``fps`` is not above 0, or the encoder fails.
    """
    make_writer = encoder()
    if not 0 < fps <= 1000:
        raise UserError(f"fps {fps} is not a frame rate: use a number above 0, for example 30")
    path = Path(path)
    checked = _checked(frames)
    first = next(checked, None)
    if first is None:
        raise UserError(f"video {path.name!r} has no frames: record at least one step")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.stem}.part.mp4")
    height, width = first.shape[:2]
    writer = make_writer(
        str(part),
        (width, height),
        fps=fps,
        codec="libx264",
        pix_fmt_out="yuv420p",
        quality=None,
        macro_block_size=2,
        ffmpeg_log_level="error",
        output_params=["-crf", "20", "-preset", "veryfast", "-movflags", "+faststart"],
    )
    try:
        _send(writer, chain([first], checked), path.name)
        if not is_mp4(part):  # the encoder's exit status is not told; a full disk shows only here
            raise UserError(f"video {path.name!r} was not completed by the encoder: check the space on the disk")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _send(writer: Any, frames: Iterable[np.ndarray], name: str) -> None:
    """Feed the encoder and close it; it is closed too when the frames' source fails."""
    try:
        writer.send(None)
        with contextlib.closing(writer):
            for frame in frames:
                writer.send(frame.tobytes())
    except (OSError, StopIteration) as error:
        reason = str(error).splitlines()[0] if str(error) else "the encoder ended early"
        raise UserError(f"video {name!r} could not be encoded ({reason}): check the disk and ffmpeg") from error


def is_mp4(path: Path) -> bool:
    """Whether a file is an MP4 whose boxes are all there: file type, index, and data up to the end of the file."""
    size, at, kinds = path.stat().st_size, 0, []
    with path.open("rb") as file:
        while at + 8 <= size:
            file.seek(at)
            head = file.read(16)
            length = int.from_bytes(head[:4], "big")
            if length == 1:  # a 64-bit length follows the name
                length = int.from_bytes(head[8:16], "big")
            if length < 8:
                return False
            kinds.append(head[4:8])
            at += length
    return at == size and kinds[:1] == [b"ftyp"] and {b"moov", b"mdat"} <= set(kinds)


def _checked(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Frames enlarged and contiguous; raises UserError at the first one that does not fit."""
    shape: tuple[int, ...] | None = None
    for index, frame in enumerate(frames):
        frame = np.asarray(frame)
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or not frame.size:
            raise UserError(
                f"frame {index} is {frame.dtype} {list(frame.shape)}: a video takes uint8 frames [height, width, 3]"
            )
        if shape is not None and frame.shape != shape:
            raise UserError(f"frame {index} has shape {list(frame.shape)}, the first {list(shape)}: sizes must agree")
        shape = frame.shape
        yield np.ascontiguousarray(enlarge(frame))
