"""What can be trained, by the name that a configuration's ``task`` gives. Imported only when it is asked for."""

import importlib
from collections.abc import Sequence
from pathlib import Path

from sqvae_speech.config import peek
from sqvae_speech.errors import UserError, nearest
from sqvae_speech.training.task import Task

# name -> (module, class)
TASKS = {
    "speech": ("sqvae_speech.training.speech", "SpeechTask"),
    "image": ("sqvae_speech.training.image", "ImageTask"),
    "vocoder": ("sqvae_speech.training.vocoder", "VocoderTask"),
    "unit_lm": ("sqvae_speech.training.unit_lm", "UnitLmTask"),
    "text_to_units": ("sqvae_speech.training.text_to_units", "TextToUnitsTask"),
}


def task_class(name: str) -> type[Task]:
    """The class of a task.

    Raises:
        UserError: no task of that name.
    """
    if name not in TASKS:
        raise UserError(f"task must be one of {', '.join(TASKS)}, got {name!r}{nearest(name, TASKS)}")
    module, attribute = TASKS[name]
    return getattr(importlib.import_module(module), attribute)


def task_of(path: str | Path | None, overrides: Sequence[str]) -> type[Task]:
    """The class of the task that a configuration file and overrides on the command line are of; without ``task`` it
    is ``speech``.

    Raises:
        UserError: see :func:`task_class` and :func:`sqvae_speech.config.load_config`.
    """
    return task_class(str(peek("task", path, overrides, default="speech")))
