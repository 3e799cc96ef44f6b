"""Recordings of a data directory straight to units, without shards."""

import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from sqvae_speech.audio.front_end import FrontEnd
from sqvae_speech.audio.logmel import LogMel
from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.audio.sources import WavSource, array_source, recording_source
from sqvae_speech.audio.wav import wav_info
from sqvae_speech.data.kaldi import DataDir, Utterance
from sqvae_speech.data.recordings import read_utterance, recordings_digest
from sqvae_speech.data.shard_folder import Bad
from sqvae_speech.errors import UserError
from sqvae_speech.models.wavs import LONG_SECONDS, WavReader
from sqvae_speech.units.extract import (
    NOTHING,
    check_forms,
    check_options,
    columns_of,
    encoder_dtype,
    export,
    reader_for,
    store_meta,
)
from sqvae_speech.units.f0 import F0, f0_of_units
from sqvae_speech.units.parts import PART_FRAMES, PartUnits, Processes, divide, encode_in_parts
from sqvae_speech.units.sequences import UtteranceUnits, deduplicate
from sqvae_speech.units.soft import SoftUnits

if TYPE_CHECKING:
    from sqvae_speech.models.pretrained import SpeechBundle
    from sqvae_speech.models.speech import SpeechModel

logger = logging.getLogger(__name__)
_UNKNOWN_SECONDS = 10.0  # of an utterance in a directory without utt2dur, to divide the work


class Recording(NamedTuple):
    """A wav to encode: its id, where it is, and its speaker and text when known."""

    utterance_id: str
    source: WavSource
    speaker: str | None = None
    text: str | None = None


def encode_recordings(
    model: "SpeechModel",
    reader: WavReader,
    spec: MelSpec,
    recordings: Sequence[Recording],
    *,
    soft: SoftUnits = NOTHING,
    f0: F0 | None = None,
) -> list[UtteranceUnits]:
    """Units of recordings of any rates and lengths, in their order, with the optional columns wanted.

    Args:
        model: that ``reader`` runs.
        reader: of it.
        spec: its features.
        recordings: what to encode.
        soft: columns of the posterior.
        f0: how to measure F0.
    """
    units = []
    read = reader.read([one.source for one in recordings], reader_for(soft))
    for (name, source, speaker, text), found in zip(recordings, read, strict=True):
        if not len(found.values):
            logger.warning("%s: %d samples are too few for a unit", name, found.num_samples)
        columns = columns_of(model, found.values, name, soft)
        if f0 is not None:
            columns["f0"] = f0_of_units(source, spec, model, len(found.values), f0)
        units.append(
            UtteranceUnits(
                utterance_id=name,
                speaker=speaker,
                text=text,
                peak=found.peak,
                num_frames=spec.num_frames(found.num_samples),
                num_samples=found.num_samples,
                **columns,
            )
        )
    return units


def encode_data_dir(
    bundle: "SpeechBundle",
    data_dir: str | Path,
    output: str | os.PathLike,
    *,
    formats: Sequence[str] = (),
    deduplicated: bool = False,
    codebook: int | None = None,
    soft: SoftUnits = NOTHING,
    f0: F0 | None = None,
    channel: str | None = None,
    allow_pipes: bool = False,
    max_bad: int = 0,
    part_frames: int = PART_FRAMES,
    device: torch.device | str = "cpu",
    processes: Processes | None = None,
    progress: bool = True,
) -> list[Path]:
    """Encode the utterances of a Kaldi data directory to a unit store, and to other forms beside it.

    The units are those of float32 shards of the same recordings. Recordings of any rate are resampled; those longer
    than a minute are read in pieces, unless they are segments. A killed run goes on where it stopped when it is
    started again.

    Args:
        bundle: the model, on ``device``.
        data_dir: the directory.
        output: the store, ``.parquet``.
        formats: other forms to write as well, of :data:`sqvae_speech.units.forms.table.FORMS`.
        deduplicated: collapse runs; the store keeps their durations, most other forms cannot.
        codebook: which codebook the other forms get, for a model that has several.
        soft: optional columns of the posterior.
        f0: how to measure F0, for a column of it.
        channel: of recordings with several: ``"mix"`` or a number from 0; None refuses them.
        allow_pipes: run the commands in ``wav.scp``.
        max_bad: utterances that may be unreadable before the whole is refused; they are left out, and logged.
        part_frames: mel frames of a part, about.
        device: where the model is.
        processes: who shares the work.
        progress: show a progress bar.

    Returns:
        The files written, the store first; nothing in all processes but the first.

    Raises:
        UserError: for a directory that is not valid, a format that is not known, too many unreadable utterances.
    """
    if max_bad < 0:
        raise UserError(f"--max-bad {max_bad}; legal is 0 or more")
    meta = store_meta(bundle, deduplicated=deduplicated, soft=soft, f0=f0)
    check_options(formats, part_frames=part_frames)
    check_forms(formats, meta, codebook)
    data = DataDir.read(data_dir, allow_pipes)
    spec = bundle.mel_spec
    reader = WavReader(bundle.model, LogMel(spec).to(device))

    def encode(utterances: Iterable[Utterance]) -> PartUnits:
        good, bad = [], []
        for utterance in utterances:
            try:
                source = _source(utterance, spec.sample_rate, channel)
            except UserError as error:
                bad.append(Bad(utterance.utterance_id, str(error)))
            else:
                good.append(Recording(utterance.utterance_id, source, utterance.speaker, utterance.text))
        units = encode_recordings(bundle.model, reader, spec, good, soft=soft, f0=f0)
        return PartUnits([deduplicate(one) if deduplicated else one for one in units], bad)

    def frames(utterance: Utterance) -> float:
        known = utterance.duration
        if known is None and utterance.end is not None:
            known = utterance.end - utterance.start
        return (_UNKNOWN_SECONDS if known is None else known) * spec.frame_rate

    def description() -> dict[str, Any]:
        return {"recordings": recordings_digest(data), "channel": channel, "dtype": encoder_dtype(bundle)}

    joined = encode_in_parts(
        Path(output),
        meta,
        divide(data.utterances, frames, part_frames),
        encode,
        description,
        processes=processes,
        max_bad=max_bad,
        name=Path(data_dir).name,
        progress=progress,
    )
    return [Path(output), *export(output, formats, codebook=codebook)] if joined else []


def _source(utterance: Utterance, sample_rate: int, channel: str | None) -> WavSource:
    whole = not utterance.is_pipe and utterance.start == 0 and utterance.end is None
    if whole and wav_info(utterance.wav).duration > LONG_SECONDS:
        return recording_source(utterance.wav, channel)
    wav, rate = read_utterance(utterance, channel)
    prepared = FrontEnd(resample="soxr").prepare(wav, rate, sample_rate, utterance.wav)
    return array_source(prepared.wav, sample_rate, utterance.utterance_id)
