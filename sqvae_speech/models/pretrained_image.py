"""A trained image model on disk, see :mod:`sqvae_speech.models.storage`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqvae_speech.config import from_dict, to_dict
from sqvae_speech.images.spec import ImageSpec
from sqvae_speech.models.image import ImageModel, ImageModelConfig
from sqvae_speech.models.storage import open_model, save_model


@dataclass(frozen=True)
class ImageBundle:
    """A model with how it came about.

    Attributes:
        model: in evaluation mode when it was loaded.
        step: optimiser steps it was trained for.
        fingerprint: SHA-256 of the weights, "" for a model that was never saved.
        path: where it was loaded from, for messages.
    """

    model: ImageModel
    step: int = 0
    fingerprint: str = ""
    path: str = ""

    @property
    def config(self) -> dict[str, Any]:
        return to_dict(self.model.config)

    @property
    def image_spec(self) -> ImageSpec:
        """The images that it reads and writes."""
        return self.model.spec


def save_image_model(directory: Path, bundle: ImageBundle) -> None:
    """Write ``config.json`` and ``model.safetensors`` into ``directory``, which exists."""
    facts = {"image_spec": bundle.image_spec.to_dict(), "model": bundle.config}
    save_model(directory, "image", bundle.model, bundle.step, facts)


def load_image_model(path: str | Path, device: str = "cpu") -> ImageBundle:
    """Load a trained model for inference.

    Args:
        path: an experiment folder (its ``best`` checkpoint, else the ``latest``), a checkpoint folder, or an
            exported model.
        device: a torch device.

    Raises:
        UserError: nothing there, a damaged file, weights that do not fit their configuration.
    """
    stored = open_model(path, "image")
    config = from_dict(ImageModelConfig, stored["model"], stored.source)
    model = ImageModel(config, ImageSpec.from_dict(stored["image_spec"], stored.source)).to(device)
    fingerprint = stored.load_weights(model)
    return ImageBundle(model.eval(), int(stored["step"]), fingerprint, str(stored.directory))
