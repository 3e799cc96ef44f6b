"""The loader of a unit language model: every unit once an epoch, an exact position, shares of a batch."""

from itertools import islice

import numpy as np
import pytest
import torch
from unit_lm_fixtures import SPEAKERS, random_sequences, random_store

from sqvae_speech.errors import UserError
from sqvae_speech.models.unit_lm import IGNORE
from sqvae_speech.units.blocks import UnitBlockLoader, UnitSequences, vocabulary_of
from sqvae_speech.units.sequences import UtteranceUnits
from sqvae_speech.units.store import UnitStoreMeta, deduplicate_store, store_of

LENGTHS = [7, 0, 20, 3, 9, 1]
PREDICTIONS = sum(LENGTHS) + len(LENGTHS)


def blocks(loader: UnitBlockLoader, count: int) -> list[dict[str, torch.Tensor]]:
    return list(islice(iter(loader), count))


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("books", [1, 3])
def test_an_epoch_has_every_unit_and_end_once_with_what_is_before_it(books):
    store = random_store(LENGTHS, books=books)
    vocabulary = vocabulary_of(store.meta)
    loader = UnitBlockLoader(UnitSequences(store, vocabulary, SPEAKERS), context=1, batch_size=1)
    found = set()
    for block in blocks(loader, PREDICTIONS):
        symbols, targets = block["symbols"][0, 0].tolist(), block["targets"][0, 0].tolist()
        found.add((int(block["positions"]), int(block["conditions"]), *symbols, *targets))
    expected = set()
    for units in store:
        before = vocabulary.begin
        for position, column in enumerate(units.codes.T.tolist()):
            inside = [code + book * 5 for book, code in enumerate(column)]
            expected.add((position, SPEAKERS.index(units.speaker), before, *inside[:-1], *column))
            before = inside[-1]
        after = [vocabulary.begin] * (books - 1), [IGNORE] * (books - 1)
        expected.add((units.num_units, SPEAKERS.index(units.speaker), before, *after[0], vocabulary.end, *after[1]))
    assert found == expected


def test_blocks_follow_one_another_without_gaps_over_the_ends_of_epochs():
    sequences = random_sequences(LENGTHS)
    small = UnitBlockLoader(sequences, context=1, batch_size=1, seed=3)
    large = UnitBlockLoader(sequences, context=16, batch_size=5, seed=3)
    flat = torch.cat([block["targets"][0] for block in blocks(small, 16 * 5 * 4)])
    assert torch.equal(torch.cat([batch["targets"].flatten(0, 1) for batch in blocks(large, 4)]), flat)
    first, second = flat[:PREDICTIONS], flat[PREDICTIONS : 2 * PREDICTIONS]
    assert torch.equal(first.sort(0).values, second.sort(0).values)
    assert not torch.equal(first, second), "another order"
    assert large.epoch == pytest.approx(16 * 5 * 4 / PREDICTIONS)


def test_segments_change_where_a_sequence_begins():
    loader = UnitBlockLoader(random_sequences(LENGTHS), context=12, batch_size=2)
    for batch in blocks(loader, 5):
        starts = batch["positions"] == 0
        starts[:, 0] = False
        assert torch.equal(batch["segments"], starts.cumsum(1))
        assert torch.equal(batch["symbols"][..., 0] == 5, batch["positions"] == 0), "the beginning, and only there"


def test_any_position_can_be_taken_up():
    sequences = random_sequences(LENGTHS, SPEAKERS)
    whole = blocks(UnitBlockLoader(sequences, context=8, batch_size=4, seed=1), 9)
    loader = UnitBlockLoader(sequences, context=8, batch_size=4, seed=1)
    blocks(loader, 4)
    other = UnitBlockLoader(random_sequences(LENGTHS, SPEAKERS), context=8, batch_size=4, seed=1)
    other.load_state_dict(loader.state_dict())
    assert all(same(one, two) for one, two in zip(blocks(other, 5), whole[4:], strict=True))
    # and by another number of processes
    halves = [UnitBlockLoader(sequences, context=8, batch_size=4, seed=1, rank=rank, world_size=2) for rank in (0, 1)]
    for half in halves:
        half.load_state_dict(loader.state_dict())
    for batch, *parts in zip(whole[4:], *(blocks(half, 5) for half in halves), strict=True):
        assert same(batch, {name: torch.cat([part[name] for part in parts]) for name in batch})


def test_a_position_of_other_units_or_settings_is_refused():
    state = UnitBlockLoader(random_sequences(LENGTHS), context=8, batch_size=4).state_dict()
    with pytest.raises(UserError, match="other units"):
        UnitBlockLoader(random_sequences(LENGTHS, seed=1), context=8, batch_size=4).load_state_dict(state)
    with pytest.raises(UserError, match="context 8"):
        UnitBlockLoader(random_sequences(LENGTHS), context=4, batch_size=4).load_state_dict(state)
    with pytest.raises(UserError, match="multiple of 3"):
        UnitBlockLoader(random_sequences(LENGTHS), context=4, batch_size=4, world_size=3)


def test_blocks_of_images_are_images():
    loader = UnitBlockLoader(random_sequences([6] * 5, shape=(2, 3)), context=12, batch_size=2)
    for batch in blocks(loader, 6):
        assert batch["positions"].tolist() == [[*range(6), *range(6)]] * 2
        assert batch["segments"].tolist() == [[0] * 6 + [1] * 6] * 2
        assert int(batch["targets"].max()) < 5, "no end is predicted"


def test_deduplicated_units_are_read_as_runs():
    meta = UnitStoreMeta(4, frame_rate=50.0)
    store = deduplicate_store(store_of([UtteranceUnits("a", np.array([1, 1, 2, 2, 2, 0]))], meta))
    batch = blocks(UnitBlockLoader(UnitSequences(store, vocabulary_of(store.meta)), context=4, batch_size=1), 1)[0]
    assert batch["targets"].flatten().tolist() == [1, 2, 0, 4]


def test_unknown_speakers_have_a_row_of_their_own():
    assert random_sequences([1, 1, 1], ["bob"]).conditions.tolist() == [1, 0, 1]
    assert random_sequences([1, 1, 1]).conditions.tolist() == [0, 0, 0]


def test_an_empty_store_is_refused():
    with pytest.raises(UserError, match="has no utterances"):
        random_sequences([])
