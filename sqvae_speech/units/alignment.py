"""Which units belong to which symbol of a text: a hidden Markov model of both, trained on them alone.

Its states are the symbols of the text, in their order; each gives off units with the probabilities of its symbol,
stays with another, and is passed over (a letter that is not heard, a space) with a third. They are found by
expectation maximisation (Baum and Welch) from a division of every utterance into equal parts, as speech recognisers
begin ("flat start"); the alignment is the most probable path (Viterbi). Float64 throughout, without random numbers.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

ROUNDS = 12
TRAINED_ON = 2000  # utterances, evenly spread, where there are more
LEAP = 5  # symbols on at most, from one unit to the next: a text has no more than five times as many as units
_PRIOR = 5.0  # units that a symbol is taken to have given off beforehand, spread as units are in general
_BATCH_CELLS = 2_000_000


class Aligner(NamedTuple):
    """The model: of S symbols and K units.

    Attributes:
        emission: (S, K), of a unit given the symbol.
        stay: (S,), that another unit of the symbol follows.
        skip: (S,), that the symbol has no unit.
    """

    emission: Tensor
    stay: Tensor
    skip: Tensor


class _Batch(NamedTuple):
    """Utterances side by side: ``members``, their numbers; ``texts`` (B, L), ``units`` (B, R), and their lengths."""

    members: list[int]
    texts: Tensor
    units: Tensor
    text_lengths: Tensor
    unit_lengths: Tensor


def train_aligner(
    texts: Sequence[np.ndarray], units: Sequence[np.ndarray], num_symbols: int, num_units: int, rounds: int = ROUNDS
) -> Aligner:
    """Learn which units go with which symbols.

    Args:
        texts: (L_i,) numbers of symbols, below ``num_symbols``, at least one.
        units: (R_i,) numbers of units, below ``num_units``, at least one; runs collapsed, best.
        num_symbols: S.
        num_units: K.
        rounds: of expectation maximisation.
    """
    chosen = np.unique(np.linspace(0, len(texts) - 1, min(len(texts), TRAINED_ON)).round().astype(int)).tolist()
    texts, units = [texts[number] for number in chosen], [units[number] for number in chosen]
    general = np.bincount(np.concatenate(units), minlength=num_units) + 0.1
    prior = torch.from_numpy(_PRIOR * general / general.sum())
    counts = torch.zeros(num_symbols, num_units, dtype=torch.float64)
    for text, said in zip(texts, units, strict=True):
        parts = text[np.arange(len(said)) * len(text) // len(said)]
        counts += torch.from_numpy(np.bincount(parts * num_units + said, minlength=counts.numel())).view_as(counts)
    half = torch.full((num_symbols,), 0.5, dtype=torch.float64)
    model = Aligner(_normalized(counts + prior), half, 0.1 * torch.ones_like(half))
    for _ in range(rounds):
        model = _improved(model, texts, units, prior)
    return model


def align(model: Aligner, texts: Sequence[np.ndarray], units: Sequence[np.ndarray]) -> list[np.ndarray]:
    """How many units each symbol has, (L_i,) int64, on the most probable path of each utterance; they add up."""
    counts: list[np.ndarray] = [np.zeros(0, np.int64)] * len(texts)
    for batch in _batches(texts, units):
        path = _best_path(model, batch)
        for row, member in enumerate(batch.members):
            counts[member] = np.bincount(path[row, : len(units[member])], minlength=len(texts[member]))
    return counts


def _normalized(counts: Tensor) -> Tensor:
    return counts / counts.sum(-1, keepdim=True)


def _batches(texts: Sequence[np.ndarray], units: Sequence[np.ndarray]) -> Iterator[_Batch]:
    """All utterances, those of like length together."""
    order = sorted(range(len(texts)), key=lambda number: -len(units[number]))
    while order:
        longest = len(units[order[0]]) * max(len(texts[number]) for number in order[:64])
        members, order = order[: max(1, _BATCH_CELLS // longest)], order[max(1, _BATCH_CELLS // longest) :]
        padded = (
            torch.nn.utils.rnn.pad_sequence([torch.from_numpy(rows[number]) for number in members], batch_first=True)
            for rows in (texts, units)
        )
        lengths = (torch.tensor([len(rows[number]) for number in members]) for rows in (texts, units))
        yield _Batch(members, *padded, *lengths)


def _steps(model: Aligner, batch: _Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities of moving: (B, L, J + 1) to each symbol from itself and the J before it; (B, L) of beginning
    with each; (B, L) of ending after each.
    """
    stay, leave = model.stay[batch.texts].log(), (-model.stay[batch.texts]).log1p()
    skip, visit = model.skip[batch.texts].log(), (-model.skip[batch.texts]).log1p()
    place = torch.arange(batch.texts.shape[1])
    passed = torch.nn.functional.pad(skip.cumsum(1), (1, 0))  # [t]: over all before t
    columns = [stay]
    for leap in range(1, LEAP + 1):
        source = (place - leap).clamp(min=0)
        column = leave[:, source] + passed[:, place] - passed[:, source + 1] + visit
        columns.append(column.masked_fill(place < leap, -torch.inf))
    begin = (passed[:, :-1] + visit).masked_fill(place >= LEAP, -torch.inf)
    total = passed.gather(1, batch.text_lengths[:, None])
    end = leave + total - passed[:, 1:]
    left = batch.text_lengths[:, None] - place
    return torch.stack(columns, dim=2), begin, end.masked_fill((left < 1) | (left > LEAP), -torch.inf)


def _emissions(model: Aligner, batch: _Batch) -> Tensor:
    """(R, B, L) log-probabilities of each unit given each symbol of its text."""
    table = model.emission.log()
    return torch.stack([table[batch.texts, unit[:, None]] for unit in batch.units.T])


def _arrivals(before: Tensor, steps: Tensor) -> Tensor:
    """(B, L, J + 1): where each symbol can be come to from, itself first."""
    width = steps.shape[2]
    windows = torch.nn.functional.pad(before, (width - 1, 0), value=-torch.inf).unfold(1, width, 1)
    return windows.flip(2) + steps


def _improved(model: Aligner, texts: Sequence[np.ndarray], units: Sequence[np.ndarray], prior: Tensor) -> Aligner:
    """One round of Baum and Welch."""
    emitted = torch.zeros_like(model.emission)
    stayed, visited, there = (torch.zeros_like(model.stay) for _ in range(3))
    for batch in _batches(texts, units):
        steps, begin, end = _steps(model, batch)
        emission = _emissions(model, batch)
        size, width = len(emission), steps.shape[2]
        forward = [begin + emission[0]]
        for unit in range(1, size):
            forward.append(_arrivals(forward[-1], steps).logsumexp(2) + emission[unit])
        last = batch.unit_lengths - 1
        ends = torch.stack(forward)[last, torch.arange(len(last))] + end
        total = ends.logsumexp(1)[:, None]
        # seen from the symbol that is left: the step of leap j stands j places further on
        leaving = torch.nn.functional.pad(steps, (0, 0, 0, width - 1), value=-torch.inf)
        departures = torch.stack([leaving[:, leap : leap + steps.shape[1], leap] for leap in range(width)], dim=2)
        later = end
        for unit in range(size - 1, -1, -1):
            if unit < size - 1:
                reached = torch.nn.functional.pad(later + emission[unit + 1], (0, width - 1), value=-torch.inf)
                onwards = (reached.unfold(1, width, 1) + departures).logsumexp(2)
                later = torch.where((last > unit)[:, None], onwards, end)
            real = (last >= unit)[:, None]
            share = (forward[unit] + later - total).exp() * real
            emitted.index_put_(
                (batch.texts, batch.units[:, unit, None].expand_as(batch.texts)), share, accumulate=True
            )
            there.index_put_((batch.texts,), share, accumulate=True)
            if unit:
                kept = (forward[unit - 1] + steps[:, :, 0] + emission[unit] + later - total).exp() * real
                stayed.index_put_((batch.texts,), kept, accumulate=True)
        inside = torch.arange(batch.texts.shape[1]) < batch.text_lengths[:, None]
        visited.index_put_((batch.texts,), inside.double(), accumulate=True)
    entered = there - stayed
    return Aligner(
        _normalized(emitted + prior),
        ((stayed + 0.5) / (there + 1.0)).clamp(0.01, 0.99),
        ((visited - entered + 0.1) / (visited + 1.0)).clamp(1e-4, 0.95),
    )


def _best_path(model: Aligner, batch: _Batch) -> np.ndarray:
    """(B, R) int64, the place in its text of every unit's symbol."""
    steps, begin, end = _steps(model, batch)
    emission = _emissions(model, batch)
    score = begin + emission[0]
    leaps = [torch.zeros_like(batch.texts)]
    final = torch.where((batch.unit_lengths == 1)[:, None], score, -torch.inf)
    for unit in range(1, len(emission)):
        best, leap = _arrivals(score, steps).max(2)
        score = best + emission[unit]
        leaps.append(leap)
        final = torch.where((batch.unit_lengths == unit + 1)[:, None], score, final)
    place = (final + end).argmax(1)
    path = torch.zeros_like(batch.units)
    for unit in range(len(emission) - 1, -1, -1):
        path[:, unit] = place
        arrived = leaps[unit].gather(1, place[:, None])[:, 0]
        # beyond an utterance's last unit its place stays what its end is
        place = torch.where(batch.unit_lengths > unit, place - arrived, place).clamp(min=0)
    return path.numpy()
