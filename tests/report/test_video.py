import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from retorq.report.video import enlarge, is_mp4, write_video
from retorq.types import UserError


def frames(count: int, height: int = 210, width: int = 160) -> Iterator[np.ndarray]:
    for index in range(count):
        frame = np.zeros((height, width, 3), np.uint8)
        frame[: height // 2] = (200, 40, 40)
        frame[:, : 1 + index * width // count, 2] = 220
        yield frame


def test_a_video_comes_back_as_it_was(tmp_path: Path) -> None:
    path = write_video(tmp_path / "videos" / "a.mp4", frames(12), 30)
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run(command, capture_output=True, check=True)
    back = np.frombuffer(done.stdout, np.uint8).reshape(-1, 420, 320, 3)
    assert re.search(rb"Video: h264 .*yuv420p.* 320x420.* 30 fps", done.stderr)
    assert len(back) == 12
    for got, sent in zip(back, frames(12), strict=True):
        assert np.abs(got.astype(int) - enlarge(sent).astype(int)).mean() < 6
    assert [file.name for file in path.parent.iterdir()] == ["a.mp4"]


def test_the_index_is_in_front(tmp_path: Path) -> None:
    data = write_video(tmp_path / "a.mp4", frames(3), 15).read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")


@pytest.mark.parametrize(
    ("size", "result"),
    [((84, 84), (336, 336)), ((10, 5), (640, 320)), ((210, 160), (420, 320)), ((481, 641), (482, 642))],
)
def test_small_frames_are_enlarged_and_sides_are_even(size: tuple[int, int], result: tuple[int, int]) -> None:
    assert enlarge(np.zeros((*size, 3), np.uint8)).shape == (*result, 3)


def test_enlarging_repeats_pixels() -> None:
    frame = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    assert (enlarge(frame, 8)[::2, ::2] == frame).all()
    assert (enlarge(frame, 8)[1::2, 1::2] == frame).all()
    odd = enlarge(frame, 4)
    assert (odd[:, 4] == odd[:, 5]).all()


def test_mistakes_are_named_and_leave_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with pytest.raises(UserError, match="no frames"):
        write_video(path, [], 30)
    with pytest.raises(UserError, match="fps 0"):
        write_video(path, frames(1), 0)
    with pytest.raises(UserError, match=r"frame 0 is float64 \[4, 4, 3\]"):
        write_video(path, [np.zeros((4, 4, 3))], 30)
    with pytest.raises(UserError, match="frame 2 has shape"):
        write_video(path, [*frames(2), *frames(1, height=100)], 30)
    assert list(tmp_path.iterdir()) == []


def test_a_failing_source_leaves_the_old_video(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", frames(2), 30)
    before = path.read_bytes()

    def breaking() -> Iterator[np.ndarray]:
        yield from frames(2)
        raise RuntimeError("game over")

    with pytest.raises(RuntimeError, match="game over"):
        write_video(path, breaking(), 30)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_cut_file_is_no_video(tmp_path: Path) -> None:
    data = write_video(tmp_path / "a.mp4", frames(3), 30).read_bytes()
    for name, part in {"cut": data[:-10], "empty": b"", "text": b"hello, this is text", "zeros": bytes(64)}.items():
        (tmp_path / name).write_bytes(part)
        assert not is_mp4(tmp_path / name), name
    assert is_mp4(tmp_path / "a.mp4")


def test_a_missing_encoder_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(UserError, match=r"pip install 'retorq\[video\]'"):
        write_video(tmp_path / "a.mp4", frames(1), 30)
