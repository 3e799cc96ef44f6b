"""Conversion of whole sets: recordings, shards or stored units to wavs, pictures and a log, each wav checked."""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from sqvae_speech.audio.faults import write_checked_wav
from sqvae_speech.audio.logmel import LogMel
from sqvae_speech.audio.loudness import match_loudness
from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.audio.wav import read_wav, wav_info
from sqvae_speech.data.files import read_text, write_text
from sqvae_speech.data.index import ShardIndex
from sqvae_speech.data.reader import ShardReader, UtteranceMel
from sqvae_speech.errors import UserError, nearest
from sqvae_speech.plots import plot_mels
from sqvae_speech.units.convert_voice import Conversion, convert_voice, speak_units, speaker_index
from sqvae_speech.units.sequences import UtteranceUnits
from sqvae_speech.units.store import UnitStore

if TYPE_CHECKING:
    from sqvae_speech.audio.vocoder import Vocoder
    from sqvae_speech.models.pretrained import SpeechBundle


class Source(NamedTuple):
    """Something to convert.

    Attributes:
        utterance_id: its id.
        speaker: when known.
        load: gives its log-mel or its units.
        recording: gives its samples, (T,) float32 at the model's rate, where there are any.
        path: of its recording, likewise.
    """

    utterance_id: str
    speaker: str | None
    load: Callable[[], UtteranceMel | UtteranceUnits]
    recording: Callable[[], np.ndarray] | None = None
    path: str | None = None


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

    def read(path: str | os.PathLike) -> np.ndarray:
        return read_wav(path, sample_rate=mel_spec.sample_rate, channel=channel)[0]

    def load(path: str | os.PathLike) -> UtteranceMel:
        wav = read(path)
        try:
            mel, _, peak = log_mel(torch.from_numpy(wav)[None])
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        return UtteranceMel(Path(path).stem, "", mel[0].numpy(), float(peak[0]), {})

    return [
        Source(Path(path).stem, None, partial(load, path), partial(read, path), os.fspath(path)) for path in paths
    ]


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


def read_pairs(
    path: str | os.PathLike, sources: Sequence[Source], speakers: Sequence[str]
) -> list[tuple[Source, str]]:
    """Which sources to convert to which targets, as a file lists them.

    Args:
        path: lines ``SOURCE-UTTERANCE TARGET-SPEAKER``; blank ones and those that begin with ``#`` are skipped.
        sources: that it may name.
        speakers: that were trained.

    Returns:
        Pairs of source and target, those of one source together, in the order of the sources.

    Raises:
        UserError: a line of another form, an utterance or a speaker that is not there, a pair that comes twice, no
            pair at all; with the line's number.
    """
    known = {source.utterance_id: number for number, source in enumerate(sources)}
    chosen: dict[tuple[int, str], int] = {}
    for number, line in enumerate(read_text(Path(path)).splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2:
            raise UserError(f"{path}:{number}: {line!r} should be 'SOURCE-UTTERANCE TARGET-SPEAKER'")
        utterance_id, target = words
        if utterance_id not in known:
            raise UserError(
                f"{path}:{number}: no source is called {utterance_id!r}{nearest(utterance_id, known)} (there are "
                f"{len(known)})"
            )
        if target not in speakers:
            raise UserError(f"{path}:{number}: speaker {target!r} was not trained{nearest(target, speakers)}")
        pair = (known[utterance_id], target)
        if pair in chosen:
            raise UserError(f"{path}:{number}: {line!r} is on line {chosen[pair]} already; remove one")
        chosen[pair] = number
    if not chosen:
        raise UserError(f"{path} lists no pair; a line is 'SOURCE-UTTERANCE TARGET-SPEAKER'")
    return [(sources[number], target) for number, target in sorted(chosen)]


def convert_files(
    bundle: "SpeechBundle",
    conversions: Iterable[tuple[Source, str]],
    vocoder: "Vocoder",
    output: str | os.PathLike,
    *,
    vocoder_name: str = "",
    device: torch.device | str = "cpu",
    plots: bool = True,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Convert, and write ``<id>-to-<target>.wav``, ``.png`` (log-mels of source and result) and ``log.jsonl``.

    A result is made as loud as its source (:mod:`sqvae_speech.audio.loudness`): as the recording, where there is one;
    as its log-mel sounds through the same vocoder, where there is only that; units leave no more than a peak, which
    is then kept. Every wav is checked (:mod:`sqvae_speech.audio.faults`): what is wrong is in its line of the log,
    and logged as a warning. A wav with NaN is not written.

    Args:
        bundle: a model in evaluation mode, on ``device``.
        conversions: from :func:`plan_conversions` or :func:`read_pairs`.
        vocoder: of the bundle's MelSpec.
        output: folder, made when it is missing; files of the same name are replaced.
        vocoder_name: for the log.
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
    loaded: _Loaded | None = None
    with tqdm(conversions, desc="convert", disable=not progress) as bar:
        for source, target in bar:
            if loaded is None or loaded.source is not source:
                loaded = _load(source, vocoder)
            log.append(_convert(bundle, loaded, target, vocoder, output, device, plots))
            log[-1] |= {"vocoder": vocoder_name or type(vocoder).__name__, "checkpoint": bundle.fingerprint}
    write_text(output / "log.jsonl", "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in log))
    return log


class _Loaded(NamedTuple):
    """A source with what is read and computed once for all its targets; ``reference`` is what it sounds like."""

    source: Source
    content: UtteranceMel | UtteranceUnits
    reference: np.ndarray | None


def _load(source: Source, vocoder: "Vocoder") -> _Loaded:
    content = source.load()
    reference = None
    if source.recording is not None:
        reference = source.recording()
    elif isinstance(content, UtteranceMel):
        reference = vocoder.vocode(torch.from_numpy(content.mel), peak=content.peak).float().cpu().numpy()
    return _Loaded(source, content, reference)


def _convert(
    bundle: "SpeechBundle",
    loaded: _Loaded,
    target: str,
    vocoder: "Vocoder",
    output: Path,
    device: torch.device | str,
    plots: bool,
) -> dict[str, Any]:
    content, spec = loaded.content, bundle.mel_spec
    mels: dict[str, np.ndarray] = {}
    try:
        if isinstance(content, UtteranceMel):
            mels[f"{content.utterance_id} ({content.speaker or 'speaker unknown'})"] = content.mel
            result = convert_voice(bundle, content.mel, target, vocoder, content.peak, device=device)
        else:
            result = speak_units(bundle, content, target, vocoder, device=device)
    except UserError as error:
        raise UserError(f"{content.utterance_id}: {error}") from None
    mels[f"as {target}"] = result.mel
    name = f"{content.utterance_id}-to-{target}"
    made = _at_level(result, loaded.reference, spec.sample_rate)
    path = output / f"{name}.wav"
    num_samples = spec.num_samples(_frames_of(bundle, content))
    faults = write_checked_wav(path, made.wav, spec.sample_rate, num_samples, spec.hop_length)
    if plots:
        plot_mels(output / f"{name}.png", mels, spec)
    return {
        "utterance_id": content.utterance_id,
        "source_speaker": content.speaker or None,
        "target_speaker": target,
        "source": loaded.source.path,
        "wav": path.name if np.isfinite(made.wav).all() else None,
        "plot": f"{name}.png" if plots else None,
        "seconds": round(len(made.wav) / spec.sample_rate, 4),
        "start": _start(bundle, content),
        "source_seconds": _source_seconds(loaded, spec),
        "units": result.mel.shape[1] // bundle.model.frames_per_unit,
        "peak": content.peak,
        "level": made.level,
        "faults": faults,
    }


class _AtLevel(NamedTuple):
    wav: np.ndarray
    level: dict[str, Any]


def _at_level(result: Conversion, reference: np.ndarray | None, sample_rate: int) -> _AtLevel:
    """A conversion as loud as its source, and what the log says of that."""
    if reference is None or not np.isfinite(result.wav).all():
        return _AtLevel(result.wav, {"measure": "peak"})
    match = match_loudness(result.wav, reference, sample_rate)
    values = {"source": match.reference, "converted": match.loudness, "gain": match.gain, "limited": match.limited}
    rounded = {name: None if value is None else round(value, 2) for name, value in values.items()}
    return _AtLevel(match.wav, {"measure": match.measure, **rounded})


def _frames_of(bundle: "SpeechBundle", content: UtteranceMel | UtteranceUnits) -> int:
    """Mel frames that the conversion of a source has: two a unit."""
    model = bundle.model
    if isinstance(content, UtteranceUnits):
        return model.frames_per_unit * content.total_units
    # one frame falls to the encoder at each end, and the last of an odd number
    return (content.mel.shape[1] - 2 * model.first_frame) // model.frames_per_unit * model.frames_per_unit


def _start(bundle: "SpeechBundle", content: UtteranceMel | UtteranceUnits) -> float:
    """Seconds into the source's recording at which its conversion begins."""
    trimmed = content.meta.get("part", (0.0,))[0] if isinstance(content, UtteranceMel) else 0.0
    return round(trimmed + bundle.model.first_frame / bundle.mel_spec.frame_rate, 6)


def _source_seconds(loaded: _Loaded, spec: MelSpec) -> float | None:
    content = loaded.content
    if loaded.source.recording is not None and loaded.reference is not None:
        return round(len(loaded.reference) / spec.sample_rate, 4)
    if isinstance(content, UtteranceMel):
        return round(content.meta["num_samples"] / spec.sample_rate, 4)
    return None
