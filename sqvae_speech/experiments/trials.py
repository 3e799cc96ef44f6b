"""From a sweep to its trials: which configurations, under which names."""

import hashlib
import itertools
import json
import math
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqvae_speech.config import flatten, load_config, to_dict
from sqvae_speech.errors import UserError
from sqvae_speech.experiments.sweep_config import SweepConfig
from sqvae_speech.experiments.tables import number
from sqvae_speech.training.tasks import task_of

_LONGEST = 120  # characters of a name; a file system allows 255 bytes


@dataclass(frozen=True)
class Trial:
    """One run of a sweep.

    Attributes:
        name: of its folder.
        group: the same for trials that differ in their seed alone.
        settings: in which it differs from other trials, ``{key: value}``, its seed apart.
        seed: of the run.
        config: the whole configuration, nested, in types that YAML can hold.
    """

    name: str
    group: str
    settings: dict[str, Any]
    seed: int
    config: dict[str, Any]


def load_sweep(path: Path) -> SweepConfig:
    """Read a sweep's YAML.

    Raises:
        UserError: see :func:`sqvae_speech.config.load_config`.
    """
    return load_config(SweepConfig, path)


def expand(sweep: SweepConfig, folder: Path, overrides: Sequence[str] = ()) -> list[Trial]:
    """All trials, in order.

    Args:
        sweep: what to try.
        folder: that ``configs`` are relative to.
        overrides: ``--section.key value`` words for every run.

    Raises:
        UserError: a configuration file that is missing, an unknown key, a value out of range, two trials alike.
    """
    trials: dict[str, Trial] = {}
    variants = list(sweep.variants.items()) or [("", {})]
    for file, variant, point, sample in itertools.product(
        sweep.configs, variants, _grid(sweep.grid), _samples(sweep)
    ):
        varied = {**variant[1], **point, **sample[1]}
        shown: dict[str, Any] = {"config": Path(file).stem, **varied} if len(sweep.configs) > 1 else varied
        parts = [*_file_part(sweep, file), *filter(None, variant[:1]), *_parts(point), *sample[0]]
        group = _name(parts) or Path(file).stem
        for seed in sweep.seeds or (None,):
            settings = {**flatten(sweep.settings), **varied}
            if seed is not None:
                settings["training.seed"] = seed
            words = [f"--{key}={json.dumps(value)}" for key, value in settings.items()]
            path = folder / file
            try:
                config: Any = load_config(task_of(path, words).config_class, path, [*words, *overrides])
            except UserError as error:
                raise UserError(f"{group}: {error}") from error
            name = _name([group, f"seed={seed}"]) if len(sweep.seeds) > 1 else group
            if name in trials:
                raise UserError(f"two trials of the sweep would be called {name!r}: a value is listed twice")
            trials[name] = Trial(name, group, shown, config.training.seed, to_dict(config))
    return list(trials.values())


def _file_part(sweep: SweepConfig, file: str) -> list[str]:
    return [Path(file).stem] if len(sweep.configs) > 1 else []


def _grid(grid: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def _samples(sweep: SweepConfig) -> Iterator[tuple[list[str], dict[str, Any]]]:
    """Yield a part of the name, and values."""
    if not sweep.random.samples:
        yield [], {}
    for index in range(sweep.random.samples):
        # a generator for each key and sample: neither more samples nor more keys change the draws that there are
        yield (
            [f"sample={index:03d}"],
            {
                key: _draw(key, form, random.Random(f"{sweep.random.seed}/{index}/{key}"))
                for key, form in sweep.random.space.items()
            },
        )


def _uniform(generator: random.Random, low: float, high: float) -> float:
    return _rounded(generator.uniform(low, high))


def _log_uniform(generator: random.Random, low: float, high: float) -> float:
    if not 0 < low <= high:
        raise ValueError("log_uniform needs 0 < low <= high")
    return _rounded(math.exp(generator.uniform(math.log(low), math.log(high))))


def _integer(generator: random.Random, low: int, high: int) -> int:
    return generator.randint(low, high)


def _choice(generator: random.Random, *values: Any) -> Any:
    return generator.choice(values)


_DISTRIBUTIONS: dict[str, Callable[..., Any]] = {
    "uniform": _uniform,
    "log_uniform": _log_uniform,
    "integer": _integer,
    "choice": _choice,
}


def _draw(key: str, form: Mapping[str, Any], generator: random.Random) -> Any:
    legal = f"random.space.{key} must be one of {', '.join(f'{name}: [...]' for name in _DISTRIBUTIONS)}"
    kind, arguments = next(iter(form.items()), (None, None))
    if len(form) != 1 or kind not in _DISTRIBUTIONS or not isinstance(arguments, list):
        raise UserError(f"{legal}; got {dict(form)!r}")
    try:
        return _DISTRIBUTIONS[kind](generator, *arguments)
    except (TypeError, ValueError, IndexError) as error:
        raise UserError(f"{legal}; {dict(form)!r}: {error}") from error


def _rounded(value: float) -> float:
    """To four digits: more say nothing, and are hard to read."""
    return float(f"{value:.4g}")


def _parts(point: Mapping[str, Any]) -> list[str]:
    """``covariance=global``, with the last part of a key, or all of it where that is not enough."""
    lasts = [key.rpartition(".")[2] for key in point]
    return [
        f"{last if lasts.count(last) == 1 else key}={_written(value)}"
        for (key, value), last in zip(point.items(), lasts, strict=True)
    ]


def _written(value: Any) -> str:
    if isinstance(value, list):
        return "-".join(map(_written, value))
    return number(value) if isinstance(value, (int, float)) else str(value)


def _name(parts: Sequence[str]) -> str:
    name = re.sub(r"[^A-Za-z0-9._=-]", "-", "_".join(parts))
    if len(name) <= _LONGEST:
        return name
    return f"{name[: _LONGEST - 9]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"
