"""The model card of a tokenizer, written from its run."""

import json
import math
from pathlib import Path

import yaml

from sqvae_speech.models.card import cell, compose_card
from sqvae_speech.models.inference import UnitTiming
from sqvae_speech.models.pretrained import SpeechBundle

_USE = """```python
from sqvae_speech.tokenizer import SpeechTokenizer

tokenizer = SpeechTokenizer.from_pretrained("{name}")
units = tokenizer.encode("speech.wav")  # units.codes (1, {num_codebooks}, T) int64, {frame_rate:g} units a second
speech = tokenizer.decode(units, "{speaker}")  # speech.wav (1, samples), in a voice that was seen in training
```"""


def tokenizer_card(bundle: SpeechBundle, name: str, *, licence: str | None = None, data: str | None = None) -> str:
    """Write a card in the Hub's form: YAML that its search reads, then Markdown.

    Args:
        bundle: the model. One loaded from a run gives the run's data and scores.
        name: what ``from_pretrained`` will be given.
        licence: of the weights, an SPDX id in lower case as the Hub lists them; None leaves the field open, in words.
        data: what it was trained on, in words.
    """
    model, spec, timing = bundle.model, bundle.mel_spec, UnitTiming(bundle.mel_spec)
    quantizer = model.config.quantizer
    bits = model.num_codebooks * math.log2(model.codebook_size) * bundle.frame_rate
    run, speakers = run_of(bundle), bundle.speakers
    facts = {
        "data": data or _data(run) or "not stated",
        "features": f"{spec.name}: {spec.sample_rate} Hz, {spec.n_mels} mels, hop {spec.hop_length}",
        "codebooks": f"{model.num_codebooks} of K = {model.codebook_size}",
        "quantizer": f"{quantizer.kind}, {quantizer.dim} dimensions",
        "frame rate": f"{bundle.frame_rate:g} units a second",
        "bitrate": f"{bits:.1f} bit/s at most",
        "streaming latency": f"{1000 * timing.latency / spec.sample_rate:.1f} ms",
        "speakers": f"{len(speakers)}: {', '.join(speakers[:12])}{', ...' if len(speakers) > 12 else ''}",
        "training": f"{bundle.step} steps",
        "weights": f"SHA-256 {bundle.fingerprint[:12]}" if bundle.fingerprint else "not saved yet",
    }
    use = _USE.format(
        name=name,
        num_codebooks=model.num_codebooks,
        frame_rate=bundle.frame_rate,
        speaker=speakers[0] if speakers else "",
    )
    return compose_card(
        name,
        what="A speech tokenizer: log-mel frames to discrete units and back, a stochastically quantized VAE (SQ-VAE, "
        "Takida et al., ICML 2022, arXiv 2205.07547) trained with sqvae_speech.",
        pipeline_tag="feature-extraction",
        tags=["speech-tokenizer", "discrete-units", "sq-vae"],
        facts=facts,
        use=use,
        licence=licence,
        more=_scores(run, bundle.fingerprint)
        + "\nUnits come from anybody's speech; voices are those seen in training.\n",
    )


def run_of(bundle: SpeechBundle) -> Path | None:
    """The experiment folder that a checkpoint lies in, or None."""
    folder = Path(bundle.path) if bundle.path else None
    return folder.parent.parent if folder is not None and folder.parent.name == "checkpoints" else None


def _data(run: Path | None) -> str | None:
    """Hours and speakers of the training shards, where the run and they are still there."""
    try:
        assert run is not None
        config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
        shards = Path(config["data"]["train"])
        index = json.loads((shards / "index.json").read_text(encoding="utf-8"))
        spec = index["mel_spec"]
        hours = index["num_frames"] * spec["hop_length"] / spec["sample_rate"] / 3600
        # the names of folders, not where they lie on the author's machine
        return (
            f"{'/'.join(shards.parts[-2:])}: {index['num_utterances']} utterances, {hours:.2f} h, "
            f"{len(index['speakers'])} speakers"
        )
    except (AssertionError, OSError, KeyError, TypeError, ValueError, yaml.YAMLError):
        return None


def _scores(run: Path | None, fingerprint: str) -> str:
    """A table of the run's scores, when they are of these weights."""
    try:
        assert run is not None
        report = json.loads((run / "scores" / "scores.json").read_text(encoding="utf-8"))
        if report["checkpoint"] != fingerprint:
            return ""
        rows = []
        for split in report["splits"]:
            error = "n/a" if split["error_db2"] is None else f"{split['error_db2']['pooled']:.2f}"
            rows.append(
                f"| {cell(split['split'])} | {split['utterances']} | {error} | "
                f"{split['codebook']['perplexity']:.1f} | {split['units']['bitrate']:.1f} |"
            )
    except (AssertionError, OSError, KeyError, TypeError, ValueError):
        return ""
    header = "| split | utterances | error (dB²) | perplexity | bit/s |\n|---|---:|---:|---:|---:|"
    return "\n## Scores\n\n" + "\n".join([header, *rows]) + "\n\nError: mean squared error of the log-mel.\n"
