"""What a run is, in names and values: model, features, data, machine, state of the source, command."""

import json
import math
import shlex
import struct
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqvae_speech.experiments.tables import number
from sqvae_speech.reporting.page import Facts
from sqvae_speech.reporting.run_folder import RunFolder, part, quantizer_name, safely


def summary(folder: RunFolder) -> str:
    """A sentence that says what was trained."""
    phrases = [safely(make, folder) for make in (_what, _rate, _spec, _speakers)]
    return ", ".join([*(phrase for phrase in phrases if phrase), f"{folder.run.step:,} steps"]) + "."


def _what(folder: RunFolder) -> str:
    if folder.task == "unit_lm":
        return "Language model over units"
    quantizer = folder.config["model"]["quantizer"]
    return f"{quantizer_name(quantizer)} with {_codes(quantizer)} codes"


def _rate(folder: RunFolder) -> str:
    rate = frame_rate(folder)
    return f"{rate:g} units a second, at most {rate * _bits(folder.config['model']):.0f} bit/s" if rate else ""


def _spec(folder: RunFolder) -> str:
    spec = folder.model["mel_spec"]
    return f"{spec['name']} log-mels of {number(spec['sample_rate'] / 1000)} kHz"


def _speakers(folder: RunFolder) -> str:
    count = len(folder.model["speakers"])
    return f"{count} speaker{'s' * (count != 1)}"


def run_facts(folder: RunFolder) -> list[Facts]:
    """All of it, in groups; those of which nothing is known are left out."""
    groups = (
        Facts("Model", safely(_model, folder) or ()),
        Facts("Features", safely(_features, folder) or ()),
        *(Facts(f"Data: {split}", safely(_data, folder, split) or ()) for split in ("train", "valid")),
        Facts("Training", safely(_training, folder) or ()),
        Facts("Made with", safely(_environment, folder) or ()),
        Facts("Source and command", safely(_source, folder) or (), code=True),
    )
    return [group for group in groups if group.rows]


def frame_rate(folder: RunFolder) -> float | None:
    """Units a second, where scores or an evaluation say it."""
    units = [part(split, "units").get("frame_rate") for split in (folder.scores or {}).get("splits", ())]
    codes = part(part(folder.evaluation or {}, "representations"), "codes")
    found = [rate for rate in (*units, codes.get("frame_rate")) if isinstance(rate, (int, float)) and rate > 0]
    return float(found[0]) if found else None


def _bits(model: Mapping[str, Any]) -> float:
    quantizer = part(model, "quantizer")
    books = quantizer.get("num_quantizers", 1) * quantizer.get("num_groups", 1)
    return books * math.log2(max(quantizer.get("codebook_size", 1), 1))


def _codes(quantizer: Mapping[str, Any]) -> str:
    books = quantizer.get("num_quantizers", 1) * quantizer.get("num_groups", 1)
    size = f"{quantizer.get('codebook_size', 0):,}"
    return size if books == 1 else f"{books} × {size}"


def _model(folder: RunFolder) -> tuple[tuple[str, str], ...]:
    model = part(folder.config, "model")
    rows = [("task", folder.task)]
    quantizer = part(model, "quantizer")
    if quantizer:
        rows += [
            ("quantizer", quantizer_name(quantizer)),
            ("codes", f"{_codes(quantizer)}, {quantizer.get('dim')} dimensions"),
        ]
    rows += [
        (name.replace("_", " "), _text(value)) for name, value in model.items() if not isinstance(value, (dict, list))
    ]
    if weights := _weights(folder.path):
        rows.append(("weights", f"{weights:,}"))
    return tuple(rows)


def _features(folder: RunFolder) -> tuple[tuple[str, str], ...]:
    spec = part(folder.model, "mel_spec")
    if not spec:
        images = part(folder.model, "image_spec")
        return tuple((name.replace("_", " "), _text(value)) for name, value in images.items())
    rate, hop = spec.get("sample_rate"), spec.get("hop_length")
    rows = [
        ("preset", _text(spec.get("name"))),
        ("sample rate", f"{rate} Hz"),
        ("hop, window, FFT", f"{hop}, {spec.get('win_length')}, {spec.get('n_fft')} samples"),
        ("mel bands", f"{spec.get('n_mels')}, {_text(spec.get('fmin'))} to {_text(spec.get('fmax'))} Hz"),
        ("mel scale", f"{spec.get('mel_scale')}, norm {spec.get('mel_norm')}, power {_text(spec.get('power'))}"),
        ("preemphasis", _text(spec.get("preemphasis"))),
        (
            "logarithm",
            f"{spec.get('log')}, range {_text(spec.get('dynamic_range'))}, clamp {_text(spec.get('clamp'))}",
        ),
    ]
    if isinstance(rate, (int, float)) and isinstance(hop, (int, float)) and hop:
        rows.append(("frames", f"{rate / hop:.4g} a second"))
    return tuple(rows)


def _data(folder: RunFolder, split: str) -> tuple[tuple[str, str], ...]:
    index = folder.data.get(split)
    place = part(folder.config, "data").get(split)
    rows = [("where", _text(place))] if place else []
    if index is None:
        return tuple(rows)
    for name, what in (("num_utterances", "utterances"), ("num_images", "images")):
        if isinstance(index.get(name), int):
            rows.append((what, f"{index[name]:,}"))
    spec = part(index, "mel_spec")
    if spec and isinstance(index.get("num_frames"), int):
        seconds = index["num_frames"] * spec["hop_length"] / spec["sample_rate"]
        rows.append(("speech", f"{seconds / 3600:.2f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"))
    if isinstance(index.get("speakers"), list):
        rows.append(("speakers", f"{len(index['speakers'])}"))
    if index.get("fingerprint"):
        rows.append(("fingerprint", str(index["fingerprint"])[:12]))
    return tuple(rows)


def _training(folder: RunFolder) -> tuple[tuple[str, str], ...]:
    run, settings = folder.run, part(folder.config, "training")
    rows = [("steps", f"{run.step:,}" + (f" of {run.num_steps:,}" if run.num_steps else ""))]
    for key in ("batch_size", "learning_rate", "schedule", "max_grad_norm", "mixed_precision", "seed"):
        if key in settings:
            rows.append((key.replace("_", " "), _text(settings[key])))
    if run.seconds is not None:
        rows.append(("time", str(timedelta(seconds=round(run.seconds)))))
    if run.device:
        rows.append(("device", run.device + (f", {run.processes} processes" if (run.processes or 1) > 1 else "")))
    if folder.starts:
        rows.append(("started", str(folder.starts[0].get("time", ""))))
    if run.starts > 1:
        rows.append(("starts", str(run.starts)))
    return tuple(rows)


def _environment(folder: RunFolder) -> tuple[tuple[str, str], ...]:
    facts = folder.environment
    rows = {
        "sqvae_speech": facts.get("sqvae_speech"),
        "Python": str(facts.get("python", "")).partition(" ")[0],
        "PyTorch": part(facts, "torch").get("version"),
        "system": facts.get("os"),
        "processor": part(facts, "cpu").get("model"),
    }
    return tuple((name, str(value)) for name, value in rows.items() if value)


def _source(folder: RunFolder) -> tuple[tuple[str, str], ...]:
    facts, git = folder.environment, part(folder.environment, "git")
    rows = []
    if git.get("commit"):
        state = f", with changes ({git.get('diff', 'not kept')})" if git.get("dirty") else ", without changes"
        rows.append(("commit", f"{git['commit']}{state}"))
    elif git.get("none"):
        rows.append(("commit", str(git["none"])))
    command = facts.get("command")
    if isinstance(command, list) and command:
        rows.append(("command", shlex.join(map(str, command))))
    rows.append(("folder", str(folder.path.resolve())))
    if checkpoint := (folder.scores or folder.lm_scores or {}).get("checkpoint"):
        rows.append(("weights scored", str(checkpoint)))
    return tuple(rows)


def _weights(path: Path) -> int | None:
    """How many numbers ``model.safetensors`` of the newest checkpoint holds, by its header alone."""
    try:
        name = (path / "checkpoints" / "latest").read_text(encoding="utf-8").strip()
        with (path / "checkpoints" / name / "model.safetensors").open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(size, 100_000_000)))
        return sum(math.prod(tensor["shape"]) for key, tensor in header.items() if key != "__metadata__")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error):
        return None


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value))
    if isinstance(value, (int, float)):
        return number(value)
    return "none" if value is None else str(value)
