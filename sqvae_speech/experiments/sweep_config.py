"""What a sweep's YAML says."""

import itertools
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
        references: what the same command scores without training a run for it, a row of the results each: a name and
            the words that take the place of ``--model CHECKPOINT``, such as ``{log-mel: [--features, mel]}``.
            ``{output}`` in a word is the sweep's folder; such a reference waits until all trials are done.
        steps: whose checkpoints are scored (``training.keep_steps`` keeps them); none given: the last one.
    """

    command: tuple[str, ...] = ()
    references: dict[str, tuple[str, ...]] = field(default_factory=dict)
    steps: tuple[int, ...] = ()


@dataclass(frozen=True)
class SweepConfig:
    """A search over configurations: each of ``configs`` in each of ``variants`` with each point of ``grid``, or each
    random sample, with each seed.

    Attributes:
        configs: YAML files of training, relative to the sweep's own.
        settings: of every run, ``{section.key: value}``.
        variants: settings to try together, by the name that a run then has:
            ``{larger: {model.channels: 512, training.learning_rate: 2e-4}}``.
        grid: of each key, the values to try.
        random: in place of, or besides, ``grid``: every sample is tried at every point.
        seeds: values of ``training.seed``, over which results are averaged.
        score: what to measure besides the validation.
        columns: of the results, ``{name: what}``: a score of the file that ``score`` writes, by its dotted path
            (``splits`` go by their names: ``test.error_db2.pooled``), or ``valid/`` and a score of the validation at
            that step; with a format after a colon if need be, ``test.units.bitrate:.0f``. Of several paths, with
            ``|`` between them, the first counts that there is. None given: all scores of the validation.
        curves: drawn of all runs in one figure each: ``valid/loss``, ...
        launcher: words before ``-m sqvae_speech.bin.train`` in place of this Python:
            ``[accelerate, launch, --num_processes, "4"]``.
    """

    configs: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    variants: dict[str, dict[str, Any]] = field(default_factory=dict)
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
        ways = (set(self.grid), set(self.random.space), {key for each in self.variants.values() for key in each})
        twice = {key for one, other in itertools.combinations(ways, 2) for key in one & other}
        if twice:
            raise ValueError(
                f"{', '.join(sorted(twice))}: in two of grid, random.space and variants; it can be varied in one way"
            )
        for name in ("steps", "references"):
            if getattr(self.score, name) and not self.score.command:
                raise ValueError(f"score.{name} needs score.command")
