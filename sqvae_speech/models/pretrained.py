"""A trained speech model on disk, in the form of :mod:`sqvae_speech.models.model_files`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.config import from_dict, to_dict
from sqvae_speech.models.model_files import load_model_files, save_model_files
from sqvae_speech.models.speech import SpeechModel, SpeechModelConfig

KIND = "speech"


@dataclass(frozen=True)
class SpeechBundle:
    """A model with what it was trained for.

    Attributes:
        model: in evaluation mode when it was loaded.
        mel_spec: the log-mel that it reads and writes.
        speakers: names in the order of the embedding table.
        step: optimiser steps it was trained for.
        fingerprint: SHA-256 of the weights, "" for a model that was never saved.
        path: where it was loaded from, for messages.
    """

    model: SpeechModel
    mel_spec: MelSpec
    speakers: tuple[str, ...]
    step: int = 0
    fingerprint: str = ""
    path: str = ""

    @property
    def config(self) -> dict[str, Any]:
        return to_dict(self.model.config)

    @property
    def frame_rate(self) -> float:
        """Units a second."""
        return self.mel_spec.frame_rate / self.model.frames_per_unit


def save_speech_model(directory: Path, bundle: SpeechBundle) -> None:
    """Write ``config.json`` and ``model.safetensors`` into ``directory``, which exists."""
    description = {
        "mel_spec": bundle.mel_spec.to_dict(),
        "speakers": list(bundle.speakers),
        "model": bundle.config,
    }
    save_model_files(directory, KIND, bundle.model, bundle.step, description)


def load_speech_model(path: str | Path, device: str = "cpu") -> SpeechBundle:
    """Load a trained model for inference; arguments and errors as :func:`load_model_files`."""

    def build(description: dict[str, Any], source: str) -> SpeechModel:
        config = from_dict(SpeechModelConfig, description["model"], source)
        spec = MelSpec.from_dict(description["mel_spec"])
        return SpeechModel(config, spec.n_mels, len(description["speakers"]))

    loaded = load_model_files(path, KIND, build, device)
    return SpeechBundle(
        model=loaded.model,
        mel_spec=MelSpec.from_dict(loaded.description["mel_spec"]),
        speakers=tuple(loaded.description["speakers"]),
        step=loaded.step,
        fingerprint=loaded.fingerprint,
        path=loaded.path,
    )
