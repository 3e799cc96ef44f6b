"""Small unit stores and language models for the tests of them."""

from collections.abc import Sequence

import numpy as np
import torch

from sqvae_speech.models.unit_lm import UnitLm, UnitLmConfig
from sqvae_speech.units.blocks import UnitSequences, vocabulary_of
from sqvae_speech.units.sequences import UtteranceUnits
from sqvae_speech.units.store import UnitStore, UnitStoreMeta, store_of

SPEAKERS = ("ann", "bob")


def random_store(lengths: Sequence[int], size: int = 5, books: int = 1, seed: int = 0, **meta) -> UnitStore:
    """Random units of speakers in turn."""
    rng = np.random.default_rng(seed)
    rows = [
        UtteranceUnits(f"u{i:03d}", rng.integers(0, size, (books, length)), speaker=SPEAKERS[i % 2])
        for i, length in enumerate(lengths)
    ]
    return store_of(rows, UnitStoreMeta(size, books, frame_rate=50.0, **meta))


def random_sequences(lengths: Sequence[int], conditions: Sequence[str] = (), **options) -> UnitSequences:
    store = random_store(lengths, **options)
    return UnitSequences(store, vocabulary_of(store.meta), conditions)


def random_model(sequences: UnitSequences, num_conditions: int = 0, **config) -> UnitLm:
    """An untrained model whose predictions depend on all that it reads."""
    torch.manual_seed(0)
    sizes = {"dim": 16, "num_layers": 2, "num_heads": 2, **config}
    model = UnitLm(UnitLmConfig(**sizes), sequences.vocabulary, num_conditions)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model.eval()
