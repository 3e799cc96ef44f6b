"""A trained unit language model on disk, see :mod:`sqvae_speech.models.storage`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqvae_speech.config import from_dict, to_dict
from sqvae_speech.models.storage import open_model, save_model
from sqvae_speech.models.unit_lm import UnitLm, UnitLmConfig, UnitVocabulary


@dataclass(frozen=True)
class UnitLmBundle:
    """A model with what it was trained for.

    Attributes:
        model: in evaluation mode when it was loaded.
        units: of the metadata of the unit store that it was trained on what says whose units these are, as plain
            values.
        conditions: speakers or classes that it can be told, in the order of its table.
        step: optimiser steps it was trained for.
        fingerprint: SHA-256 of the weights, "" for a model that was never saved.
        path: where it was loaded from, for messages.
    """

    model: UnitLm
    units: dict[str, Any]
    conditions: tuple[str, ...] = ()
    step: int = 0
    fingerprint: str = ""
    path: str = ""


def save_unit_lm(directory: Path, bundle: UnitLmBundle) -> None:
    """Write ``config.json`` and ``model.safetensors`` into ``directory``, which exists."""
    facts = {
        "units": bundle.units,
        "vocabulary": to_dict(bundle.model.vocabulary),
        "conditions": list(bundle.conditions),
        "model": to_dict(bundle.model.config),
    }
    save_model(directory, "unit_lm", bundle.model, bundle.step, facts)


def load_unit_lm(path: str | Path, device: str = "cpu") -> UnitLmBundle:
    """Load a trained model for inference.

    Args:
        path: an experiment folder (its ``best`` checkpoint, else the ``latest``), a checkpoint folder, or an
            exported model.
        device: a torch device.

    Raises:
        UserError: nothing there, a damaged file, weights that do not fit their configuration.
    """
    stored = open_model(path, "unit_lm")
    config = from_dict(UnitLmConfig, stored["model"], stored.source)
    vocabulary = from_dict(UnitVocabulary, stored["vocabulary"], stored.source)
    conditions = tuple(stored["conditions"])
    model = UnitLm(config, vocabulary, len(conditions)).to(device)
    fingerprint = stored.load_weights(model)
    return UnitLmBundle(
        model.eval(), stored["units"], conditions, int(stored["step"]), fingerprint, str(stored.directory)
    )
