"""A trained vocoder on disk, see :mod:`sqvae_speech.models.storage`."""

from dataclasses import dataclass
from pathlib import Path

from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.config import from_dict, to_dict
from sqvae_speech.models.storage import open_model, save_model
from sqvae_speech.models.vocoder_model import VocoderModel
from sqvae_speech.models.vocoder_network import VocoderConfig


@dataclass(frozen=True)
class VocoderBundle:
    """A network with how it came about.

    Attributes:
        model: in evaluation mode when it was loaded.
        step: optimiser steps it was trained for.
        fingerprint: SHA-256 of the weights, "" for a model that was never saved.
        path: where it was loaded from, for messages.
    """

    model: VocoderModel
    step: int = 0
    fingerprint: str = ""
    path: str = ""

    @property
    def mel_spec(self) -> MelSpec:
        """The log-mel that it takes."""
        return self.model.mel_spec


def save_vocoder(directory: Path, bundle: VocoderBundle, weights: str = "float32") -> None:
    """Write ``config.json`` and ``model.safetensors`` into ``directory``, which exists; ``weights`` as in
    :func:`sqvae_speech.models.storage.save_model`.
    """
    facts = {"mel_spec": bundle.mel_spec.to_dict(), "model": to_dict(bundle.model.config)}
    save_model(directory, "vocoder", bundle.model, bundle.step, facts, weights)


def load_trained_vocoder(path: str | Path, device: str = "cpu") -> VocoderBundle:
    """Load a trained vocoder's network for inference.

    Args:
        path: an experiment folder (its ``best`` checkpoint, else the ``latest``), a checkpoint folder, or an
            exported model.
        device: a torch device.

    Raises:
        UserError: nothing there, a damaged file, a model of another kind, weights that do not fit their
            configuration.
    """
    stored = open_model(path, "vocoder")
    config = from_dict(VocoderConfig, stored["model"], stored.source)
    model = VocoderModel(config, MelSpec.from_dict(stored["mel_spec"])).to(device)
    fingerprint = stored.load_weights(model)
    return VocoderBundle(model.eval(), int(stored["step"]), fingerprint, str(stored.directory))
