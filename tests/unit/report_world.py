"""A made-up run for the tests of reports: every file that a run may leave behind, small."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import yaml

PHONES = ("a", "s", "SIL")
CODES = 8
PARTS = {
    "config": ["config.yaml"],
    "record": ["status.json", "starts.jsonl", "environment.json"],
    "metrics": ["metrics.jsonl"],
    "checkpoint": ["checkpoints"],
    "scores": ["scores"],
    "evaluation": ["evaluation.json"],
    "codebook": ["codebook"],
    "wav": ["wav"],
}


def config(seed: int = 0, **quantizer: Any) -> dict[str, Any]:
    """A configuration of a speech run, as far as a report looks at it."""
    book = {"kind": "gaussian", "codebook_size": CODES, "dim": 4, "covariance": "diagonal", "num_quantizers": 1}
    return {
        "task": "speech",
        "data": {"train": "/nowhere/train", "valid": "/nowhere/dev"},
        "model": {"channels": 16, "quantizer": {**book, "num_groups": 1, **quantizer}},
        "training": {"num_steps": 200, "batch_size": 4, "learning_rate": 0.0004, "seed": seed},
    }


def metrics(offset: float = 0.0) -> list[dict[str, Any]]:
    """Of 200 steps: training every 10, validation every 50."""
    rows: list[dict[str, Any]] = []
    for step in range(10, 201, 10):
        decay = math.exp(-step / 80)
        values = {
            "loss": -100 + 80 * decay,
            "mse": 0.01 + 0.1 * decay,
            "perplexity": 7 - 5 * decay,
            "variance": decay,
        }
        rows.append({"step": step, "split": "train", **values, "learning_rate": 0.0004, "an_odd_one": step / 3})
        if step % 50 == 0:
            values = {"loss": -900 + 300 * decay, "db2": 40 + 50 * decay + offset, "perplexity": 6 - 4 * decay}
            rows.append({"step": step, "split": "valid", **values})
    return rows


def evaluation(name: str, kinds: tuple[str, ...] = ("latents", "codes"), shift: float = 0.0) -> dict[str, Any]:
    """What ``sqvae-speech evaluate`` writes."""

    def abx(error: float) -> dict[str, Any]:
        return {"error": error, "triplets": 5000, "cells": 10}

    kind_scores = {
        kind: {
            "frame_rate": 50.0,
            "bitrate": 120.0 + place,
            "abx": {
                "phone": {
                    "within_within": abx(0.08 + 0.02 * place + shift),
                    "across_within": abx(0.12 + 0.03 * place + shift),
                }
            },
            "probes": {
                "speaker": {"accuracy": 0.61, "chance": 0.1, "examples": 50},
                "phone": {"accuracy": 0.7 - 0.1 * place - shift, "chance": 0.2, "examples": 50},
                "word": None,
            },
        }
        for place, kind in enumerate(kinds)
    }
    units = {
        "codebook_size": CODES,
        "num_codebooks": 1,
        "perplexity": [5.5],
        "usage": [0.875],
        "mean_duration": 0.03,
        "bitrate": 121.0,
        "entropy_rate": [{"order": 1, "bits": 2.4}, {"order": 2, "bits": 1.9}],
        "unit_phone": {"pnmi": 0.43 - shift, "phone_purity": 0.6, "cluster_purity": 0.3},
        "boundaries": {"precision": 0.4, "recall": 0.8, "f1": 0.53, "r_value": 0.2},
    }
    return {
        "name": name,
        "shards": ["dump/test"],
        "train_shards": None,
        "utterances": 23,
        "seconds": 80.0,
        "speakers": 10,
        "representations": kind_scores,
        "units": units if "codes" in kinds else None,
        "error_db2": 48.9 if "codes" in kinds else None,
    }


def scores() -> dict[str, Any]:
    """What ``sqvae-speech score`` writes, of two splits."""
    splits = [
        {
            "split": split,
            "utterances": 20 + place,
            "error_db2": {"pooled": 50.25 - place},
            "target_error_db2": {},
            "codebook": {"perplexity": 5.5, "posterior_entropy": 0.9, "used": 7, "codebook_size": CODES},
            "units": {"bitrate": 123.4, "frame_rate": 50.0, "units": 3954, "seconds": 79.66},
        }
        for place, split in enumerate(("dev", "test"))
    ]
    return {"model": "exp", "step": 200, "checkpoint": "ab" * 32, "splits": splits}


def codebook(phones: tuple[str, ...] = PHONES) -> dict[str, Any]:
    """What ``sqvae-speech evaluate codebook`` writes; the last code is dead."""
    codes = [
        {
            "code": code,
            "count": 10 * (CODES - 1 - code),
            "posterior_entropy": 0.5 if code < CODES - 1 else None,
            "position": [math.cos(code), math.sin(code)],
            "neighbours": [(code + 1) % CODES, (code + 2) % CODES],
            "distances": [0.1, 0.2],
            "phones": {phones[code % 3]: 6 * (CODES - 1 - code), phones[(code + 1) % 3]: 4}
            if code < CODES - 1
            else {},
        }
        for code in range(CODES)
    ]
    return {
        "codebook_size": CODES,
        "used": CODES - 1,
        "dead": [CODES - 1],
        "scale": {"variance": 0.123},
        "explained": 0.5,
        "entropy_histogram": [5, 4, 3, 1],
        "codes": codes,
    }


def tone(seconds: float = 1.0, sample_rate: int = 8000) -> np.ndarray:
    """(samples,) float64."""
    return 0.5 * np.sin(np.arange(int(seconds * sample_rate)) * 0.2)


def make_run(folder: Path, *, seed: int = 0, offset: float = 0.0, without: tuple[str, ...] = (), **quantizer) -> Path:
    """Write a run, all of it but the parts of :data:`PARTS` that are named."""
    files: dict[str, Any] = {
        "status.json": {"state": "finished", "step": 200, "seconds": 61.0, "message": ""},
        "environment.json": {
            "sqvae_speech": "0.1.0",
            "python": "3.13.0 (main)",
            "os": "Linux",
            "torch": {"version": "2.11.0"},
            "git": {"commit": "c0ffee" * 6, "dirty": True, "diff": "git-12345678.diff"},
            "command": ["python", "-m", "sqvae_speech.bin.train", "--config", "a file.yaml"],
        },
        "checkpoints/step-00000200/config.json": {
            "format": "sqvae_speech.speech",
            "mel_spec": {
                "name": "sqvae16k",
                "sample_rate": 16000,
                "hop_length": 160,
                "win_length": 400,
                "n_mels": 80,
            },
            "speakers": ["ann", "bob"],
        },
        "scores/scores.json": scores(),
        "evaluation.json": evaluation(folder.name),
        "codebook/codebook.json": codebook(),
    }
    for name, values in files.items():
        _write(folder / name, json.dumps(values))
    _write(folder / "checkpoints" / "latest", "step-00000200\n")
    _write(folder / "config.yaml", yaml.safe_dump(config(seed, **quantizer)))
    _write(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in metrics(offset)))
    start = {"time": "2026-01-02T03:04:05Z", "step": 0, "device": "cpu", "processes": 1, "changed": {}}
    _write(folder / "starts.jsonl", json.dumps(start) + "\n")
    line = {"utterance_id": "ann-1", "source_speaker": "ann", "target_speaker": "bob", "wav": "ann-1-to-bob.wav"}
    _write(folder / "wav" / "log.jsonl", json.dumps(line) + "\n")
    (folder / "codebook" / "wav").mkdir()
    for path in (folder / "wav" / "ann-1-to-bob.wav", folder / "codebook" / "wav" / "code-0.wav"):
        soundfile.write(path, tone(), 8000)
    for part in without:
        for name in PARTS[part]:
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return folder


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
