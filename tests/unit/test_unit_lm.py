"""The unit language model: what a prediction depends on, windows, sampling."""

import itertools

import numpy as np
import pytest
import torch
from unit_lm_fixtures import SPEAKERS, random_model, random_sequences

from sqvae_speech.models.unit_lm import IGNORE, UnitLm, UnitLmConfig, UnitVocabulary
from sqvae_speech.models.unit_lm_sampling import code_probabilities, sample_units
from sqvae_speech.units.blocks import UnitBlockLoader, UnitSequences
from sqvae_speech.units.lm_scoring import sequence_nats


def alone(model: UnitLm, sequences: UnitSequences, number: int) -> np.ndarray:
    """Nats of a sequence that fits into the context, read by itself: (U, N)."""
    units = np.arange(sequences.predictions[number])[None]
    symbols, targets = sequences.cut(np.full_like(units, number), units)
    condition = torch.tensor([sequences.conditions[number]])
    out = model(*map(torch.from_numpy, (symbols, targets)), positions=torch.from_numpy(units), conditions=condition)
    return out.nats[0].numpy()


@pytest.mark.parametrize("books", [1, 3])
def test_a_sequence_has_the_same_nats_in_any_company(books):
    sequences = random_sequences([7, 0, 12, 3, 9], SPEAKERS, books=books)
    model = random_model(sequences, num_conditions=2, context=16)
    expected = [alone(model, sequences, number).sum() for number in range(5)]
    for max_symbols in (1, 50, 10_000):
        np.testing.assert_allclose(sequence_nats(model, sequences, max_symbols=max_symbols), expected, rtol=1e-5)
    shares = [sequence_nats(model, sequences, max_symbols=50, rank=rank, world_size=3) for rank in range(3)]
    np.testing.assert_allclose(sum(shares), expected, rtol=1e-5)


@pytest.mark.parametrize("books", [1, 2])
def test_sequences_packed_into_a_block_do_not_see_each_other(books):
    sequences = random_sequences([4, 6, 2, 1], SPEAKERS, books=books)
    model = random_model(sequences, num_conditions=2, context=17)  # all of them, with their ends
    batch = next(iter(UnitBlockLoader(sequences, context=17, batch_size=1)))
    packed = model(**batch).nats[0].numpy()
    order = np.random.default_rng((0, 0)).permutation(4)
    expected = np.concatenate([alone(model, sequences, number) for number in order])
    np.testing.assert_allclose(packed, expected, rtol=1e-5, atol=1e-6)


def test_padding_changes_nothing():
    sequences = random_sequences([6], books=2)
    model = random_model(sequences, context=8)
    symbols, targets = (torch.from_numpy(array) for array in sequences.cut(np.zeros((1, 7), int), np.arange(7)[None]))
    padded = torch.cat([symbols, symbols.flip(1)], 1), torch.cat([targets, torch.full_like(targets, IGNORE)], 1)
    expected, got = model(symbols, targets), model(*padded)
    torch.testing.assert_close(got.nats[:, :7], expected.nats)
    assert not got.nats[:, 7:].any()
    torch.testing.assert_close(got.loss, expected.loss)


def test_a_prediction_depends_on_what_is_before_and_on_whose_it_is():
    sequences = random_sequences([10], SPEAKERS, books=2)
    model = random_model(sequences, num_conditions=2, context=16)
    before = alone(model, sequences, 0)
    sequences.codes[1, 4] = (sequences.codes[1, 4] + 1) % 5
    after = alone(model, sequences, 0)
    changed = np.flatnonzero(np.abs(after - before).ravel() > 1e-6)
    assert changed.min() == 4 * 2 + 1, "the code itself, and nothing before it"
    assert set(range(5 * 2, 21)) <= set(changed), "all codes after it"
    sequences.conditions[:] = 1
    assert np.abs(alone(model, sequences, 0) - after)[:-1].min() > 1e-6


def test_training_hides_conditions_of_whole_sequences():
    sequences = random_sequences([4, 4], SPEAKERS)
    told = random_model(sequences, num_conditions=2, context=10, dropout=0.0, condition_dropout=0.0).train()
    hidden = random_model(sequences, num_conditions=2, context=10, dropout=0.0, condition_dropout=1.0).train()
    batch = next(iter(UnitBlockLoader(sequences, context=10, batch_size=1)))
    unknown = {**batch, "conditions": torch.full_like(batch["conditions"], 2)}
    assert torch.equal(hidden(**batch).nats, told(**unknown).nats)
    assert not torch.equal(told(**batch).nats, told(**unknown).nats)
    sometimes = random_model(sequences, num_conditions=2, context=10, dropout=0.0, condition_dropout=0.5).train()
    known, without = told(**batch).nats[0, :5], told(**unknown).nats[0, :5]
    seen = {tuple(sometimes(**batch).nats[0, :5].flatten().tolist()) for _ in range(20)}
    assert seen == {tuple(known.flatten().tolist()), tuple(without.flatten().tolist())}, (
        "all units of a sequence alike"
    )


def test_probabilities_of_all_sequences_sum_to_one():
    """Of at most two units of two codebooks, and the mass of longer ones."""
    vocabulary = UnitVocabulary(2, 2)
    store_like = random_sequences([3], size=2, books=2)
    model = random_model(store_like, context=4)
    total = 0.0
    for length in range(3):
        for codes in itertools.product((0, 1), repeat=2 * length):
            rows = np.array(codes, dtype=np.int64).reshape(length, 2).T
            symbols, targets = _single(vocabulary, rows)
            nats = model(symbols, targets).nats[0].numpy()
            total += np.exp(-nats.sum())
            if length == 2:
                total += np.exp(-nats[:2].sum()) * (1 - np.exp(-nats[2].sum()))  # what goes on
    assert total == pytest.approx(1.0, abs=1e-5)


def _single(vocabulary: UnitVocabulary, codes: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    books, size = vocabulary.num_codebooks, vocabulary.codebook_size
    flat = [code + book * size for column in codes.T for book, code in enumerate(column)]
    symbols = [vocabulary.begin, *flat, *[vocabulary.begin] * (books - 1)]
    targets = [*codes.T.ravel().tolist(), vocabulary.end, *[IGNORE] * (books - 1)]
    return torch.tensor(symbols).view(1, -1, books), torch.tensor(targets).view(1, -1, books)


def test_windows_overlap_by_half_a_context():
    model = random_model(random_sequences([3]), context=8)
    starts = [model.window_start(unit) for unit in range(20)]
    assert starts == [0] * 8 + [4] * 4 + [8] * 4 + [12] * 4
    assert all(4 <= unit - start < 8 for unit, start in enumerate(starts) if unit >= 8)


@pytest.mark.parametrize(("books", "length"), [(1, 30), (2, 21)])
def test_long_sequences_are_scored_window_by_window(books, length):
    sequences = random_sequences([length], SPEAKERS, books=books)
    model = random_model(sequences, num_conditions=2, context=8)
    expected = 0.0
    for unit in range(length + 1):
        units = np.arange(model.window_start(unit), unit + 1)[None]
        symbols, targets = map(torch.from_numpy, sequences.cut(np.zeros_like(units), units))
        expected += model(symbols, targets, conditions=torch.tensor([0])).nats[0, -1].sum().item()
    assert sequence_nats(model, sequences)[0] == pytest.approx(expected, rel=1e-5)


def uncached(model: UnitLm, number: int, max_units: int, conditions, generator) -> list[list[list[int]]]:
    """Sampling that reads the whole window anew for every code, one sequence at a time from the same draws."""
    vocabulary = model.vocabulary
    books, size = vocabulary.num_codebooks, vocabulary.codebook_size
    codes: list[list[int]] = [[] for _ in range(number)]
    ended = [False] * number
    for step in range(max_units * books):
        unit, book = divmod(step, books)
        rows = []
        for row in range(number):
            start = model.window_start(unit) * books
            flat = [vocabulary.begin, *(code + i % books * size for i, code in enumerate(codes[row]))]
            read = flat[start : step + 1]
            read += [vocabulary.begin] * (-len(read) % books)
            symbols = torch.tensor(read).view(1, -1, books)
            positions = torch.arange(start // books, unit + 1)[None]
            per_symbol = positions.repeat_interleave(books, 1)
            condition = None if conditions is None else conditions[row].expand(1, len(read))
            hidden = model.hidden(symbols.flatten(1), positions=per_symbol, conditions=condition)
            rows.append(model.logits(hidden.view(1, -1, books, model.config.dim))[0, -1, book])
        drawn = torch.multinomial(torch.stack(rows).softmax(-1), 1, generator=generator)[:, 0].tolist()
        for row, code in enumerate(drawn):
            ended[row] |= code == size
            codes[row].append(0 if code == size else code)
        if all(ended) and book == books - 1:
            break
    return codes


@pytest.mark.parametrize(("books", "shape"), [(1, None), (3, None), (1, (3, 4)), (2, (2, 3))])
def test_cached_sampling_equals_uncached(books, shape):
    length = shape[0] * shape[1] if shape else 20
    sequences = random_sequences([length], SPEAKERS, size=60, books=books, shape=shape)  # so many that ends are rare
    context = length if shape else 6
    model = random_model(sequences, num_conditions=2, context=context)
    conditions = torch.tensor([0, 1, 2])
    with torch.no_grad():
        expected = uncached(model, 3, length, conditions, torch.Generator().manual_seed(1))
    got = sample_units(model, 3, max_units=length, conditions=conditions, generator=torch.Generator().manual_seed(1))
    assert max(units.shape[1] for units in got) > (0 if shape else 2 * context), "beyond a window"
    for row, units in zip(expected, got, strict=True):
        assert units.shape[0] == books
        assert units.T.flatten().tolist() == row[: units.numel()]


def test_samples_come_as_often_as_scored():
    """Of a model that knows three codes and sequences of at most two units, over 4,000 draws."""
    sequences = random_sequences([2], size=3)
    model = random_model(sequences, context=4)
    drawn = sample_units(model, 4000, max_units=2, generator=torch.Generator().manual_seed(0))
    for codes in ([], [0], [1], [2]):
        symbols, targets = _single(UnitVocabulary(3), np.array([codes], dtype=np.int64))
        expected = np.exp(-model(symbols, targets).nats.sum().item())
        found = sum(units[0].tolist() == codes for units in drawn) / 4000
        assert found == pytest.approx(expected, abs=4 * np.sqrt(expected / 4000) + 1e-3)


def test_a_prompt_is_continued():
    sequences = random_sequences([20], size=60, books=2)
    model = random_model(sequences, context=6)
    with torch.no_grad():
        model.embedding.weight[-1] = 0  # the end is never the most probable of so many
    whole = sample_units(model, 2, max_units=20, temperature=0)
    prompt = torch.stack([units[:, :9] for units in whole])
    continued = sample_units(model, 2, max_units=20, prompt=prompt, temperature=0)
    assert all(units.shape == (2, 20) for units in whole)
    assert all(torch.equal(one, other) for one, other in zip(whole, continued, strict=True))


def test_top_k_top_p_and_temperature():
    logits = torch.tensor([0.5, 0.2, 0.2, 0.1]).log()
    torch.testing.assert_close(code_probabilities(logits), torch.tensor([0.5, 0.2, 0.2, 0.1]))
    torch.testing.assert_close(code_probabilities(logits, temperature=0), torch.tensor([1.0, 0.0, 0.0, 0.0]))
    squares = torch.tensor([0.25, 0.04, 0.04, 0.01])
    torch.testing.assert_close(code_probabilities(logits, temperature=0.5), squares / squares.sum())
    torch.testing.assert_close(code_probabilities(logits, top_k=1), torch.tensor([1.0, 0.0, 0.0, 0.0]))
    torch.testing.assert_close(code_probabilities(logits, top_k=9), torch.tensor([0.5, 0.2, 0.2, 0.1]))
    torch.testing.assert_close(code_probabilities(logits, top_p=0.4), torch.tensor([1.0, 0.0, 0.0, 0.0]))
    kept = code_probabilities(torch.tensor([0.1, 0.5, 0.25, 0.15]).log(), top_p=0.6)
    torch.testing.assert_close(kept, torch.tensor([0.0, 2 / 3, 1 / 3, 0.0]))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"dim": 10, "num_heads": 4}, "dim must be a multiple of 2"),
        ({"num_layers": 0}, "num_layers must be at least 1"),
        ({"dropout": 1.0}, "dropout must be in"),
        ({"context": 1}, "context must be at least 2"),
        ({"condition_dropout": 2.0}, "condition_dropout must be a probability"),
        ({"hidden_ratio": 0.0}, "hidden_ratio must be positive"),
    ],
)
def test_sizes_out_of_range(config, message):
    with pytest.raises(ValueError, match=message):
        UnitLmConfig(**config)


def test_a_context_holds_whole_images():
    with pytest.raises(ValueError, match="multiple of the 12 codes of an image, got 16"):
        UnitLm(UnitLmConfig(context=16), UnitVocabulary(5, 1, (3, 4)))
