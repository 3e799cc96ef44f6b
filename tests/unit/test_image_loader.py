"""Endless batches of images: every image once an epoch, the same from cache and shards, for any processes."""

import itertools

import numpy as np
import pytest
import torch
from image_fixtures import make_image_shards

from sqvae_speech.data.image_index import ImageIndex
from sqvae_speech.data.image_loader import ImageLoader, PackedPixels, ShardPixels, image_batches, to_pixels
from sqvae_speech.errors import UserError


@pytest.fixture
def index(tmp_path) -> ImageIndex:
    return make_image_shards(tmp_path / "train", count=23)


def loader(index, **options) -> ImageLoader:
    return ImageLoader(index, **{"batch_size": 4, "seed": 3, **options})


def take(source, count: int) -> list[dict]:
    return list(itertools.islice(iter(source), count))


def assert_same(one: list[dict], other: list[dict]) -> None:
    assert [batch["image_id"] for batch in one] == [batch["image_id"] for batch in other]
    for a, b in zip(one, other, strict=True):
        assert a["image"].dtype == b["image"].dtype
        assert torch.equal(a["image"], b["image"])


def test_every_image_comes_once_an_epoch(index):
    images = {
        name: image
        for batch in image_batches(index, 5)
        for name, image in zip(batch["image_id"], batch["image"], strict=True)
    }
    batches = take(loader(index), 23)  # 4 epochs
    names = [name for batch in batches for name in batch["image_id"]]
    epochs = [names[start : start + 23] for start in range(0, 92, 23)]
    assert all(sorted(epoch) == sorted(images) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    for batch in batches:
        assert batch["image"].shape == (4, 3, 6, 4)
        assert batch["image"].dtype == torch.float32
        assert all(torch.equal(a, images[name]) for a, name in zip(batch["image"], batch["image_id"], strict=True))


def test_in_the_order_of_the_manifest(index):
    expected = [entry.image_id for entry in index.entries()]
    names = [name for batch in take(loader(index, shuffle=False), 23) for name in batch["image_id"]]
    assert names == expected * 4
    batches = list(image_batches(index, 10))
    assert [len(batch["image_id"]) for batch in batches] == [10, 10, 3]
    assert [label for batch in batches for label in batch["label"]] == [entry.label for entry in index.entries()]
    some = list(image_batches(index, 10, index.entries()[5:8]))
    assert [name for batch in some for name in batch["image_id"]] == expected[5:8]


@pytest.mark.parametrize("options", [{"num_workers": 2}, {"cache_bytes": 0}, {"shuffle_shards": 6}])
def test_workers_and_caches_change_nothing(index, options):
    plain = loader(index)
    assert isinstance(plain._source, PackedPixels)
    other = loader(index, **options)
    assert isinstance(other._source, ShardPixels if options.get("cache_bytes") == 0 else PackedPixels)
    assert_same(take(plain, 20), take(other, 20))


@pytest.mark.parametrize("shuffle_shards", [0, 2])
def test_processes_share_the_batches_and_positions_are_taken_up_by_others(index, shuffle_shards):
    options = {"shuffle_shards": shuffle_shards}
    alone = take(loader(index, **options), 12)
    both = [loader(index, rank=rank, world_size=2, num_workers=rank, **options) for rank in (0, 1)]
    steps = list(zip(*(take(one, 12) for one in both), strict=True))
    joined = [
        {"image": torch.cat([a["image"], b["image"]]), "image_id": a["image_id"] + b["image_id"]} for a, b in steps
    ]
    assert_same(joined, alone)
    first = loader(index, rank=1, world_size=2, **options)
    take(first, 5)
    resumed = loader(index, num_workers=1, **options)
    resumed.load_state_dict(first.state_dict())
    assert resumed.epoch == 20 / 23
    assert_same(take(resumed, 7), alone[5:])


def test_a_position_of_other_images_is_refused(index, tmp_path):
    state = loader(index).state_dict()
    other = loader(make_image_shards(tmp_path / "other", count=5))
    with pytest.raises(UserError, match="the saved position is of shards with other contents"):
        other.load_state_dict(state)
    with pytest.raises(UserError, match="the saved position is of seed 3"):
        loader(index, seed=4).load_state_dict(state)


def test_numbers_that_are_not_legal(index):
    with pytest.raises(UserError, match="batch_size 3 cannot be shared by 2 processes"):
        loader(index, batch_size=3, world_size=2)
    with pytest.raises(UserError, match="rank 2 of 2 processes"):
        loader(index, rank=2, world_size=2)
    with pytest.raises(UserError, match="batch_size 0; at least 1"):
        list(image_batches(index, 0))


def test_label_maps_are_numbers(tmp_path):
    index = make_image_shards(tmp_path / "train", shape=(6, 4), classes=("sky", "sea", "sand"))
    (batch,) = take(loader(index), 1)
    assert batch["image"].shape == (4, 6, 4)
    assert batch["image"].dtype == torch.int64
    assert int(batch["image"].max()) == 2


def test_shards_that_lie_elsewhere(index, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    address = f"pipe:cat {index.folder}/{{name}}"
    assert_same(take(loader(index), 12), take(loader(address), 12))
    windows = {"shuffle_shards": 2}
    assert_same(take(loader(index, **windows), 12), take(loader(address, **windows), 12))
    assert_same(list(image_batches(index, 4)), list(image_batches(address, 4)))


def test_pixels_come_back(index):
    (batch,) = take(loader(index), 1)
    pixels = to_pixels(batch["image"])
    assert pixels.dtype == np.uint8
    assert np.array_equal(np.float32(pixels) / np.float32(255), batch["image"].numpy())
    assert to_pixels(torch.tensor([-1.0, 0.5, 2.0])).tolist() == [0, 128, 255]
