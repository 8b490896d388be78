"""The first convolution as a picture: read from checkpoints, drawn exactly."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from retorq.nn.torsos import image_key
from retorq.report import write_report
from retorq.report.filters import GAP, first_filters, png, sheet

NAME = "online.torso.images.obs.layers.0.weight"


def checkpoint(run: Path, step: int, weights: dict[str, np.ndarray]) -> Path:
    folder = run / "checkpoints" / str(step)
    folder.mkdir(parents=True)
    save_file(weights, folder / "learner.safetensors")
    return folder / "learner.safetensors"


def test_the_newest_readable_checkpoint_counts(tmp_path: Path) -> None:
    assert first_filters(tmp_path) == {}
    for step in (900, 1000):
        checkpoint(tmp_path, step, {NAME: np.full((2, 1, 3, 3), step, np.float32), "online.x": np.ones(3)})
    (tmp_path / "checkpoints" / ".part").mkdir()
    assert first_filters(tmp_path)["obs"].max() == 1000
    (tmp_path / "checkpoints" / "1000" / "learner.safetensors").write_bytes(b"torn")
    assert first_filters(tmp_path)["obs"].max() == 900


@pytest.mark.parametrize(
    "weights",
    [
        {"target.torso.images.obs.layers.0.weight": np.ones((2, 1, 3, 3), np.float32)},
        {"online.torso.images.obs.layers.2.weight": np.ones((2, 1, 3, 3), np.float32)},
        {NAME: np.full((2, 1, 3, 3), np.nan, np.float32)},
    ],
)
def test_only_finite_first_layers_of_the_online_network_are_shown(tmp_path: Path, weights: dict) -> None:
    checkpoint(tmp_path, 5, weights)
    assert first_filters(tmp_path) == {}


def test_a_column_per_filter_and_a_row_per_channel() -> None:
    weights = np.zeros((3, 2, 4, 5))
    weights[1, 0, 2, 3], weights[1, 1, 0, 0] = 2.0, -1.0
    picture = sheet(weights)
    zoom = 24 // 5
    tall, wide = 4 * zoom + 2, 5 * zoom + 2
    assert picture.shape == (2 * tall - 2, 3 * wide - 2, 3)
    square = picture[2 * zoom : 3 * zoom, wide + 3 * zoom : wide + 4 * zoom]
    assert (square == [207, 90, 6]).all()
    np.testing.assert_allclose(picture[tall, wide], (255 + np.array([31, 111, 180])) / 2, atol=0.51)
    assert picture[0, 0].tolist() == [255, 255, 255]
    assert (picture[tall - 2 : tall] == 128).all()
    assert (picture[:, wide - 2 : wide] == 128).all()
    weights[1] *= 10  # a filter has a scale of its own
    np.testing.assert_array_equal(sheet(weights), picture)


def test_many_filters_stand_in_several_rows() -> None:
    weights = np.random.default_rng(0).normal(size=(20, 2, 3, 3))
    picture = sheet(weights)
    first, second = sheet(weights[:16]), sheet(weights[16:])
    below = len(first) + 3 * GAP
    assert picture.shape == (below + len(second), first.shape[1], 3)
    np.testing.assert_array_equal(picture[: len(first)], first)
    np.testing.assert_array_equal(picture[below:, : second.shape[1]], second)
    assert (picture[below:, second.shape[1] :] == 255).all()


def test_the_file_is_a_png_of_these_pixels() -> None:
    picture = np.random.default_rng(0).integers(256, size=(3, 5, 3)).astype(np.uint8)
    data = png(picture)
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, chunks = 8, {}
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + body)
        chunks[kind] = body
        at += 12 + length
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    assert struct.unpack(">IIBBBBB", chunks[b"IHDR"]) == (5, 3, 8, 2, 0, 0, 0)
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(3, 16)
    assert (rows[:, 0] == 0).all()
    np.testing.assert_array_equal(rows[:, 1:].reshape(3, 5, 3), picture)


def test_the_page_shows_them(make_run, tmp_path: Path) -> None:
    folder = make_run("a")
    assert "First layer" not in write_report([folder], tmp_path / "r.html").read_text()
    checkpoint(folder, 5, {NAME: np.ones((16, 4, 3, 3), np.float32)})
    text = write_report([folder], tmp_path / "r.html").read_text()
    assert (
        "the 16 filters of 3 by 3 weights over the image &#x27;obs&#x27;, a column per filter, a row per channel (4)"
        in text
    )
    assert text.count('src="data:image/png;base64,') == 1


def test_images_have_the_names_that_the_environment_gave_them(tmp_path):
    names = ["obs", "a_b", "a.b", "pop", "_d", "_u.d"]
    weights = {
        NAME.replace("obs", image_key(name)): np.full((2, 1, 3, 3), i, np.float32) for i, name in enumerate(names)
    }
    folder = tmp_path / "checkpoints" / "10"
    folder.mkdir(parents=True)
    save_file(weights, folder / "learner.safetensors")
    assert {name: int(w.max()) for name, w in first_filters(tmp_path).items()} == {n: i for i, n in enumerate(names)}
