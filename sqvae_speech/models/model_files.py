"""A trained model on disk, of whatever kind: ``config.json`` and ``model.safetensors``, all that inference needs.

Nothing here is unpickled. The same two files lie in every checkpoint and in an exported model.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from sqvae_speech.errors import UserError
from sqvae_speech.version import __version__

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
FORMAT = "sqvae_speech."  # and the kind of model

Model = TypeVar("Model", bound=nn.Module)


class LoadedModel(NamedTuple, Generic[Model]):
    """What was read.

    Attributes:
        model: in evaluation mode.
        description: all of ``config.json``.
        step: optimiser steps it was trained for.
        fingerprint: SHA-256 of the weights.
        path: the folder, for messages.
    """

    model: Model
    description: dict[str, Any]
    step: int
    fingerprint: str
    path: str


def save_model_files(directory: Path, kind: str, model: nn.Module, step: int, description: Mapping[str, Any]) -> None:
    """Write ``config.json`` and ``model.safetensors`` into ``directory``, which exists."""
    values = {"format": FORMAT + kind, "version": __version__, "step": step, **description}
    (directory / CONFIG_NAME).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    weights = {name: tensor.detach().contiguous().cpu() for name, tensor in model.state_dict().items()}
    save_file(weights, directory / WEIGHTS_NAME)


def load_model_files(
    path: str | Path, kind: str, build: Callable[[dict[str, Any], str], Model], device: str = "cpu"
) -> LoadedModel[Model]:
    """Load a trained model for inference.

    Args:
        path: an experiment folder (its ``best`` checkpoint, else the ``latest``), a checkpoint folder, or an
            exported model.
        kind: of model, as in ``format``.
        build: makes the model of a description; its second argument names the file in errors. A ``KeyError`` that it
            raises is damage.
        device: a torch device.

    Raises:
        UserError: nothing there, a model of another kind, a damaged file, weights that do not fit their
            configuration.
    """
    directory = find_model(Path(path))
    config_path, weights_path = directory / CONFIG_NAME, directory / WEIGHTS_NAME
    try:
        description = json.loads(config_path.read_text(encoding="utf-8"))
        found = description["format"]
        if found != FORMAT + kind:
            raise UserError(f"{directory} is a model of the format {found}; {FORMAT}{kind} is wanted here")
        model = build(description, str(config_path)).to(device)
        step = int(description["step"])
    except (json.JSONDecodeError, KeyError) as error:
        raise UserError(f"{config_path} is damaged or not ours ({error!r}): take another checkpoint") from error
    try:
        weights = load_file(weights_path, device=device)
    except FileNotFoundError:
        raise UserError(f"{directory} has no {WEIGHTS_NAME}: take another checkpoint") from None
    except SafetensorError as error:
        raise UserError(f"{weights_path} is damaged ({error}): take another checkpoint") from error
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"{weights_path} does not fit {CONFIG_NAME} beside it: {error}") from error
    digest = hashlib.sha256(weights_path.read_bytes()).hexdigest()
    return LoadedModel(model.eval(), description, step, digest, str(directory))


def find_model(path: Path) -> Path:
    """The folder with ``config.json`` that ``path`` stands for, see :func:`load_model_files`."""
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
