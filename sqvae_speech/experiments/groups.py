"""Runs that differ by their seed alone, and means and spreads over them."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from sqvae_speech.experiments.comparison import names_of
from sqvae_speech.experiments.runs import Run
from sqvae_speech.training.identity import identity


@dataclass(frozen=True)
class RunGroup:
    """Runs of one configuration.

    Attributes:
        name: what the names of its runs have in common.
        runs: one a seed.
        names: of the runs.
    """

    name: str
    runs: tuple[Run, ...]
    names: tuple[str, ...]

    @property
    def seeds(self) -> list[int]:
        """Of the runs whose configuration can be read."""
        return [run.config["training.seed"] for run in self.runs if "training.seed" in run.config]


def group_by_seed(runs: Sequence[Run]) -> list[RunGroup]:
    """Group runs that are equal but for their seed in what decides a step, in order of the first of each.

    Runs without a configuration, and runs of one configuration with one seed, stay apart.
    """
    members: dict[str, list[int]] = {}
    for number, run in enumerate(runs):
        settings = {key: value for key, value in identity(run.config).items() if key != "training.seed"}
        key = json.dumps([settings, run.num_steps], sort_keys=True, default=str) if settings else str(number)
        seeds = [runs[other].config.get("training.seed") for other in members.get(key, ())]
        while seeds and run.config.get("training.seed") in seeds:
            key += "*"
            seeds = [runs[other].config.get("training.seed") for other in members.get(key, ())]
        members.setdefault(key, []).append(number)
    names = names_of(runs)
    groups = []
    taken: set[str] = set()
    for numbers in members.values():
        own = tuple(names[number] for number in numbers)
        name = _common(own)
        name = own[0] if name in taken or not name else name
        taken.add(name)
        groups.append(RunGroup(name, tuple(runs[number] for number in numbers), own))
    return groups


def _common(names: Sequence[str]) -> str:
    """``sq-vae`` of ``sq-vae-seed0`` and ``sq-vae-seed1``, and of either alone; all of a name without a seed."""
    if len(names) == 1:
        return re.sub(r"[-_=./ ]+seed[-_=]?\d+$", "", names[0])
    low, high = min(names), max(names)  # what these have in common all have
    length = next((place for place, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), len(low))
    return re.sub(r"[-_=./ ]*(seed)?[-_=./ ]*$", "", low[:length])
