"""Units for people to look at."""

import numpy as np

from sqvae_speech.units.meta import UnitStoreMeta
from sqvae_speech.units.sequences import UtteranceUnits
from sqvae_speech.units.store import UnitSource, UnitStore


def describe_source(source: UnitSource) -> str:
    """What a file of units is, in one line; nothing but its metadata is read."""
    meta = source.meta
    rate = "unknown" if meta.frame_rate is None else f"{meta.frame_rate:g} Hz"
    spec = "unknown" if meta.mel_spec is None else meta.mel_spec["name"]
    count = f"{len(source)} utterances, " if isinstance(source, UnitStore) else ""
    more = [
        *(["deduplicated"] if meta.deduplicated else []),
        *([] if meta.sampled is None else [f"drawn with seed {meta.sampled}"]),
        *([] if meta.f0 is None else [f"F0 by {meta.f0['method']}"]),
        *(["entropy"] if meta.entropy else []),
        *([f"the {meta.top_k} most probable codes"] if meta.top_k else []),
        *([f"samples with seeds {', '.join(map(str, meta.sample_seeds))}"] if meta.sample_seeds else []),
    ]
    model = (meta.checkpoint or "unknown")[:12]
    what = f"{meta.num_codebooks} x {meta.codebook_size} codes, {rate}, features {spec}, checkpoint {model}"
    return ", ".join([f"{source.name}: {count}{what}", *more])


def describe_utterance(units: UtteranceUnits, meta: UnitStoreMeta) -> str:
    """Everything that is known of an utterance, a line each."""
    seconds = meta.seconds(units)
    lasting = "" if seconds is None else f", {seconds:.2f} s"
    lines = [f"{units.utterance_id}  speaker {units.speaker or 'unknown'}, {units.num_units} units{lasting}"]
    if units.text:
        lines.append(f"  {units.text}")
    lines += [f"  {_numbers(codes)}" for codes in units.codes]
    if units.durations is not None:
        lines.append(f"  lasting {_numbers(units.durations)}")
    if units.f0 is not None:
        lines.append(f"  F0 {' '.join(f'{value:.0f}' if value else '-' for value in units.f0.tolist())} Hz")
    if units.entropy is not None:
        lines += [f"  entropy {' '.join(f'{value:.2f}' for value in row)} nats" for row in units.entropy.tolist()]
    if units.top_codes is not None and units.top_probabilities is not None:
        for codes, probabilities in zip(units.top_codes, units.top_probabilities, strict=True):
            lines.append(f"  probable {' '.join(map(_choice, codes, probabilities))}")
    if units.samples is not None:
        for seed, sample in zip(meta.sample_seeds, units.samples, strict=True):
            lines += [f"  seed {seed} {_numbers(codes)}" for codes in sample]
    return "\n".join(lines)


def _numbers(values: np.ndarray) -> str:
    return " ".join(map(str, values.tolist()))


def _choice(codes: np.ndarray, probabilities: np.ndarray) -> str:
    """``71:0.80,12:0.15``."""
    return ",".join(f"{code}:{p:.2f}" for code, p in zip(codes.tolist(), probabilities.tolist(), strict=True))
