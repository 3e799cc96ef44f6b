"""The segment loader: every utterance once an epoch, exact positions, N processes equal to one."""

import itertools

import numpy as np
import pytest
import torch
from data_fixtures import make_data_dir

from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.data.loader import SegmentLoader
from sqvae_speech.data.reader import batch_utterances, iterate_utterances
from sqvae_speech.data.shards import write_shards
from sqvae_speech.errors import UserError

FRAMES = 32  # of 31 to 42 in the utterances: some are shorter, most longer


@pytest.fixture(scope="module")
def dump(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loader")
    make_data_dir(folder / "data" / "train")
    write_shards(
        folder / "data" / "train",
        folder / "dump",
        MelSpec.preset("sqvae16k"),
        utterances_per_shard=5,
        progress=False,
    )
    return folder / "dump"


def make(dump, **options):
    return SegmentLoader(dump, **{"batch_size": 4, "segment_frames": FRAMES, "seed": 3, **options})


def take(loader, count):
    return list(itertools.islice(iter(loader), count))


def assert_same(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a["utterance_id"] == b["utterance_id"]
        for key in ("mel", "lengths", "speaker"):
            assert a[key].dtype == b[key].dtype
            assert torch.equal(a[key], b[key])


def test_batch_shapes_and_types(dump):
    (batch,) = take(make(dump), 1)
    assert batch["mel"].shape == (4, 80, FRAMES)
    assert batch["mel"].dtype == torch.float32
    assert batch["lengths"].dtype == batch["speaker"].dtype == torch.int64
    assert [f"s{speaker}" for speaker in batch["speaker"]] == [name[:2] for name in batch["utterance_id"]]


@pytest.mark.parametrize("batch_size", [4, 5, 24, 31])  # dividing an epoch of 12 or not, larger than it
def test_every_utterance_once_an_epoch(dump, batch_size):
    loader = make(dump, batch_size=batch_size)
    names = [name for batch in take(loader, 24) for name in batch["utterance_id"]]
    epochs = [names[start : start + 12] for start in range(0, len(names) - 11, 12)]
    assert all(len(set(epoch)) == 12 for epoch in epochs)
    assert epochs[0] != epochs[1]  # another order each time
    assert loader.epoch == 24 * batch_size / 12


def test_crops_are_cut_from_the_utterance(dump):
    mels = {utterance.utterance_id: utterance.mel for utterance in iterate_utterances(dump)}
    starts = set()
    for batch in take(make(dump), 60):
        for mel, length, name in zip(batch["mel"].numpy(), batch["lengths"], batch["utterance_id"], strict=True):
            whole = mels[name]
            assert length == min(FRAMES, whole.shape[1])
            assert not mel[:, length:].any()
            places = range(whole.shape[1] - int(length) + 1)
            found = [place for place in places if np.array_equal(whole[:, place : place + length], mel[:, :length])]
            assert len(found) == 1
            if name == "s2-003":
                starts.add(found[0])
                possible = set(places)
    assert len(starts) > len(possible) // 2  # places are drawn anew every epoch
    assert starts <= possible


def test_seed_decides(dump):
    assert_same(take(make(dump), 7), take(make(dump), 7))
    names = [[batch["utterance_id"] for batch in take(make(dump, seed=seed), 3)] for seed in (3, 4)]
    assert names[0] != names[1]


def test_without_shuffling_the_order_is_the_manifest(dump):
    names = [name for batch in take(make(dump, shuffle=False), 3) for name in batch["utterance_id"]]
    assert names == [utterance.utterance_id for utterance in iterate_utterances(dump)]


@pytest.mark.parametrize("options", [{"num_workers": 3}, {"cache_bytes": 0}, {"cache_bytes": 30_000}])
def test_workers_and_cache_change_nothing(dump, options):
    assert_same(take(make(dump), 20), take(make(dump, **options), 20))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_resume_equals_uninterrupted(dump, num_workers):
    whole = take(make(dump, num_workers=num_workers), 11)
    first = make(dump, num_workers=num_workers)
    take(first, 4)
    state = first.state_dict()
    second = make(dump, num_workers=num_workers)
    second.load_state_dict(state)
    assert_same(whole[4:], take(second, 7))


def test_state_can_be_loaded_while_iterating(dump):
    whole = take(make(dump, num_workers=2), 9)
    loader = make(dump, num_workers=2)
    iterator = iter(loader)
    start = loader.state_dict()
    for _ in range(5):
        next(iterator)
    loader.load_state_dict(start)
    assert_same(whole[:3], list(itertools.islice(iterator, 3)))


def test_processes_together_see_the_global_batch(dump):
    one = take(make(dump, batch_size=6), 5)
    ranks = [take(make(dump, batch_size=6, rank=rank, world_size=3), 5) for rank in range(3)]
    for step, whole in enumerate(one):
        parts = [rank[step] for rank in ranks]
        assert torch.equal(whole["mel"], torch.cat([part["mel"] for part in parts]))
        assert whole["utterance_id"] == [name for part in parts for name in part["utterance_id"]]


def test_another_number_of_processes_takes_the_position_up(dump):
    whole = take(make(dump, batch_size=6), 8)
    two = make(dump, batch_size=6, rank=1, world_size=2)
    take(two, 3)
    one = make(dump, batch_size=6)
    one.load_state_dict(two.state_dict())
    assert_same(whole[3:], take(one, 5))


def test_position_of_other_data_is_refused(dump):
    state = make(dump).state_dict()
    with pytest.raises(UserError, match=r"seed 3.*seed 5"):
        make(dump, seed=5).load_state_dict(state)
    with pytest.raises(UserError, match="other contents"):
        make(dump).load_state_dict({**state, "fingerprint": "0" * 64})


def test_speakers_are_numbered_by_the_given_order(dump):
    speakers = ("s9", "s2", "s1", "s0")
    for batch in take(make(dump, speakers=speakers), 3):
        assert [speakers[number] for number in batch["speaker"]] == [name[:2] for name in batch["utterance_id"]]
    with pytest.raises(UserError, match=r"speaker 's1' .* not trained; known are s0, s2"):
        make(dump, speakers=("s0", "s2"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 5, "world_size": 2}, "batch_size 5 cannot be shared by 2"),
        ({"batch_size": 0}, "batch_size 0; at least 1"),
        ({"segment_frames": 0}, "segment_frames 0"),
        ({"rank": 1}, "rank 1 of 1"),
    ],
)
def test_illegal_settings(dump, options, message):
    with pytest.raises(UserError, match=message):
        make(dump, **options)


def test_batches_of_whole_utterances(dump):
    mels = {utterance.utterance_id: utterance for utterance in iterate_utterances(dump)}
    seen = []
    for batch in batch_utterances(dump, max_frames=100):
        count, _, longest = batch["mel"].shape
        assert count * longest <= 100
        assert longest == batch["lengths"].max()
        for row, name in enumerate(batch["utterance_id"]):
            utterance, length = mels[name], int(batch["lengths"][row])
            assert np.array_equal(batch["mel"][row, :, :length].numpy(), utterance.mel)
            assert not batch["mel"][row, :, length:].any()
            assert batch["peak"][row] == np.float32(utterance.peak)
            assert batch["meta"][row] == utterance.meta
        seen += batch["utterance_id"]
    assert sorted(seen) == list(mels)
    assert [len(b["utterance_id"]) for b in batch_utterances(dump, max_frames=1)] == [1] * 12
