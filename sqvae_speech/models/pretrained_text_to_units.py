"""A trained text-to-units model on disk, see :mod:`sqvae_speech.models.storage`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqvae_speech.config import from_dict, to_dict
from sqvae_speech.models.storage import open_model, save_model
from sqvae_speech.models.text_to_units import TextToUnits, TextToUnitsConfig

# a small model that comes with the project, of the units of the small tokenizer that does
BUNDLED = Path(__file__).parents[1] / "pretrained" / "text_to_units_mini"


@dataclass(frozen=True)
class TextToUnitsBundle:
    """A model with what it was trained for.

    Attributes:
        model: in evaluation mode when it was loaded.
        units: of the metadata of the unit store that it was trained on what says whose units these are, as plain
            values.
        text: how text becomes symbols: the fields of a :class:`sqvae_speech.data.texts.TextFrontEnd`.
        symbols: that it reads, in the order of its table.
        speakers: in the order of its table; none for a model that is not told.
        step: optimiser steps it was trained for.
        fingerprint: SHA-256 of the weights, "" for a model that was never saved.
        path: where it was loaded from, for messages.
    """

    model: TextToUnits
    units: dict[str, Any]
    text: dict[str, str]
    symbols: tuple[str, ...]
    speakers: tuple[str, ...] = ()
    step: int = 0
    fingerprint: str = ""
    path: str = ""


def build_text_to_units(
    config: TextToUnitsConfig, units: dict[str, Any], symbols: tuple[str, ...], speakers: tuple[str, ...]
) -> TextToUnits:
    """A new model of the sizes that its units, symbols and speakers ask for."""
    return TextToUnits(config, len(symbols), units["codebook_size"], units["num_codebooks"], len(speakers))


def save_text_to_units(directory: Path, bundle: TextToUnitsBundle, weights: str = "float32") -> None:
    """Write ``config.json`` and ``model.safetensors`` into ``directory``, see :func:`.storage.save_model`."""
    facts = {
        "units": bundle.units,
        "text": bundle.text,
        "symbols": list(bundle.symbols),
        "speakers": list(bundle.speakers),
        "model": to_dict(bundle.model.config),
    }
    save_model(directory, "text_to_units", bundle.model, bundle.step, facts, weights)


def load_text_to_units(path: str | Path, device: str = "cpu") -> TextToUnitsBundle:
    """Load a trained model for inference.

    Args:
        path: an experiment folder (its ``best`` checkpoint, else the ``latest``), a checkpoint folder, or an
            exported model.
        device: a torch device.

    Raises:
        UserError: nothing there, a damaged file, weights that do not fit their configuration.
    """
    stored = open_model(path, "text_to_units")
    config = from_dict(TextToUnitsConfig, stored["model"], stored.source)
    units, symbols, speakers = stored["units"], tuple(stored["symbols"]), tuple(stored["speakers"])
    model = build_text_to_units(config, units, symbols, speakers).to(device)
    fingerprint = stored.load_weights(model)
    return TextToUnitsBundle(
        model.eval(),
        units,
        stored["text"],
        symbols,
        speakers,
        int(stored["step"]),
        fingerprint,
        str(stored.directory),
    )
