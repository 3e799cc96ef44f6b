"""A trained unit language model on disk, in the form of :mod:`sqvae_speech.models.model_files`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqvae_speech.config import from_dict, to_dict
from sqvae_speech.models.model_files import load_model_files, save_model_files
from sqvae_speech.models.unit_lm import UnitLm, UnitLmConfig, UnitVocabulary

KIND = "unit_lm"


@dataclass(frozen=True)
class UnitLmBundle:
    """A model with what it was trained for.

    Attributes:
        model: in evaluation mode when it was loaded.
        units: the metadata of the unit store that it was trained on, as plain values: whose units these are.
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
    description = {
        "units": bundle.units,
        "vocabulary": to_dict(bundle.model.vocabulary),
        "conditions": list(bundle.conditions),
        "model": to_dict(bundle.model.config),
    }
    save_model_files(directory, KIND, bundle.model, bundle.step, description)


def load_unit_lm(path: str | Path, device: str = "cpu") -> UnitLmBundle:
    """Load a trained model for inference; arguments and errors as :func:`load_model_files`."""

    def build(description: dict[str, Any], source: str) -> UnitLm:
        config = from_dict(UnitLmConfig, description["model"], source)
        vocabulary = from_dict(UnitVocabulary, description["vocabulary"], source)
        return UnitLm(config, vocabulary, len(description["conditions"]))

    loaded = load_model_files(path, KIND, build, device)
    return UnitLmBundle(
        model=loaded.model,
        units=loaded.description["units"],
        conditions=tuple(loaded.description["conditions"]),
        step=loaded.step,
        fingerprint=loaded.fingerprint,
        path=loaded.path,
    )
