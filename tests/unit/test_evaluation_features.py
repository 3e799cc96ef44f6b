"""Files of features hold what the public evaluations expect, at the times they expect."""

import json

import numpy as np
import pytest
import torch

from sqvae_speech.errors import UserError
from sqvae_speech.evaluation.feature_files import on_grid, write_features
from sqvae_speech.evaluation.frames import FrameSequence


class Source:
    codebook_size, description = 4, {"model": "x"}


def sequence(name="u-1", count=9):
    """Units like a model's: the first one 15 ms from the start, the last 20 ms from the end."""
    rng = np.random.default_rng(len(name))
    return FrameSequence(
        name,
        "s",
        0.2,
        0.015 + 0.02 * np.arange(count),
        0.02,
        {"latents": rng.normal(size=(count, 3)).astype(np.float32)},
        rng.integers(0, 4, (2, count)),
    )


@pytest.mark.parametrize("form", ["zs2017", "zs2019", "zs2021", "npy", "pt"])
def test_what_is_read_is_what_was_there(tmp_path, form):
    sequences = [sequence(), sequence("u-22")]
    written = write_features(tmp_path / "f", Source(), sequences, "latents", form)
    assert sorted(p.stem for p in (tmp_path / "f").iterdir()) == ["u-1", "u-22"]
    for one in sequences:
        path = next((tmp_path / "f").glob(f"{one.utterance_id}.*"))
        if path.suffix == ".txt":
            read = np.loadtxt(path).astype(np.float32)
            assert all(line.count(" ") == read.shape[1] - 1 for line in path.read_text().splitlines())
        else:
            read = np.load(path) if form == "npy" else torch.load(path, weights_only=True).numpy()
            assert read.dtype == np.float32
        if form == "zs2017":
            np.testing.assert_allclose(read[:, 0], one.times, atol=1e-6)
            read = read[:, 1:]
        latents = one.kind("latents")
        # a grid of 50 Hz over 0.2 s has 10 places, each nearest to the unit of its number, and the last has none
        expected = latents if form in ("zs2017", "zs2019") else np.concatenate([latents, latents[-1:]])
        np.testing.assert_array_equal(read, expected)
    assert written.files == 2
    assert written.rate == (None if form in ("zs2017", "zs2019") else pytest.approx(50))
    assert json.loads((tmp_path / "f.json").read_text())["source"] == {"model": "x"}


def test_one_hot_codes(tmp_path):
    write_features(tmp_path / "f", Source(), [sequence()], "codes", "zs2019")
    read = np.loadtxt(tmp_path / "f" / "u-1.txt")
    assert (tmp_path / "f" / "u-1.txt").read_text().split("\n")[0].replace("0", "").replace(" ", "") == "11"
    np.testing.assert_array_equal(read[:, :4].argmax(axis=1), sequence().codes[0])
    np.testing.assert_array_equal(read[:, 4:].argmax(axis=1), sequence().codes[1])
    np.testing.assert_array_equal(read.sum(axis=1), 2)


@pytest.mark.parametrize("rate", [25.0, 50.0, 100.0, 73.0])
def test_every_place_of_a_grid_has_the_nearest_frame(rate):
    one = sequence()
    frames, times = on_grid(one.kind("latents"), one, rate)
    assert len(times) == round(0.2 * rate)
    for place, (frame, time) in enumerate(zip(frames, times, strict=True)):
        assert time == pytest.approx((place + 0.5) / rate)
        chosen = int(np.flatnonzero((one.kind("latents") == frame).all(axis=1))[0])
        assert abs(one.times[chosen] - time) <= np.abs(one.times - time).min() + 1e-6


def test_what_cannot_be_written(tmp_path):
    for form, options, message in (
        ("zs2018", {}, "no form of features 'zs2018', did you mean"),
        ("zs2019", {"rate": 50.0}, "zs2019 has none"),
        ("pt", {"rate": -1.0}, "has to be positive"),
    ):
        with pytest.raises(UserError, match=message):
            write_features(tmp_path / "f", Source(), [sequence()], "latents", form, **options)
    with pytest.raises(UserError, match="nothing to write"):
        write_features(tmp_path / "f", Source(), [], "latents", "pt")
    thin = FrameSequence("u", "s", 1.0, np.zeros(1), 0.02, {"latents": np.zeros((1, 1), np.float32)})
    with pytest.raises(UserError, match="one number a frame"):
        write_features(tmp_path / "f", Source(), [thin], "latents", "zs2019")
