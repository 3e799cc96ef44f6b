"""A trained speech model on disk: ``config.json`` and ``model.safetensors``, all that inference needs.

Nothing here is unpickled. The same two files lie in every checkpoint and in an exported model.
"""

import copy
import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.config import from_dict, to_dict
from sqvae_speech.errors import UserError, nearest
from sqvae_speech.models.speech import SpeechModel, SpeechModelConfig
from sqvae_speech.version import __version__

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
WEIGHTS = {"float32": torch.float32, "float16": torch.float16}


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

    def rounded(self, weights: str) -> "SpeechBundle":
        """As it is when it has been saved in ``weights``, see :func:`save_speech_model`, and loaded again."""
        model = copy.deepcopy(self.model)
        model.load_state_dict(_stored(self.model, weights))
        return replace(self, model=model, fingerprint="")


def save_speech_model(directory: Path, bundle: SpeechBundle, weights: str = "float32") -> None:
    """Write ``config.json`` and ``model.safetensors`` into ``directory``, which exists.

    Args:
        directory: the folder.
        bundle: the model.
        weights: what matrices are stored in, ``float32`` or ``float16``; vectors stay in float32.

    Raises:
        UserError: other weights.
    """
    description = {
        "format": "sqvae_speech.speech",
        "version": __version__,
        "step": bundle.step,
        "mel_spec": bundle.mel_spec.to_dict(),
        "speakers": list(bundle.speakers),
        "model": bundle.config,
    }
    (directory / CONFIG_NAME).write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
    save_file(_stored(bundle.model, weights), directory / WEIGHTS_NAME)


def _stored(model: SpeechModel, weights: str) -> dict[str, Tensor]:
    if weights not in WEIGHTS:
        raise UserError(f"weights {weights!r}{nearest(weights, WEIGHTS)}; legal: {', '.join(WEIGHTS)}")
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    return {
        name: (tensor.to(WEIGHTS[weights]) if tensor.dim() > 1 else tensor).contiguous()
        for name, tensor in state.items()
    }


def load_speech_model(path: str | Path, device: str = "cpu") -> SpeechBundle:
    """Load a trained model for inference.

    Args:
        path: an experiment folder (its ``best`` checkpoint, else the ``latest``), a checkpoint folder, or an
            exported model.
        device: a torch device.

    Raises:
        UserError: nothing there, a damaged file, weights that do not fit their configuration.
    """
    directory = find_model(Path(path))
    try:
        description = json.loads((directory / CONFIG_NAME).read_text(encoding="utf-8"))
        config = from_dict(SpeechModelConfig, description["model"], str(directory / CONFIG_NAME))
        mel_spec = MelSpec.from_dict(description["mel_spec"])
        speakers = tuple(description["speakers"])
        step = int(description["step"])
    except (json.JSONDecodeError, KeyError) as error:
        raise UserError(
            f"{directory / CONFIG_NAME} is damaged or not ours ({error!r}): take another checkpoint"
        ) from error
    weights_path = directory / WEIGHTS_NAME
    try:
        weights = load_file(weights_path, device=device)
    except FileNotFoundError:
        raise UserError(f"{directory} has no {WEIGHTS_NAME}: take another checkpoint") from None
    except SafetensorError as error:
        raise UserError(f"{weights_path} is damaged ({error}): take another checkpoint") from error
    model = SpeechModel(config, mel_spec.n_mels, len(speakers)).to(device)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"{weights_path} does not fit {CONFIG_NAME} beside it: {error}") from error
    digest = hashlib.sha256(weights_path.read_bytes()).hexdigest()
    return SpeechBundle(model.eval(), mel_spec, speakers, step, digest, str(directory))


def find_model(path: Path) -> Path:
    """The folder with ``config.json`` that ``path`` stands for, see :func:`load_speech_model`."""
    if (path / CONFIG_NAME).is_file():
        return path
    for name in ("best", "latest"):
        pointer = path / "checkpoints" / name
        if pointer.is_file():
            target = pointer.parent / pointer.read_text(encoding="utf-8").strip()
            if (target / CONFIG_NAME).is_file():
                return target
    if not path.exists():
        raise UserError(f"no model at {path}: give an experiment folder, a checkpoint or an exported model")
    raise UserError(f"{path} holds no model: expected {CONFIG_NAME}, or checkpoints/latest of a training run")
