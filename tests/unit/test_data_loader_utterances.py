"""Batches of whole utterances: a budget of frames, lengths, new neighbours every epoch."""

import numpy as np
import pytest
import torch
from loader_fixtures import assert_same, mels_of, take, utterances, write_synthetic_shards

from sqvae_speech.errors import UserError


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    rng = np.random.default_rng(0)
    lengths = [rng.integers(10, 120, 50).tolist() for _ in range(6)]
    return write_synthetic_shards(tmp_path_factory.mktemp("utterances"), lengths)


def epoch_of(loader):
    batches = []
    while loader.epoch < 1:
        batches += take(loader, 1)
    return batches


def test_batches_hold_whole_utterances_within_the_budget(index):
    mels = mels_of(index)
    seen = []
    for batch in epoch_of(utterances(index, batch_frames=600)):
        mel, lengths = batch["mel"], batch["lengths"]
        assert mel.dtype == torch.float32
        assert lengths.dtype == batch["speaker"].dtype == torch.int64
        assert mel.shape[0] * mel.shape[2] <= 600
        assert mel.shape[2] == lengths.max()
        for row, name in enumerate(batch["utterance_id"]):
            length = int(lengths[row])
            assert np.array_equal(mel[row, :, :length].numpy(), mels[name])
            assert not mel[row, :, length:].any()
            assert int(batch["speaker"][row]) == int(name[1:]) % 4
        seen += batch["utterance_id"]
    assert sorted(seen) == sorted(mels)


def test_utterances_of_like_length_are_together(index):
    batches = epoch_of(utterances(index, batch_frames=600))
    real = sum(int(batch["lengths"].sum()) for batch in batches)
    padded = sum(batch["mel"].shape[0] * batch["mel"].shape[2] for batch in batches)
    assert padded < 1.1 * real  # in any order it would be about 1.5
    # and nearly as many to a batch as the budget allows
    assert len(batches) < 1.3 * real / 600


def test_epochs_differ_in_order_and_in_who_is_with_whom(index):
    loader = utterances(index, batch_frames=600)
    first = epoch_of(loader)
    second = take(loader, len(first))
    groups = [{frozenset(batch["utterance_id"]) for batch in batches} for batches in (first, second)]
    assert len(groups[0] & groups[1]) < 0.2 * len(first)
    # lengths do not run through the epoch in order
    widths = np.array([batch["mel"].shape[2] for batch in first])
    assert abs(np.corrcoef(widths, np.arange(len(widths)))[0, 1]) < 0.3


def test_seed_decides(index):
    assert_same(take(utterances(index), 9), take(utterances(index), 9))
    names = [[batch["utterance_id"] for batch in take(utterances(index, seed=seed), 3)] for seed in (3, 4)]
    assert names[0] != names[1]


@pytest.mark.parametrize("num_workers", [0, 1, 4])
def test_resume_equals_uninterrupted(index, num_workers):
    count = len(epoch_of(utterances(index)))
    whole = take(utterances(index), count + 9)
    first = utterances(index, num_workers=num_workers)
    take(first, count - 2)
    second = utterances(index, num_workers=num_workers)
    second.load_state_dict(first.state_dict())
    assert_same(whole[count - 2 :], take(second, 11))


def test_processes_go_across_the_ends_of_epochs(index):
    """An epoch's batches are no multiple of the processes: the next epoch fills the group up."""
    count = len(epoch_of(utterances(index)))
    world_size = next(size for size in range(2, 9) if count % size)
    steps = count // world_size + 1
    ranks = [take(utterances(index, rank=rank, world_size=world_size), steps) for rank in range(world_size)]
    assert_same(take(utterances(index), count + 1)[-1:], [ranks[count % world_size][-1]])
    assert all(len(rank) == steps for rank in ranks)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_frames": 0}, "batch_frames 0; at least 1"),
        ({"batch_frames": 60}, r"batch_frames 60; 'u\d+' of .* has 1\d\d frames: give at least 1\d\d"),
        ({"rank": 2, "world_size": 2}, "rank 2 of 2"),
        ({"shuffle_shards": -1}, "shuffle_shards -1; at least 0"),
    ],
)
def test_illegal_settings(index, options, message):
    with pytest.raises(UserError, match=message):
        utterances(index, **options)
