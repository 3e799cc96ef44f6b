"""The unit language model and its baselines against float64 computations written from their equations."""

import math
from collections import Counter

import numpy as np
import pytest
import torch

from sqvae_speech.evaluation.ngram import ADDED, Bigram, Unigram
from sqvae_speech.models.transformer import ROTARY_BASE
from sqvae_speech.models.unit_lm import IGNORE, UnitLm, UnitLmConfig, UnitVocabulary
from sqvae_speech.units.blocks import UnitSequences
from sqvae_speech.units.sequences import UtteranceUnits
from sqvae_speech.units.store import UnitStoreMeta, store_of


def rms_norm(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + np.finfo(np.float32).eps) * weight


def rotated(x: np.ndarray, position: int) -> np.ndarray:
    """A head's vector, its halves taken as a complex number that turns with the position."""
    half = len(x) // 2
    turned = (x[:half] + 1j * x[half:]) * np.exp(1j * position * ROTARY_BASE ** (-np.arange(half) / half))
    return np.concatenate([turned.real, turned.imag])


def code_nats(model: UnitLm, symbols: list[int], targets: list[list[int]], places=None, condition=None) -> np.ndarray:
    """-log p of every code of a sequence, position by position in float64: (U, N)."""
    weights = {name: value.double().numpy() for name, value in model.state_dict().items()}
    vocabulary, config = model.vocabulary, model.config
    size, books = vocabulary.codebook_size, vocabulary.num_codebooks
    x = np.stack([weights["embedding.weight"][symbol] for symbol in symbols])
    if condition is not None:
        x = x + weights["condition.weight"][condition]
    for t, place in enumerate([] if places is None else places):
        x[t] += weights["places.0.weight"][place[0]] + weights["places.1.weight"][place[1]]
    heads = config.num_heads
    for layer in range(config.num_layers):
        block = f"transformer.blocks.{layer}."
        normed = rms_norm(x, weights[block + "attention_norm.weight"])
        q, k, v = (
            part.reshape(len(x), heads, -1)
            for part in np.split(normed @ weights[block + "attention.qkv.weight"].T, 3, 1)
        )
        attended = np.zeros_like(q)
        for head in range(heads):
            for t in range(len(x)):
                scores = [rotated(q[t, head], t) @ rotated(k[s, head], s) for s in range(t + 1)]
                p = np.exp(np.array(scores) / math.sqrt(q.shape[-1]))
                attended[t, head] = (p / p.sum()) @ v[: t + 1, head]
        x = x + attended.reshape(len(x), -1) @ weights[block + "attention.out.weight"].T
        normed = rms_norm(x, weights[block + "feed_forward_norm.weight"])
        gate, value = np.split(normed @ weights[block + "feed_forward.gate_and_value.weight"].T, 2, 1)
        x = x + (gate / (1 + np.exp(-gate)) * value) @ weights[block + "feed_forward.out.weight"].T
    x = rms_norm(x, weights["transformer.norm.weight"])
    nats = np.zeros((len(targets), books))
    for unit, codes in enumerate(targets):
        for book, code in enumerate(codes):
            if code == IGNORE:
                continue
            hidden, table = x[unit * books + book], weights["embedding.weight"]
            logits = [hidden @ table[book * size + c] for c in range(size)]
            if book == 0 and not vocabulary.shape:
                logits.append(hidden @ table[-1])
            nats[unit, book] = np.log(np.exp(logits).sum()) - logits[code]
    return nats


def model_of(vocabulary: UnitVocabulary, num_conditions: int = 0, **config) -> UnitLm:
    torch.manual_seed(0)
    model = UnitLm(UnitLmConfig(dim=16, num_layers=2, num_heads=2, **config), vocabulary, num_conditions)
    for parameter in model.parameters():  # far from the small weights of a new model, whose logits are all alike
        torch.nn.init.normal_(parameter, std=0.5)
    return model.eval()


def test_loss_of_a_sequence_of_several_codebooks():
    model = model_of(UnitVocabulary(5, 2), num_conditions=3, context=8)
    #        begin, unit 0   ,  unit 1 ,  end
    symbols = [10, 3, 5 + 4, 0, 5 + 2, 10]
    targets = [[3, 4], [0, 2], [5, IGNORE]]
    expected = code_nats(model, symbols, targets, condition=1)
    out = model(torch.tensor([symbols]).view(1, 3, 2), torch.tensor([targets]), conditions=torch.tensor([1]))
    np.testing.assert_allclose(out.nats[0].numpy(), expected, rtol=1e-5, atol=1e-6)
    assert out.loss.item() == pytest.approx(expected.sum() / 3, rel=1e-5), "nats a unit, the end counted as one"


def test_loss_of_an_image():
    model = model_of(UnitVocabulary(4, 1, (2, 3)), context=6)
    codes = [1, 0, 3, 3, 2, 0]
    places = [(row, column) for row in range(2) for column in range(3)]
    expected = code_nats(model, [4, *codes[:-1]], [[code] for code in codes], places)
    out = model(
        torch.tensor([[4, *codes[:-1]]])[..., None],
        torch.tensor([codes])[..., None],
        positions=torch.arange(6)[None],
    )
    np.testing.assert_allclose(out.nats[0].numpy(), expected, rtol=1e-5, atol=1e-6)


def sequences_of(rows: list[list[int]], size: int = 4, **meta) -> UnitSequences:
    store = store_of(
        [UtteranceUnits(f"u{i}", np.array(row)) for i, row in enumerate(rows)], UnitStoreMeta(size, **meta)
    )
    return UnitSequences(store, UnitVocabulary(size, store.meta.num_codebooks, store.meta.shape or ()))


TRAIN = [[0, 1, 1, 2], [1, 1, 2, 0, 1], [0, 1, 2], [3], [1, 1, 1, 2, 2]]
HELD_OUT = [[0, 1, 3, 3], [2], [1, 1, 0, 2, 3]]
END, BEGIN = "end", "begin"


def test_unigram():
    counts = Counter(code for row in TRAIN for code in [*row, END])
    total = sum(counts.values()) + ADDED * 5
    expected = [-sum(math.log((counts[code] + ADDED) / total) for code in [*row, END]) for row in HELD_OUT]
    got = Unigram(sequences_of(TRAIN)).nats(sequences_of(HELD_OUT))
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def kneser_ney(pairs: Counter, v, w, legal: int) -> float:
    """p(w | v) as Chen and Goodman give it, from a dictionary of counts."""

    def discount(values):
        once, twice = sum(value == 1 for value in values), sum(value == 2 for value in values)
        return min(max(once / (once + 2 * twice), 0.1), 0.9) if once else 0.1

    preceding = Counter(second for _, second in pairs)
    lower, upper = discount(preceding.values()), discount(pairs.values())
    q = (max(preceding[w] - lower, 0) + lower * len(preceding) / legal) / len(pairs)
    total = sum(count for (first, _), count in pairs.items() if first == v)
    if not total:
        return q
    followers = sum(first == v for first, _ in pairs)
    return (max(pairs[v, w] - upper, 0) + upper * followers * q) / total


def pairs_of(row: list[int]) -> list[tuple]:
    return list(zip([BEGIN, *row], [*row, END], strict=True))


def test_bigram():
    counts = Counter(pair for row in TRAIN for pair in pairs_of(row))
    expected = [-sum(math.log(kneser_ney(counts, v, w, 5)) for v, w in pairs_of(row)) for row in HELD_OUT]
    got = Bigram(sequences_of(TRAIN)).nats(sequences_of(HELD_OUT))
    np.testing.assert_allclose(got, expected, rtol=1e-12)
    for v in (0, 1, 2, 3, BEGIN):
        assert sum(kneser_ney(counts, v, w, 5) for w in (0, 1, 2, 3, END)) == pytest.approx(1.0)


def test_bigram_of_two_codebooks():
    """A first code follows the last of the unit before, a second one the first; only a first one may be an end."""
    rng = np.random.default_rng(0)

    def split(codes: np.ndarray) -> tuple[list, list]:
        return list(zip([BEGIN, *codes[1]], [*codes[0], END], strict=True)), list(
            zip(codes[0], codes[1], strict=True)
        )

    def sequences(rows: list[np.ndarray]) -> UnitSequences:
        store = store_of([UtteranceUnits(f"u{i}", row) for i, row in enumerate(rows)], UnitStoreMeta(3, 2))
        return UnitSequences(store, UnitVocabulary(3, 2))

    train = [rng.integers(0, 3, (2, length)) for length in (3, 5, 0, 1, 4)]
    held_out = [rng.integers(0, 3, (2, length)) for length in (2, 0, 6)]
    counts = [Counter(pair for row in train for pair in split(row)[book]) for book in (0, 1)]
    expected = [
        -sum(
            math.log(kneser_ney(counts[book], v, w, 4 if book == 0 else 3))
            for book in (0, 1)
            for v, w in split(row)[book]
        )
        for row in held_out
    ]
    np.testing.assert_allclose(Bigram(sequences(train)).nats(sequences(held_out)), expected, rtol=1e-12)


def test_baselines_of_images_give_nothing_to_an_end_and_sum_to_one():
    train = sequences_of([[0, 1, 2, 3], [3, 3, 1, 0], [1, 2, 2, 0]], shape=(2, 2))
    every = sequences_of(
        [[a, b, c, d] for a in range(4) for b in range(4) for c in range(4) for d in range(4)], shape=(2, 2)
    )
    for model in (Unigram(train), Bigram(train)):
        assert np.exp(-model.nats(every)).sum() == pytest.approx(1.0, rel=1e-12)
