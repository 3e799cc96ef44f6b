"""What the folder of a run holds, read once; what is missing or damaged is None, or empty."""

import json
import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from sqvae_speech.data.files import read_json_lines
from sqvae_speech.experiments.runs import Run, read_run
from sqvae_speech.training.metrics_log import read_metrics
from sqvae_speech.training.record import read_config, read_starts

Result = TypeVar("Result")
TYPES = {"global": "I", "sample": "II", "position": "III", "diagonal": "IV"}


@dataclass(frozen=True)
class RunFolder:
    """Of one run.

    Attributes:
        path: the folder.
        run: how it stands.
        config: as run, nested.
        config_text: the same, as the file has it.
        environment: ``environment.json``.
        starts: ``starts.jsonl``.
        metrics: ``metrics.jsonl``.
        model: ``config.json`` of the checkpoint that ``--model`` stands for.
        data: split -> ``index.json`` of its shards, where they are still there.
        scores: of ``sqvae-speech score``.
        lm_scores: of ``sqvae-speech lm score``.
        evaluation: of ``sqvae-speech evaluate``.
        voices: of ``sqvae-speech evaluate voices``.
        codebook: of ``sqvae-speech evaluate codebook``.
        conversions: of ``sqvae-speech convert``.
    """

    path: Path
    run: Run
    config: dict[str, Any] = field(default_factory=dict)
    config_text: str = ""
    environment: dict[str, Any] = field(default_factory=dict)
    starts: list[dict[str, Any]] = field(default_factory=list)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    model: dict[str, Any] = field(default_factory=dict)
    data: dict[str, dict[str, Any]] = field(default_factory=dict)
    scores: dict[str, Any] | None = None
    lm_scores: dict[str, Any] | None = None
    evaluation: dict[str, Any] | None = None
    voices: dict[str, Any] | None = None
    codebook: dict[str, Any] | None = None
    conversions: list[dict[str, Any]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.path.resolve().name

    @property
    def task(self) -> str:
        """What was trained, one of :data:`sqvae_speech.training.tasks.TASKS`."""
        return str(self.config.get("task", "speech"))

    @property
    def held_out(self) -> Path | None:
        """Shards that were not trained on: those of the test split beside the training data, else of validation."""
        data = self.config.get("data")
        if not isinstance(data, dict):
            return None
        train, valid = (Path(str(data.get(split) or ".")) for split in ("train", "valid"))
        test = train.parent / "test"
        return next((place for place in (test, valid) if (place / "index.json").is_file()), None)

    def command(self, *words: str) -> str:
        """A command line of ``sqvae-speech`` for the shell; ``{run}`` and ``{shards}`` in its words are filled in."""
        shards = str(self.held_out or "DIR")
        return shlex.join(["sqvae-speech", *(word.format(run=self.path, shards=shards) for word in words)])


def read_run_folder(path: Path) -> RunFolder:
    """Read a run. Never fails for what is missing or damaged in it."""
    config = read_config(path)
    metrics = path / "metrics.jsonl"
    log = path / "wav" / "log.jsonl"
    return RunFolder(
        path=path,
        run=read_run(path),
        config=config,
        config_text=_text(path / "config.yaml"),
        environment=read_object(path / "environment.json") or {},
        starts=read_starts(path),
        metrics=read_metrics(metrics) if metrics.is_file() else [],
        model=_model(path),
        data=_data(config),
        scores=_scores(path / "scores" / "scores.json"),
        lm_scores=_scores(path / "scores.json") or _scores(path / "lm" / "scores.json"),
        evaluation=_with(read_object(path / "evaluation.json"), "representations"),
        voices=_with(read_object(path / "voices.json"), "folders"),
        codebook=_with(read_object(path / "codebook" / "codebook.json"), "codes"),
        conversions=[line for line in read_json_lines(log) if "wav" in line] if log.is_file() else [],
    )


def read_object(path: Path) -> dict[str, Any] | None:
    """The object of a JSON file; None where there is none."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None


def part(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The object that is below a key; empty where there is none."""
    found = values.get(key)
    return found if isinstance(found, Mapping) else {}


def short_path(path: str | os.PathLike) -> str:
    """The end of a path, which says what it is: ``dump/sqvae16k/test``."""
    return "/".join(Path(path).parts[-3:])


def safely(make: Callable[..., Result], *arguments: Any) -> Result | None:
    """What ``make`` gives; None where values are damaged, or of another version."""
    try:
        return make(*arguments)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, ZeroDivisionError):
        return None


def quantizer_name(quantizer: Mapping[str, Any]) -> str:
    """How papers call a quantizer of a configuration: ``SQ-VAE IV``, ``VQ-VAE (EMA)``; else its kind."""
    kind = quantizer.get("kind", "gaussian")
    if kind == "vq":
        name = "VQ-VAE (EMA)" if quantizer.get("codebook_update", "ema") == "ema" else "VQ-VAE (gradient)"
    elif kind == "vmf":
        name = "SQ-VAE vMF"
    elif kind != "gaussian":  # of somebody's own
        name = str(kind)
    else:
        name = f"SQ-VAE {TYPES.get(str(quantizer.get('covariance', 'diagonal')), '')}".strip()
    stages, groups = quantizer.get("num_quantizers", 1), quantizer.get("num_groups", 1)
    parts = [f"{stages} residual stages"] * (stages != 1) + [f"{groups} groups"] * (groups != 1)
    return ", ".join([name, *parts])


def _with(values: dict[str, Any] | None, key: str) -> dict[str, Any] | None:
    """``values``, if they are what they should be."""
    return values if values is not None and key in values else None


def _scores(path: Path) -> dict[str, Any] | None:
    values = _with(read_object(path), "splits")
    splits = values["splits"] if values is not None else None
    return values if isinstance(splits, list) and splits and all(isinstance(one, dict) for one in splits) else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError):  # a null byte in the name of a checkpoint
        return ""


def _model(path: Path) -> dict[str, Any]:
    for pointer in ("best", "latest"):
        name = _text(path / "checkpoints" / pointer).strip()
        if name and (found := read_object(path / "checkpoints" / name / "config.json")):
            return found
    return {}


def _data(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    data = config.get("data")
    found = {}
    for split in ("train", "valid"):
        folder = data.get(split) if isinstance(data, dict) else None
        if isinstance(folder, str) and (index := read_object(Path(folder) / "index.json")):
            found[split] = index
    return found
