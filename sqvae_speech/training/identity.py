"""Which settings decide what a step of training does, and which may change when a run is resumed."""

import re
from collections.abc import Mapping
from typing import Any

from sqvae_speech.config import flatten

# By the last part of a key: length, intervals, what is kept, drawn and reported, where the data lie.
# `training_identity` in recipes/speech.sh has the same list.
FREE = re.compile(
    r"num_steps|num_workers|[a-z]+_interval|keep_[a-z]+|num_plots|train|valid|[a-z]+_recordings|cache_gb"
    r"|download_[a-z]+|trackers|tracker_project|collapse_[a-z]+"
)


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a nested configuration that decide what a step does, ``{"section.key": value}``."""
    return {key: value for key, value in flatten(config).items() if not FREE.fullmatch(key.rpartition(".")[2])}
