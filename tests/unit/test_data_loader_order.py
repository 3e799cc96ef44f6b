"""Every utterance exactly once an epoch, whatever the division into shards, processes, workers and windows."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from loader_fixtures import assert_same, crops, random_lengths, take, utterances, write_synthetic_shards

from sqvae_speech.data.order import EpochOrder
from sqvae_speech.errors import UserError

DIVISIONS = 6


@pytest.fixture(scope="module", params=range(DIVISIONS))
def division(request, tmp_path_factory):
    """Shards of uneven sizes, and settings drawn for them."""
    rng = np.random.default_rng(request.param)
    index = write_synthetic_shards(
        tmp_path_factory.mktemp("division"),
        random_lengths(request.param, num_shards=int(rng.integers(1, 8))),
        dtype=["float32", "float16"][request.param % 2],
        seed=request.param,
    )
    world_size = int(rng.integers(2, 5))
    return index, {
        "world_size": world_size,
        "batch_size": world_size * int(rng.integers(1, 7)),
        "shuffle_shards": [0, 1, 2, 3][request.param % 4],
    }


def epochs_of(steps, num_utterances):
    """The ids of each whole epoch, of batches in the global order."""
    names = [name for batch in steps for name in batch["utterance_id"]]
    return [names[start : start + num_utterances] for start in range(0, len(names), num_utterances)][:-1]


def global_steps(make, shards, world_size, count, **options):
    """What all processes get, step by step, in the order of their ranks."""
    ranks = [take(make(shards, rank=rank, world_size=world_size, **options), count) for rank in range(world_size)]
    return list(itertools.chain.from_iterable(zip(*ranks, strict=True)))


@pytest.mark.parametrize("kind", ["crops", "utterances"])
def test_every_utterance_once_an_epoch(division, kind):
    index, options = division
    make = crops if kind == "crops" else utterances
    options = {key: value for key, value in options.items() if kind == "crops" or key != "batch_size"}
    count = 3 * index.num_utterances // (options.get("batch_size", 1)) + 3
    steps = global_steps(make, index, options.pop("world_size"), count, **options)
    everyone = sorted(make(index)._utterances.ids)
    found = epochs_of(steps, index.num_utterances)
    assert len(found) >= 2
    for epoch in found:
        assert sorted(epoch) == everyone


def test_crops_of_processes_are_the_global_batch(division):
    index, options = division
    whole = take(crops(index, **{**options, "world_size": 1}), 7)
    together = global_steps(crops, index, count=7, **options)
    for step, batch in enumerate(whole):
        parts = together[step * options["world_size"] : (step + 1) * options["world_size"]]
        assert batch["utterance_id"] == [name for part in parts for name in part["utterance_id"]]


def test_utterances_of_processes_are_the_sequence_of_one(division):
    index, options = division
    windows = options["shuffle_shards"]
    one = take(utterances(index, shuffle_shards=windows), 12)
    assert_same(one[:12], global_steps(utterances, index, 3, 4, shuffle_shards=windows))


@pytest.mark.parametrize("kind", ["crops", "utterances"])
@pytest.mark.parametrize("changes", [{"num_workers": 1}, {"num_workers": 4}, {"num_workers": 4, "cache_bytes": 0}])
def test_workers_and_cache_change_nothing(division, kind, changes):
    index, options = division
    make = crops if kind == "crops" else utterances
    options = {"shuffle_shards": options["shuffle_shards"], "world_size": 2, "rank": 1}
    assert_same(take(make(index, **options), 25), take(make(index, **options, **changes), 25))


@pytest.mark.parametrize("kind", ["crops", "utterances"])
def test_a_position_is_taken_up_by_another_number_of_processes(division, kind):
    index, options = division
    make = crops if kind == "crops" else utterances
    options = {"shuffle_shards": options["shuffle_shards"]}
    if kind == "crops":
        options["batch_size"] = 6
    per_step = 1 if kind == "crops" else 2  # batches of the sequence that two processes take in a step
    whole = take(make(index, **options), 3 * per_step + 6)
    two = make(index, rank=1, world_size=2, num_workers=2, **options)
    take(two, 3)
    three = [make(index, rank=rank, world_size=3, **options) for rank in range(3)]
    for loader in three:
        loader.load_state_dict(two.state_dict())
        assert loader.epoch == two.epoch
    steps = list(itertools.chain.from_iterable(zip(*(take(loader, 2) for loader in three), strict=True)))
    names = [name for batch in steps for name in batch["utterance_id"]]
    expected = whole[3 * per_step :][: 2 if kind == "crops" else 6]
    assert names == [name for batch in expected for name in batch["utterance_id"]]


def test_windows_hold_the_utterances_of_their_shards():
    shards = np.repeat(np.arange(10), [3, 1, 4, 1, 5, 9, 2, 6, 5, 3])
    order = EpochOrder(shards, 10, seed=5, shuffle=True, shuffle_shards=4)
    chains = []
    for epoch in range(3):
        plan = order(epoch)
        assert [len(window) for window in plan.window_shards] == [4, 4, 2]
        assert sorted(np.concatenate(plan.window_shards).tolist()) == list(range(10))
        start = 0
        for window, end in zip(plan.window_shards, plan.window_ends, strict=True):
            inside = shards[plan.order[start:end]]
            assert set(inside) == set(window.tolist())
            assert len(inside) == np.isin(shards, window).sum()
            if len(inside) > 6:  # shuffled across the window's shards
                assert (np.diff(inside) < 0).any()
                assert (np.diff(inside) > 0).any()
            start = end
        assert start == len(shards)
        chains.append(np.concatenate(plan.window_shards).tolist())
    assert chains[0] != chains[1] != chains[2]


def test_one_window_is_the_full_shuffle_of_earlier_versions():
    shards = np.repeat(np.arange(3), 4)
    for windows in (0, 3, 8):
        plan = EpochOrder(shards, 3, seed=7, shuffle=True, shuffle_shards=windows)(2)
        rng = np.random.default_rng((7, 2))
        assert plan.order.tolist() == rng.permutation(12).tolist()
        assert plan.draws.tolist() == rng.random(12).tolist()


def test_only_the_shards_of_two_windows_are_mapped(tmp_path):
    index = write_synthetic_shards(tmp_path, [[20, 30, 40]] * 12)
    loader = crops(index, batch_size=2, shuffle_shards=2, cache_bytes=0, num_workers=2)
    for _ in zip(range(60), loader, strict=False):
        assert len(loader._reader._maps) <= 4


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_shards_are_not_held_open(tmp_path):
    """A process may have 1024 files open, and a corpus more shards."""
    index = write_synthetic_shards(tmp_path, [[20]] * 30)
    before = len(list(Path("/proc/self/fd").iterdir()))
    loader = crops(index, cache_bytes=0)
    take(loader, 30)
    assert len(loader._reader._maps) == 30
    assert len(list(Path("/proc/self/fd").iterdir())) < before + 5


def test_a_position_of_another_order_is_refused(tmp_path):
    index = write_synthetic_shards(tmp_path, [[20, 30]] * 4)
    state = crops(index, shuffle_shards=2).state_dict()
    with pytest.raises(UserError, match=r"shuffle_shards 2, .* shuffle_shards 0"):
        crops(index).load_state_dict(state)
    with pytest.raises(UserError, match="batching crops"):
        utterances(index).load_state_dict(state)
    with pytest.raises(UserError, match=r"batch_frames 150, .* batch_frames 99"):
        utterances(index, batch_frames=99).load_state_dict(utterances(index).state_dict())


def test_a_position_of_an_earlier_version_is_taken_up(tmp_path):
    index = write_synthetic_shards(tmp_path, [[20, 30]] * 4)
    loader = crops(index)
    whole = take(loader, 5)
    old = {"position": 12, "epoch": 1, "seed": 3, "shuffle": True, "fingerprint": index.fingerprint}
    loader.load_state_dict(old)
    assert_same(whole[3:], take(loader, 2))
