"""The alignment of symbols and units against a sum over every path there is, one by one."""

import itertools

import numpy as np
import pytest
import torch

from sqvae_speech.units.alignment import _PRIOR, LEAP, Aligner, _improved, align, train_aligner

TEXTS = [np.array(text) for text in ([0, 1, 2], [0, 2, 1, 2], [1], [0, 1, 2, 0, 1, 2, 1, 0])]
UNITS = [np.array(units) for units in ([0, 3, 1, 2], [0, 2, 2], [3, 1], [1, 0, 3])]


def paths(length: int, units: int):
    """Every way to walk through ``length`` symbols in ``units`` steps, ends within reach of a step's leap."""
    for places in itertools.combinations_with_replacement(range(length), units):
        leaps = np.diff([-1, *places, length])
        if leaps.max() <= LEAP:
            yield places


def probability(model: Aligner, text: np.ndarray, units: np.ndarray, places: tuple[int, ...]) -> float:
    emission, stay, skip = (np.asarray(part) for part in model)
    value = 1.0
    for unit, place in zip(units, places, strict=True):
        value *= emission[text[place], unit]
    value *= np.prod([skip[text[place]] for place in range(places[0])]) * (1 - skip[text[places[0]]])
    for here, there in itertools.pairwise(places):
        if here == there:
            value *= stay[text[here]]
        else:
            value *= 1 - stay[text[here]]
            value *= np.prod([skip[text[place]] for place in range(here + 1, there)]) * (1 - skip[text[there]])
    value *= 1 - stay[text[places[-1]]]
    return value * np.prod([skip[text[place]] for place in range(places[-1] + 1, len(text))])


@pytest.fixture
def model() -> Aligner:
    generator = torch.Generator().manual_seed(0)
    emission = torch.rand(3, 4, generator=generator, dtype=torch.float64)
    stay, skip = (0.1 + 0.6 * torch.rand(3, generator=generator, dtype=torch.float64) for _ in range(2))
    return Aligner(emission / emission.sum(1, keepdim=True), stay, skip)


def test_the_best_path_is_the_best_of_all(model):
    for text, units, counts in zip(TEXTS, UNITS, align(model, TEXTS, UNITS), strict=True):
        best = max(paths(len(text), len(units)), key=lambda places: probability(model, text, units, places))
        assert counts.tolist() == np.bincount(best, minlength=len(text)).tolist()


def test_a_round_of_training_counts_what_all_paths_do(model):
    emitted, stayed, there, visited = np.zeros((3, 4)), np.zeros(3), np.zeros(3), np.zeros(3)
    for text, units in zip(TEXTS, UNITS, strict=True):
        weights = {places: probability(model, text, units, places) for places in paths(len(text), len(units))}
        total = sum(weights.values())
        for places, weight in weights.items():
            for number, (unit, place) in enumerate(zip(units, places, strict=True)):
                emitted[text[place], unit] += weight / total
                there[text[place]] += weight / total
                stayed[text[place]] += (number > 0 and places[number - 1] == place) * weight / total
        visited += np.bincount(text, minlength=3)
    prior = torch.tensor([1.0, 2.0, 0.5, 1.5], dtype=torch.float64)
    new = _improved(model, TEXTS, UNITS, prior)
    expected = emitted + prior.numpy()
    np.testing.assert_allclose(new.emission, expected / expected.sum(1, keepdims=True), rtol=1e-10)
    np.testing.assert_allclose(new.stay, (stayed + 0.5) / (there + 1), rtol=1e-10)
    np.testing.assert_allclose(new.skip, (visited - (there - stayed) + 0.1) / (visited + 1), rtol=1e-10)


def test_it_finds_which_units_a_symbol_has():
    """Symbol s gives off units 2 s and 2 s + 1, one to three of them; 3 is not heard."""
    rng = np.random.default_rng(0)
    texts, units, truth = [], [], []
    for _ in range(120):
        text = rng.integers(0, 4, rng.integers(3, 9))
        text[0] = 0
        counts = np.where(text == 3, 0, rng.integers(1, 4, len(text)))
        said = np.concatenate(
            [2 * symbol + rng.integers(0, 2, count) for symbol, count in zip(text, counts, strict=True)]
        )
        texts.append(text)
        units.append(said)
        truth.append(counts)
    model = train_aligner(texts, units, 4, 6)
    assert model.skip[3] > 0.9
    assert (model.skip[:3] < 0.1).all()
    own = [model.emission[symbol, 2 * symbol : 2 * symbol + 2].sum() for symbol in range(3)]
    most = sum(len(said) for said in units) / 4
    assert min(own) > 1 - 2 * _PRIOR / most
    found = align(model, texts, units)
    # neighbours that are the same symbol share their units as they like
    same = [
        np.array_equal(one[text < 3], other[text < 3]) for one, other, text in zip(found, truth, texts, strict=True)
    ]
    distinct = [not (np.diff(text[text < 3]) == 0).any() for text in texts]
    assert all(right for right, clear in zip(same, distinct, strict=True) if clear)
    assert [counts.sum() for counts in found] == list(map(len, units))
