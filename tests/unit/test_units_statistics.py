"""Statistics against computations written differently: plain Python sums, scipy, itertools."""

import itertools
import json
import math
from collections import Counter

import numpy as np
import pytest
from scipy.stats import entropy

from sqvae_speech.errors import UserError
from sqvae_speech.units.sequences import UtteranceUnits, deduplicate
from sqvae_speech.units.statistics import (
    code_counts,
    entropy_bits,
    perplexity,
    summary,
    unit_durations,
    unit_statistics,
    usage,
)
from sqvae_speech.units.store import UnitStoreMeta, store_of


def random_units(num_codebooks=1, codebook_size=6, count=8, seed=0):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(codebook_size - 1))  # the last code is never used
    lengths = rng.integers(3, 80, count)
    return [
        UtteranceUnits(f"u{n}", rng.choice(codebook_size - 1, (num_codebooks, t), p=p), num_frames=2 * int(t) + 3)
        for n, t in enumerate(lengths)
    ]


def test_perplexity_and_usage():
    assert perplexity(np.full(7, 3)) == pytest.approx(7, rel=1e-12)
    assert perplexity(np.array([0, 5, 0])) == 1
    weights = np.random.default_rng(0).random(512)
    assert perplexity(weights) == pytest.approx(math.exp(entropy(weights)), rel=1e-12)
    assert entropy_bits(weights) == pytest.approx(entropy(weights, base=2), rel=1e-12)
    assert entropy_bits([]) == 0
    assert usage(np.array([0, 1, 9, 0])) == 0.5


@pytest.mark.parametrize("num_codebooks", [1, 2])
@pytest.mark.parametrize("with_features", [True, False])
def test_statistics_against_plain_python(num_codebooks, with_features):
    units = random_units(num_codebooks)
    mel_spec = {"hop_length": 160, "sample_rate": 16000} if with_features else None
    meta = UnitStoreMeta(6, num_codebooks, frame_rate=50.0, mel_spec=mel_spec)
    statistics = unit_statistics(store_of(units, meta))

    columns = [tuple(column) for u in units for column in u.codes.T.tolist()]
    seconds = sum(u.num_frames * 0.01 if with_features else u.codes.shape[1] / 50 for u in units)
    bits = entropy(list(Counter(columns).values()), base=2)
    assert statistics.units == len(columns)
    assert statistics.seconds == pytest.approx(seconds)
    assert statistics.entropy == pytest.approx(bits, rel=1e-12)
    assert statistics.bitrate == pytest.approx(len(columns) / seconds * bits, rel=1e-12)
    assert statistics.bitrate_maximum == pytest.approx(len(columns) / seconds * num_codebooks * math.log2(6))
    for book in range(num_codebooks):
        counts = Counter(column[book] for column in columns)
        assert statistics.perplexity[book] == pytest.approx(math.exp(entropy(list(counts.values()))), rel=1e-12)
        assert statistics.used[book] == len(counts)
        assert statistics.usage[book] == len(counts) / 6

    runs, symbols = [], []
    for u in units:
        for symbol, group in itertools.groupby(map(tuple, u.codes.T.tolist())):
            symbols.append(symbol)
            runs.append(len(list(group)))
    assert statistics.bitrate_deduplicated == pytest.approx(
        len(symbols) / seconds * entropy(list(Counter(symbols).values()), base=2), rel=1e-12
    )
    durations = statistics.durations
    assert durations.runs == len(runs)
    assert durations.mean == pytest.approx(np.mean(runs))
    assert durations.median == np.median(runs)
    assert durations.std == pytest.approx(np.std(runs))
    assert durations.maximum == max(runs)
    assert durations.mean_seconds == pytest.approx(np.mean(runs) / 50)
    assert durations.histogram == dict(Counter(runs))
    assert durations == unit_durations(units, 50.0) == unit_durations(map(deduplicate, units), 50.0)
    assert json.loads(json.dumps(statistics.to_dict()))["durations"]["histogram"]["1"] == runs.count(1)


def test_counts():
    units = random_units(2)
    counts = code_counts(units, 6, 2)
    for book in range(2):
        together = np.concatenate([u.codes[book] for u in units])
        assert counts[book].tolist() == [int((together == code).sum()) for code in range(6)]


def test_deduplicated_units_keep_time_and_durations():
    units = random_units()
    full = unit_statistics(store_of(units, UnitStoreMeta(6, frame_rate=50.0)))
    short = unit_statistics(
        store_of(map(deduplicate, units), UnitStoreMeta(6, frame_rate=50.0, deduplicated=True)),
    )
    assert short.seconds == pytest.approx(full.seconds)
    assert short.durations == full.durations
    assert short.bitrate == pytest.approx(full.bitrate_deduplicated)
    assert short.bitrate < full.bitrate


def test_what_cannot_be_known_is_none():
    units = [UtteranceUnits("u", np.array([[1, 2, 1]]))]
    unknown = unit_statistics(store_of(units, UnitStoreMeta(6)))
    assert unknown.seconds is unknown.bitrate is unknown.bitrate_maximum is None
    assert unknown.durations.mean == 1
    assert unknown.durations.mean_seconds is None
    lost = unit_statistics(store_of(units, UnitStoreMeta(6, frame_rate=50.0, deduplicated=True)))
    assert lost.durations is lost.bitrate is None
    with pytest.raises(UserError, match="no units in 1 utterances"):
        unit_statistics(store_of([UtteranceUnits("u", np.zeros((1, 0), int))], UnitStoreMeta(6)))


def test_units_of_more_codes_than_a_number_holds():
    rows = random_units(num_codebooks=8, codebook_size=512, count=3)
    rows.append(UtteranceUnits("again", rows[0].codes, num_frames=9))
    columns = Counter(tuple(column) for row in rows for column in row.codes.T.tolist())
    found = unit_statistics(store_of(rows, UnitStoreMeta(512, 8, frame_rate=50.0)))
    assert found.entropy == pytest.approx(entropy(list(columns.values()), base=2), rel=1e-12)


def test_what_optional_columns_say():
    f0 = [np.array([100.0, 0, 200]), np.array([0.0])]
    entropy_of = [np.array([[0.1, 0.2, 0.3]]), np.array([[0.8]])]
    rows = [
        UtteranceUnits(f"u{n}", np.zeros((1, len(f)), int), f0=f, entropy=e)
        for n, (f, e) in enumerate(zip(f0, entropy_of, strict=True))
    ]
    found = unit_statistics(store_of(rows, UnitStoreMeta(4, f0={"method": "pyin"}, entropy=True)))
    assert (found.posterior_entropy, found.voiced) == (pytest.approx(1.4 / 4), 0.5)
    assert found.f0_mean == 150
    assert "posterior entropy 0.350 nats on average\n50.0% of units voiced, F0 150.0 Hz" in summary(found)
    without = unit_statistics(store_of(random_units(), UnitStoreMeta(6)))
    assert (without.posterior_entropy, without.voiced, without.f0_mean) == (None, None, None)
