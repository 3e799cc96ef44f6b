"""What a sweep's YAML says."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class RandomConfig:
    """A random sample of configurations.

    Attributes:
        samples: how many. More of them later keep those that there are.
        seed: of the draws.
        space: of each key, ``{uniform: [low, high]}``, ``{log_uniform: [low, high]}``, ``{integer: [low, high]}``
            (both ends included) or ``{choice: [value, ...]}``.
    """

    samples: int = 0
    seed: int = 0
    space: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.samples < 0:
            raise ValueError(f"random.samples must be at least 0, got {self.samples}")
        if bool(self.samples) != bool(self.space):
            raise ValueError("random needs both samples and a space, or neither")


@dataclass(frozen=True)
class ScoreConfig:
    """What else to measure of a run that is trained.

    Attributes:
        command: words of ``sqvae-speech``, such as ``[score, --shards, dump/test]``, to which ``--model CHECKPOINT
            --output FILE.json`` are added.
        steps: whose checkpoints are scored (``training.keep_steps`` keeps them); none given: the last one.
    """

    command: tuple[str, ...] = ()
    steps: tuple[int, ...] = ()


@dataclass(frozen=True)
class SweepConfig:
    """A search over configurations: each of ``configs`` with each point of ``grid``, or each random sample, with
    each seed.

    Attributes:
        configs: YAML files of training, relative to the sweep's own.
        settings: of every run, ``{section.key: value}``.
        grid: of each key, the values to try.
        random: in place of, or besides, ``grid``: every sample is tried at every point.
        seeds: values of ``training.seed``, over which results are averaged.
        score: what to measure besides the validation.
        columns: of the results, ``{name: what}``: a score of the file that ``score`` writes, by its dotted path
            (``splits`` go by their names: ``test.error_db2.pooled``), or ``valid/`` and a score of the validation at
            that step; with a format after a colon if need be, ``test.units.bitrate:.0f``. None given: all scores of
            the validation.
        curves: drawn of all runs in one figure each: ``valid/loss``, ...
        launcher: words before ``-m sqvae_speech.bin.train`` in place of this Python:
            ``[accelerate, launch, --num_processes, "4"]``.
    """

    configs: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    grid: dict[str, Any] = field(default_factory=dict)
    random: RandomConfig = field(default_factory=RandomConfig)
    seeds: tuple[int, ...] = ()
    score: ScoreConfig = field(default_factory=ScoreConfig)
    columns: dict[str, str] = field(default_factory=dict)
    curves: tuple[str, ...] = ("valid/loss",)
    launcher: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.configs:
            raise ValueError("a sweep needs configs, at least one file")
        for key, values in self.grid.items():
            if not isinstance(values, list) or not values:
                raise ValueError(f"grid.{key} must be a list of values to try, got {values!r}")
        twice = set(self.grid) & set(self.random.space)
        if twice:
            raise ValueError(f"{', '.join(sorted(twice))}: in grid and in random.space; it can be varied in one way")
        if self.score.steps and not self.score.command:
            raise ValueError("score.steps needs score.command")
