"""What a set of units is like: how much of the codebook it uses, its bits a second, how long units last."""

import math
from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sqvae_speech.errors import UserError
from sqvae_speech.units.sequences import UtteranceUnits, deduplicate, expand
from sqvae_speech.units.store import UnitSource


def code_counts(units: Iterable[UtteranceUnits], codebook_size: int, num_codebooks: int = 1) -> np.ndarray:
    """Count the uses of every code, in units as stored.

    Returns:
        (N, K) int64.
    """
    counts = np.zeros((num_codebooks, codebook_size), dtype=np.int64)
    for utterance in units:
        for book, codes in enumerate(utterance.codes):
            counts[book] += np.bincount(codes, minlength=codebook_size)
    return counts


def entropy_bits(weights: Iterable[float] | np.ndarray) -> float:
    """Entropy in bits of non-negative counts or weights, normalised to one; 0 when there are none. Float64."""
    p = np.asarray(list(weights) if not isinstance(weights, np.ndarray) else weights, dtype=np.float64).ravel()
    p = p[p > 0]
    if p.size == 0:
        return 0.0
    p = p / p.sum()
    return float(max(0.0, -(p * np.log2(p)).sum()))


def perplexity(weights: np.ndarray) -> float:
    """2 to the entropy: how many codes, used equally often, would be as uncertain. 1 when nothing was counted."""
    return 2.0 ** entropy_bits(weights)


def usage(counts: np.ndarray) -> float:
    """The share of the codebook that was used at all, 0 to 1. ``counts`` is (K,)."""
    return float(np.count_nonzero(counts) / counts.size)


@dataclass(frozen=True)
class UnitDurations:
    """How many steps a unit lasts before another follows (run lengths).

    ``mean``, ``median``, ``std`` (of the population) and ``maximum`` in steps; ``mean_seconds`` when the frame rate
    is known; ``histogram[n]`` counts the runs of n steps.
    """

    runs: int
    mean: float
    median: float
    std: float
    maximum: int
    mean_seconds: float | None
    histogram: dict[int, int]


@dataclass(frozen=True)
class UnitStatistics:
    """Statistics of a split; see :func:`unit_statistics` for the definitions."""

    utterances: int
    units: int
    seconds: float | None
    codebook_size: int
    num_codebooks: int
    frame_rate: float | None
    deduplicated: bool
    perplexity: list[float]
    usage: list[float]
    used: list[int]
    entropy: float
    bitrate: float | None
    bitrate_maximum: float | None
    bitrate_deduplicated: float | None
    durations: UnitDurations | None
    posterior_entropy: float | None
    voiced: float | None
    f0_mean: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, for JSON (whose keys are strings, so those of the histogram are too)."""
        values = asdict(self)
        if self.durations is not None:
            values["durations"]["histogram"] = {str(n): count for n, count in self.durations.histogram.items()}
        return values


def unit_statistics(store: UnitSource) -> UnitStatistics:
    """Summarise a store.

    - ``perplexity``, ``usage``, ``used``: a number a codebook, over units as stored.
    - ``entropy``: bits a unit; with several codebooks a unit is the column of its codes.
    - ``bitrate``: bit/s as ZeroSpeech 2019 defines it, (n / D) H: n units as stored, H their entropy, D the duration
      of the recordings in seconds.
    - ``bitrate_maximum``: bit/s if every code were as likely as every other, (n / D) N log2 K.
    - ``bitrate_deduplicated``: the same as ``bitrate`` once runs are collapsed and their durations thrown away.
    - ``durations``: run lengths in steps, None when the units are deduplicated and their durations are not known.
    - ``posterior_entropy``: mean entropy of the posteriors that codes were chosen from, nats, where the store has it.
    - ``voiced``, ``f0_mean``: the share of units that have an F0, and its mean, Hz, where the store has it.

    D is the number of samples over their rate where the store knows both, else that of mel frames times their hop,
    else the number of units over the frame rate (which misses the frame lost at each edge); otherwise there is no
    bitrate.

    Raises:
        UserError: for a store without a single unit.
    """
    meta = store.meta
    counts = np.zeros((meta.num_codebooks, meta.codebook_size), dtype=np.int64)
    symbols: Counter[Hashable] = Counter()
    collapsed: Counter[Hashable] = Counter()
    histogram: Counter[int] = Counter()
    seconds, utterances, runs_known = 0.0, 0, True
    uncertainty, voiced, pitch = 0.0, 0, 0.0
    for utterance in store:
        utterances += 1
        counts += code_counts([utterance], meta.codebook_size, meta.num_codebooks)
        _count_symbols(utterance, meta.codebook_size, symbols)
        runs = deduplicate(utterance)
        _count_symbols(runs, meta.codebook_size, collapsed)
        if runs.durations is not None:
            histogram.update(runs.durations.tolist())
        known = meta.seconds(utterance)
        seconds += math.nan if known is None else known  # one that is not known makes the sum unknown
        if utterance.entropy is not None:
            uncertainty += float(utterance.entropy.sum(dtype=np.float64))
        if utterance.f0 is not None:
            voiced += int(np.count_nonzero(utterance.f0))
            pitch += float(utterance.f0.sum(dtype=np.float64))
        # run lengths of units that were deduplicated without their durations would all be 1, and mean nothing; of
        # images they go around corners
        runs_known = runs_known and meta.shape is None and (utterance.durations is not None or not meta.deduplicated)
    total = symbols.total()
    if total == 0:
        raise UserError(f"{store.name}: no units in {utterances} utterances; nothing to summarise")
    timed = math.isfinite(seconds) and seconds > 0
    return UnitStatistics(
        utterances=utterances,
        units=total,
        seconds=seconds if timed else None,
        codebook_size=meta.codebook_size,
        num_codebooks=meta.num_codebooks,
        frame_rate=meta.frame_rate,
        deduplicated=meta.deduplicated,
        perplexity=[perplexity(book) for book in counts],
        usage=[usage(book) for book in counts],
        used=[int(np.count_nonzero(book)) for book in counts],
        entropy=_entropy(symbols),
        bitrate=total / seconds * _entropy(symbols) if timed else None,
        bitrate_maximum=total / seconds * meta.num_codebooks * math.log2(meta.codebook_size) if timed else None,
        bitrate_deduplicated=collapsed.total() / seconds * _entropy(collapsed) if timed else None,
        durations=_durations(histogram, meta.frame_rate) if runs_known else None,
        posterior_entropy=uncertainty / (total * meta.num_codebooks) if meta.entropy else None,
        voiced=voiced / total if meta.f0 is not None else None,
        f0_mean=pitch / voiced if voiced else None,
    )


def summary(statistics: UnitStatistics) -> str:
    """A few lines for people."""
    books = [
        f"perplexity {p:.1f}, {used} of {statistics.codebook_size} codes used ({share:.1%})"
        for p, used, share in zip(statistics.perplexity, statistics.used, statistics.usage, strict=True)
    ]
    if len(books) > 1:
        books = [f"codebook {number}: {book}" for number, book in enumerate(books)]
    kind = "deduplicated units" if statistics.deduplicated else "units"
    lines = [f"{statistics.utterances} utterances, {statistics.units} {kind}"]
    if statistics.seconds is not None:
        lines[0] += f", {statistics.seconds:.1f} s, {statistics.units / statistics.seconds:.2f} units/s"
    lines += books
    if statistics.bitrate is not None:
        lines.append(
            f"bitrate {statistics.bitrate:.1f} bit/s (at most {statistics.bitrate_maximum:.1f}; deduplicated, "
            f"without durations {statistics.bitrate_deduplicated:.1f})"
        )
    if (lasting := statistics.durations) is not None:
        seconds = "" if lasting.mean_seconds is None else f" ({lasting.mean_seconds * 1000:.1f} ms)"
        lines.append(
            f"a unit lasts {lasting.mean:.2f}{seconds} on average, median {lasting.median:g}, "
            f"at most {lasting.maximum}"
        )
    if statistics.posterior_entropy is not None:
        lines.append(f"posterior entropy {statistics.posterior_entropy:.3f} nats on average")
    if statistics.voiced is not None:
        mean = "" if statistics.f0_mean is None else f", F0 {statistics.f0_mean:.1f} Hz on average"
        lines.append(f"{statistics.voiced:.1%} of units voiced{mean}")
    return "\n".join(lines)


def unit_durations(units: Iterable[UtteranceUnits], frame_rate: float | None = None) -> UnitDurations:
    """Run lengths of units (expanded first, so deduplicated ones give the same).

    Args:
        units: utterances; runs do not cross from one to the next.
        frame_rate: Hz, for the mean in seconds.
    """
    histogram: Counter[int] = Counter()
    for utterance in units:
        runs = deduplicate(expand(utterance)).durations
        histogram.update([] if runs is None else runs.tolist())
    return _durations(histogram, frame_rate)


def _durations(histogram: Counter[int], frame_rate: float | None) -> UnitDurations:
    lengths = np.array(sorted(histogram), dtype=np.int64)
    weights = np.array([histogram[int(length)] for length in lengths], dtype=np.int64)
    runs = int(weights.sum())
    if runs == 0:
        return UnitDurations(0, 0.0, 0.0, 0.0, 0, None if frame_rate is None else 0.0, {})
    mean = float((lengths * weights).sum() / runs)
    std = math.sqrt(float((weights * (lengths - mean) ** 2).sum() / runs))
    ends = np.cumsum(weights)
    # the two middle runs, which are one and the same when their number is odd
    middle = [int(lengths[np.searchsorted(ends, rank, side="right")]) for rank in ((runs - 1) // 2, runs // 2)]
    return UnitDurations(
        runs=runs,
        mean=mean,
        median=sum(middle) / 2,
        std=std,
        maximum=int(lengths[-1]),
        mean_seconds=None if frame_rate is None else mean / frame_rate,
        histogram={int(length): int(weight) for length, weight in zip(lengths, weights, strict=True)},
    )


def _count_symbols(utterance: UtteranceUnits, codebook_size: int, symbols: Counter[Hashable]) -> None:
    """Count units, each a column of codes, as one hashable symbol however many codebooks there are."""
    codes = utterance.codes
    if codebook_size ** len(codes) < 1 << 63:  # a number of so many digits to the base K; sorting rows takes longer
        digits = codebook_size ** np.arange(len(codes), dtype=np.int64)
        numbers, counts = np.unique(digits @ codes, return_counts=True)
        found = zip(numbers.tolist(), counts.tolist(), strict=True)
    else:
        columns, counts = np.unique(codes.T, axis=0, return_counts=True)
        found = zip(map(bytes, columns), counts.tolist(), strict=True)
    for symbol, count in found:
        symbols[symbol] += count


def _entropy(symbols: Counter[Hashable]) -> float:
    return entropy_bits(list(symbols.values()))
