"""How many nats a language model gives to sequences of units."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from sqvae_speech.models.unit_lm import IGNORE, UnitLm
from sqvae_speech.units.blocks import UnitSequences

MAX_SYMBOLS = 16_384  # of a batch with its padding


class _Window(NamedTuple):
    """The predictions ``start`` to ``stop`` of a sequence are read, and counted from ``first`` on."""

    sequence: int
    start: int
    first: int
    stop: int


@torch.no_grad()
def sequence_nats(
    model: UnitLm,
    sequences: UnitSequences,
    *,
    max_symbols: int = MAX_SYMBOLS,
    rank: int = 0,
    world_size: int = 1,
) -> np.ndarray:
    """Score every sequence, its end included, as if it were alone: the nats of a sample drawn from the model.

    Args:
        model: left in the mode it was in.
        sequences: of the model's vocabulary and conditions.
        max_symbols: symbols of a batch, padding included.
        rank: this process takes batch ``rank`` and every ``world_size``-th after it.
        world_size: processes that share the work; their results are to be added.

    Returns:
        (S,) float64.
    """
    was_training = model.training
    model.eval()
    device = model.embedding.weight.device
    total = np.zeros(len(sequences))
    for number, windows in enumerate(_batches(model, sequences, max_symbols)):
        if number % world_size != rank:
            continue
        of_sequence, start, first, stop = (np.array(values)[:, None] for values in zip(*windows, strict=True))
        units = start + np.arange((stop - start).max())
        symbols, targets = sequences.cut(np.broadcast_to(of_sequence, units.shape), np.minimum(units, stop - 1))
        targets[(units < first) | (units >= stop)] = IGNORE
        positions = np.minimum(units, stop - 1)
        arrays = (symbols, targets, positions, sequences.conditions[of_sequence[:, 0]])
        symbols_, targets_, positions_, conditions = (torch.from_numpy(array).to(device) for array in arrays)
        out = model(symbols_, targets_, positions=positions_, conditions=conditions)
        np.add.at(total, of_sequence[:, 0], out.nats.double().sum((1, 2)).cpu().numpy())
    model.train(was_training)
    return total


def _batches(model: UnitLm, sequences: UnitSequences, max_symbols: int) -> Iterator[list[_Window]]:
    """All windows, those of like length together, the longest first."""
    windows = [
        window
        for number, predictions in enumerate(sequences.predictions.tolist())
        for window in _windows(model, number, predictions)
    ]
    windows.sort(key=lambda window: window.start - window.stop)
    begin = 0
    while begin < len(windows):
        longest = windows[begin].stop - windows[begin].start
        size = max(1, max_symbols // (longest * model.vocabulary.num_codebooks))
        yield windows[begin : begin + size]
        begin += size


def _windows(model: UnitLm, sequence: int, predictions: int) -> Iterator[_Window]:
    first = 0
    while first < predictions:
        start = model.window_start(first)
        stop = min(start + model.config.context, predictions)
        yield _Window(sequence, start, first, stop)
        first = stop
