"""A trained model on disk, whatever it is of: ``config.json`` and ``model.safetensors``, all that inference needs.

Nothing here is unpickled. The same two files lie in every checkpoint and in an exported model.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sqvae_speech.errors import UserError, nearest
from sqvae_speech.version import __version__

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
WEIGHTS = {"float32": torch.float32, "float16": torch.float16}
FORMAT_PREFIX = "sqvae_speech."  # of ``format`` in config.json; the kind follows


def save_model(
    directory: Path, kind: str, model: nn.Module, step: int, facts: dict[str, Any], weights: str = "float32"
) -> None:
    """Write the two files into ``directory``, which exists.

    Args:
        directory: where.
        kind: of model, ``speech`` or ``image``.
        model: its weights are copied.
        step: optimiser steps it was trained for.
        facts: what it takes to build it again, in types that JSON can hold.
        weights: see :func:`stored_weights`.
    """
    description = {"format": FORMAT_PREFIX + kind, "version": __version__, "step": step, **facts}
    (directory / CONFIG_NAME).write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
    save_file(stored_weights(model, weights), directory / WEIGHTS_NAME)


def stored_weights(model: nn.Module, weights: str = "float32") -> dict[str, Tensor]:
    """A model's weights as they are stored.

    Args:
        model: whose.
        weights: ``float32`` leaves them as they are; ``float16`` halves the size of matrices, not of vectors.

    Raises:
        UserError: other weights.
    """
    if weights not in WEIGHTS:
        raise UserError(f"weights {weights!r}{nearest(weights, WEIGHTS)}; legal: {', '.join(WEIGHTS)}")
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    rounded = weights != "float32"
    return {
        name: (tensor.to(WEIGHTS[weights]) if rounded and tensor.dim() > 1 else tensor).contiguous()
        for name, tensor in state.items()
    }


@dataclass(frozen=True)
class StoredModel:
    """A model's folder, opened.

    Attributes:
        directory: with the two files.
        facts: what ``config.json`` holds; ``stored[name]`` is one of them.
    """

    directory: Path
    facts: dict[str, Any]

    @property
    def source(self) -> str:
        """Where the facts come from, for messages."""
        return str(self.directory / CONFIG_NAME)

    @property
    def kind(self) -> str:
        """Of model."""
        return str(self["format"]).removeprefix(FORMAT_PREFIX)

    def __getitem__(self, name: str) -> Any:
        if name not in self.facts:
            raise UserError(f"{self.source} is damaged or not ours (it has no {name!r}): take another checkpoint")
        return self.facts[name]

    def load_weights(self, model: nn.Module) -> str:
        """Copy the weights into ``model``, on the device where it is; returns their SHA-256.

        Raises:
            UserError: weights that are missing, damaged, or of another model.
        """
        path = self.directory / WEIGHTS_NAME
        try:
            weights = load_file(path, device=str(next(model.parameters()).device))
        except FileNotFoundError:
            raise UserError(f"{self.directory} has no {WEIGHTS_NAME}: take another checkpoint") from None
        except SafetensorError as error:
            raise UserError(f"{path} is damaged ({error}): take another checkpoint") from error
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            raise UserError(f"{path} does not fit {CONFIG_NAME} beside it: {error}") from error
        return hashlib.sha256(path.read_bytes()).hexdigest()


def open_model(path: str | Path, kind: str) -> StoredModel:
    """Open a trained model.

    Args:
        path: see :func:`find_model`.
        kind: of model that the caller can use.

    Raises:
        UserError: nothing there, a damaged file, a model of another kind.
    """
    stored = _open(find_model(Path(path)))
    if stored.kind != kind:
        raise UserError(f"{stored.directory} holds a model of kind {stored.kind!r}, this needs one of kind {kind!r}")
    return stored


def kind_of_model(path: str | Path) -> str:
    """The kind of a trained model: ``speech``, ``vocoder``, ... Arguments and errors as :func:`open_model`."""
    return _open(find_model(Path(path))).kind


def _open(directory: Path) -> StoredModel:
    try:
        facts = json.loads((directory / CONFIG_NAME).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(
            f"{directory / CONFIG_NAME} is damaged or not ours ({error!r}): take another checkpoint"
        ) from error
    return StoredModel(directory, facts if isinstance(facts, dict) else {})


def find_model(path: Path) -> Path:
    """The folder with ``config.json`` that ``path`` stands for.

    That is an experiment folder (its ``best`` checkpoint, else the ``latest``), a checkpoint folder, or an exported
    model.

    Raises:
        UserError: there is none.
    """
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
