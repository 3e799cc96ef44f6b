"""The drawn label maps of egs/celebamask_hq: the corpus' layout, the same from the same seed, every class there."""

import sys
from pathlib import Path

import numpy as np
import pytest

from sqvae_speech.bin._cli import run
from sqvae_speech.data.image_corpora.celebamask_hq import CLASSES, prepare_celebamask_hq
from sqvae_speech.data.image_loader import image_batches
from sqvae_speech.data.image_shards import write_image_shards

LOCAL = Path(__file__).resolve().parents[2] / "egs" / "celebamask_hq" / "local"
sys.path.insert(0, str(LOCAL))

import make_faces  # noqa: E402


def label_map(seed: int, number: int, size: int = 64) -> np.ndarray:
    """As the corpus' own script joins masks: later classes cover earlier ones."""
    masks = make_faces.draw_face(np.random.default_rng((seed, number)), size)
    assert set(masks) <= set(CLASSES)
    labels = np.zeros((size, size), np.uint8)
    for label, name in enumerate(CLASSES):
        if name in masks:
            labels[masks[name]] = label
    return labels


def test_faces_differ_and_have_all_classes_between_them():
    maps = np.stack([label_map(0, number) for number in range(60)])
    assert set(np.unique(maps)) == set(range(len(CLASSES)))
    assert len({one.tobytes() for one in maps}) == 60
    assert np.array_equal(maps[7], label_map(0, 7))
    assert not np.array_equal(maps[7], label_map(1, 7))
    # in most faces eyes, brows, nose and lips are to be seen, and the background and the hair take their part
    for name in ("l_eye", "r_eye", "l_brow", "r_brow", "nose", "u_lip", "l_lip", "hair", "neck", "cloth"):
        assert (maps == CLASSES.index(name)).any(axis=(1, 2)).mean() > 0.7, name
    assert 0.2 < (maps == 0).mean() < 0.8


def test_the_corpus_can_be_prepared(tmp_path):
    assert run(make_faces.main, [str(tmp_path / "faces"), "--count", "20", "--size", "32"]) == 0
    prepared = prepare_celebamask_hq(tmp_path / "faces", tmp_path / "data")
    assert {split: len(data) for split, data in prepared.splits.items()} == {"train": 16, "dev": 2, "test": 2}
    index = write_image_shards(tmp_path / "data" / "test", tmp_path / "dump", progress=False)
    (batch,) = image_batches(index, 9)
    assert batch["image_id"] == ["00009", "00019"]
    assert np.array_equal(batch["image"][1].numpy(), label_map(0, 19, 32))


@pytest.mark.parametrize("option", [("--count", "9"), ("--size", "8")])
def test_too_few_or_too_small(tmp_path, option, capsys):
    assert run(make_faces.main, [str(tmp_path), *option]) == 1
    assert "at least 10 and 16 are needed" in capsys.readouterr().err
