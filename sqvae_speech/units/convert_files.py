"""Conversion of whole sets: recordings, shards or stored units to wavs, pictures and a log."""

import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from sqvae_speech.audio.logmel import LogMel
from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.audio.wav import read_wav, wav_info, write_wav
from sqvae_speech.data.files import write_text
from sqvae_speech.data.index import ShardIndex
from sqvae_speech.data.reader import ShardReader, UtteranceMel
from sqvae_speech.errors import UserError
from sqvae_speech.plots import plot_mels
from sqvae_speech.units.convert_voice import convert_voice, speak_units, speaker_index
from sqvae_speech.units.sequences import UtteranceUnits
from sqvae_speech.units.store import UnitStore

if TYPE_CHECKING:
    from sqvae_speech.audio.vocoder import Vocoder
    from sqvae_speech.models.pretrained import SpeechBundle

logger = logging.getLogger(__name__)


class Source(NamedTuple):
    """Something to convert: its id, its speaker when known, and how to load its log-mel or its units."""

    utterance_id: str
    speaker: str | None
    load: Callable[[], UtteranceMel | UtteranceUnits]


def shard_sources(shards: str | os.PathLike, mel_spec: MelSpec) -> list[Source]:
    """The utterances of a directory of shards, in the order of the manifest.

    Raises:
        UserError: for shards of another MelSpec, or damaged ones.
    """
    index = ShardIndex.load(Path(shards))
    mel_spec.require_same(index.mel_spec, "the checkpoint", f"the shards of {shards}")
    reader = ShardReader(index)
    return [
        Source(entry.utterance_id, entry.speaker, lambda entry=entry: reader.utterance(entry))  # type: ignore[misc]
        for entry in index.entries()
    ]


def wav_sources(
    paths: Sequence[str | os.PathLike], mel_spec: MelSpec, channel: int | str | None = None
) -> list[Source]:
    """Recordings of anybody, resampled to the model's rate; their ids are the file names less the extension.

    Raises:
        UserError: for a file that is missing or unreadable, and for two that have one name.
    """
    for path in paths:
        wav_info(path)  # a file that cannot be read should stop us before the first is converted
    names = Counter(Path(path).stem for path in paths)
    if twice := [name for name, count in names.items() if count > 1]:
        raise UserError(f"two recordings are called {twice[0]!r}, and so would be their results; convert them apart")
    log_mel = LogMel(mel_spec)

    def load(path: str | os.PathLike) -> UtteranceMel:
        wav, _ = read_wav(path, sample_rate=mel_spec.sample_rate, channel=channel)
        try:
            mel, _, peak = log_mel(torch.from_numpy(wav)[None])
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        return UtteranceMel(Path(path).stem, "", mel[0].numpy(), float(peak[0]), {})

    return [Source(Path(path).stem, None, lambda path=path: load(path)) for path in paths]  # type: ignore[misc]


def unit_sources(store: UnitStore) -> list[Source]:
    """The utterances of a unit store."""
    return [
        Source(units.utterance_id, units.speaker, lambda name=units.utterance_id: store[name])  # type: ignore[misc]
        for units in store
    ]


def plan_conversions(
    sources: Sequence[Source], targets: Sequence[str], *, to_self: bool = True, maximum: int | None = None
) -> list[tuple[Source, str]]:
    """Which sources to convert to which targets, at most ``maximum`` of them, spread evenly over pairs of speakers.

    With a maximum, the first utterance of every (source speaker, target) pair comes before the second of any, and
    pairs are taken along the diagonals of the table of pairs, so that few conversions have many speakers in them.

    Args:
        sources: in order.
        targets: trained speakers.
        to_self: also convert a speaker's recordings to that speaker.
        maximum: None for all.

    Returns:
        Pairs of source and target, those of one source together, in the order of the sources.
    """
    rows: dict[str | None, int] = {}
    for source in sources:
        rows.setdefault(source.speaker, len(rows))
    rank: Counter[tuple[str | None, str]] = Counter()
    ranked = []
    for number, source in enumerate(sources):
        for column, target in enumerate(targets):
            if to_self or source.speaker != target:
                diagonal = (column - rows[source.speaker]) % len(targets)
                ranked.append((rank[source.speaker, target], diagonal, number, column))
                rank[source.speaker, target] += 1
    chosen = sorted(ranked)[:maximum]
    return [(sources[number], targets[column]) for *_, number, column in sorted(chosen, key=lambda item: item[2:])]


def convert_files(
    bundle: "SpeechBundle",
    conversions: Iterable[tuple[Source, str]],
    vocoder: "Vocoder",
    output: str | os.PathLike,
    *,
    device: torch.device | str = "cpu",
    plots: bool = True,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Convert, and write ``<id>-to-<target>.wav``, ``.png`` (log-mels of source and result) and ``log.jsonl``.

    Args:
        bundle: a model in evaluation mode, on ``device``.
        conversions: from :func:`plan_conversions`.
        vocoder: of the bundle's MelSpec.
        output: folder, made when it is missing; files of the same name are replaced.
        device: where the model is.
        plots: draw the log-mels.
        progress: show a progress bar.

    Returns:
        The lines of the log.

    Raises:
        UserError: for a target that was not trained, and for a recording that cannot be used, with its name.
    """
    conversions = list(conversions)
    for target in {target for _, target in conversions}:
        speaker_index(bundle.speakers, target)
    bundle.mel_spec.require_same(vocoder.mel_spec, "the checkpoint", "the vocoder")
    output = Path(output)
    log: list[dict[str, Any]] = []
    loaded: tuple[str, UtteranceMel | UtteranceUnits] | None = None
    with tqdm(conversions, desc="convert", disable=not progress) as bar:
        for source, target in bar:
            if loaded is None or loaded[0] != source.utterance_id:
                loaded = (source.utterance_id, source.load())
            name = f"{source.utterance_id}-to-{target}"
            log.append(_convert(bundle, loaded[1], target, vocoder, output / name, device, plots))
    write_text(output / "log.jsonl", "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in log))
    return log


def _convert(
    bundle: "SpeechBundle",
    source: UtteranceMel | UtteranceUnits,
    target: str,
    vocoder: "Vocoder",
    stem: Path,
    device: torch.device | str,
    plots: bool,
) -> dict[str, Any]:
    mels: dict[str, np.ndarray] = {}
    try:
        if isinstance(source, UtteranceMel):
            mels[f"{source.utterance_id} ({source.speaker or 'speaker unknown'})"] = source.mel
            result = convert_voice(bundle, source.mel, target, vocoder, source.peak, device=device)
        else:
            result = speak_units(bundle, source, target, vocoder, device=device)
    except UserError as error:
        raise UserError(f"{source.utterance_id}: {error}") from None
    mels[f"as {target}"] = result.mel
    wav, png = stem.with_name(f"{stem.name}.wav"), stem.with_name(f"{stem.name}.png")
    write_wav(wav, result.wav, bundle.mel_spec.sample_rate)
    if plots:
        plot_mels(png, mels, bundle.mel_spec)
    return {
        "utterance_id": source.utterance_id,
        "source_speaker": source.speaker or None,
        "target_speaker": target,
        "wav": wav.name,
        "plot": png.name if plots else None,
        "seconds": round(len(result.wav) / bundle.mel_spec.sample_rate, 4),
        "units": result.mel.shape[1] // bundle.model.frames_per_unit,
        "peak": source.peak,
    }
