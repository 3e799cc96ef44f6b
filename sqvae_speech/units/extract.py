"""Log-mels to discrete units: any stream of utterances, or a whole directory of shards to files."""

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from sqvae_speech.audio.sources import array_source
from sqvae_speech.data.index import Entry, ShardIndex
from sqvae_speech.data.reader import ShardReader, UtteranceMel
from sqvae_speech.data.shard_recordings import ShardRecordings
from sqvae_speech.errors import UserError
from sqvae_speech.models.streaming import Reader, read_indices
from sqvae_speech.units.batches import MelBatch, in_order
from sqvae_speech.units.f0 import F0, f0_of_units
from sqvae_speech.units.formats import check_fits, write_format
from sqvae_speech.units.forms.table import PARQUET, file_of, format_of
from sqvae_speech.units.parts import PART_FRAMES, PartUnits, Processes, divide, encode_in_parts
from sqvae_speech.units.sequences import UtteranceUnits, deduplicate
from sqvae_speech.units.soft import SoftUnits, read_codes_and_latents, soft_columns, split_codes_and_latents
from sqvae_speech.units.store import UnitStoreMeta, read_units

if TYPE_CHECKING:
    from sqvae_speech.models.pretrained import SpeechBundle
    from sqvae_speech.models.speech import SpeechModel

logger = logging.getLogger(__name__)
Array = TypeVar("Array", np.ndarray, torch.Tensor)
NOTHING = SoftUnits()
MAX_FRAMES = 16_000  # of a batch with its padding: 160 s at 100 frames a second


def min_frames(model) -> int:
    """The fewest mel frames that give a unit."""
    frames = 1
    while model.num_units(frames) < 1:
        frames += 1
    return frames


def store_meta(
    bundle: "SpeechBundle", *, deduplicated: bool = False, soft: SoftUnits = NOTHING, f0: F0 | None = None
) -> UnitStoreMeta:
    """What the units of a model mean, and which optional columns go with them.

    Raises:
        UserError: columns that this model, or deduplicated units, cannot have.
    """
    soft.check(bundle.model.codebook_size, deduplicated)
    if f0 is not None:
        f0.check(bundle.mel_spec.sample_rate)
    return UnitStoreMeta(
        codebook_size=bundle.model.codebook_size,
        num_codebooks=bundle.model.num_codebooks,
        frame_rate=bundle.frame_rate,
        mel_spec=bundle.mel_spec.to_dict(),
        checkpoint=bundle.fingerprint or None,
        deduplicated=deduplicated,
        f0=None if f0 is None else f0.to_dict(),
        entropy=soft.entropy,
        top_k=soft.top_k,
        sample_seeds=soft.sample_seeds,
    )


def extract_units(
    bundle: "SpeechBundle",
    utterances: Iterable[UtteranceMel],
    *,
    max_frames: int = MAX_FRAMES,
    soft: SoftUnits = NOTHING,
    device: torch.device | str = "cpu",
) -> Iterator[UtteranceUnits]:
    """Encode utterances in padded, masked batches; units come in the order given and equal those of one at a time.

    Args:
        bundle: a model in evaluation mode, on ``device``.
        utterances: with log-mels (n_mels, T) of the bundle's MelSpec.
        max_frames: mel frames of a batch, padding included.
        soft: optional columns of the posterior.
        device: where the model is.

    Yields:
        Units of every utterance, (N, 0) of one that is too short for a single unit.
    """
    model = bundle.model

    def encode(batch: MelBatch) -> list[dict[str, np.ndarray]]:
        read = reader_for(soft)
        values = read(model, *model.latents(batch.mel, batch.lengths), batch.mel, batch.lengths, 0)
        lengths = model.num_units(batch.lengths).tolist()
        return [
            columns_of(model, row[:length], utterance.utterance_id, soft)
            for row, length, utterance in zip(values, lengths, batch.utterances, strict=True)
        ]

    with torch.no_grad():
        results = in_order(utterances, encode, max_frames=max_frames, min_frames=min_frames(model), device=device)
        for utterance, columns in results:
            frames = utterance.mel.shape[1]
            if columns is None:
                logger.warning("%s: %d frames are too few for a unit", utterance.utterance_id, frames)
                columns = columns_without_units(model.num_codebooks, soft)
            yield UtteranceUnits(
                utterance_id=utterance.utterance_id,
                speaker=utterance.speaker,
                text=utterance.meta.get("text"),
                peak=utterance.peak,
                num_frames=frames,
                num_samples=utterance.meta.get("num_samples"),
                **columns,
            )


def encode_shards(
    bundle: "SpeechBundle",
    shards: str | os.PathLike,
    output: str | os.PathLike,
    *,
    formats: Sequence[str] = (),
    deduplicated: bool = False,
    codebook: int | None = None,
    soft: SoftUnits = NOTHING,
    f0: F0 | None = None,
    recordings: str | os.PathLike | None = None,
    allow_pipes: bool = False,
    max_frames: int = MAX_FRAMES,
    part_frames: int = PART_FRAMES,
    device: torch.device | str = "cpu",
    processes: Processes | None = None,
    progress: bool = True,
) -> list[Path]:
    """Encode a directory of shards to a unit store, and to other forms beside it with the same stem.

    A run that was killed goes on where it stopped when it is started again, see :mod:`sqvae_speech.units.parts`.

    Args:
        bundle: the model, on ``device``.
        shards: folder with ``index.json``.
        output: the store, ``.parquet``.
        formats: other forms to write as well, of :data:`sqvae_speech.units.forms.table.FORMS`.
        deduplicated: collapse runs; the store keeps their durations, most other forms cannot.
        codebook: which codebook the other forms get, for a model that has several.
        soft: optional columns of the posterior.
        f0: how to measure F0, for a column of it, from ``recordings``: shards have none.
        recordings: the data directory that the shards were made from.
        allow_pipes: run the commands in its ``wav.scp``.
        max_frames: see :func:`extract_units`.
        part_frames: mel frames of a part, about.
        device: where the model is.
        processes: who shares the work.
        progress: show a progress bar.

    Returns:
        The files written, the store first; nothing in all processes but the first.

    Raises:
        UserError: for shards of another MelSpec, damaged shards, a format that is not known, columns that cannot be
            had, or recordings that are not those of the shards.
    """
    meta = store_meta(bundle, deduplicated=deduplicated, soft=soft, f0=f0)
    check_options(formats, max_frames=max_frames, part_frames=part_frames)
    check_forms(formats, meta, codebook)
    index = ShardIndex.load(Path(shards))
    bundle.mel_spec.require_same(index.mel_spec, "the checkpoint", f"the shards of {shards}")
    reader = ShardReader(index)
    wavs = None if f0 is None else _recordings(index, recordings, allow_pipes)

    def encode(entries: Iterable[Entry]) -> PartUnits:
        units = extract_units(bundle, map(reader.utterance, entries), max_frames=max_frames, soft=soft, device=device)
        return PartUnits([finished(one) for one in units])

    def finished(one: UtteranceUnits) -> UtteranceUnits:
        if f0 is not None and wavs is not None:
            assert one.num_samples is not None  # as of every utterance in shards
            wav = wavs.wav(one.utterance_id, one.num_samples)
            source = array_source(wav, bundle.mel_spec.sample_rate, one.utterance_id)
            one = replace(one, f0=f0_of_units(source, bundle.mel_spec, bundle.model, one.num_units, f0))
        return deduplicate(one) if deduplicated else one

    def description() -> dict[str, Any]:
        return {"shards": index.fingerprint, "max_frames": max_frames, "dtype": encoder_dtype(bundle)}

    joined = encode_in_parts(
        Path(output),
        meta,
        divide(index.entries(), lambda entry: entry.num_frames, part_frames),
        encode,
        description,
        processes=processes,
        name=index.split,
        progress=progress,
    )
    return [Path(output), *export(output, formats, codebook=codebook)] if joined else []


def _recordings(index: ShardIndex, data_dir: str | os.PathLike | None, allow_pipes: bool) -> ShardRecordings:
    if data_dir is None:
        raise UserError(
            "--f0 with --shards needs --recordings, the data directory they were made from: mels have none"
        )
    return ShardRecordings(index, data_dir, allow_pipes)


def check_forms(formats: Sequence[str], meta: UnitStoreMeta, codebook: int | None) -> None:
    """Raise :class:`UserError` for a form that is unknown or cannot hold the units, before they are there."""
    for name in formats:
        check_fits(meta, format_of("", name), codebook)


def check_options(formats: Sequence[str], **sizes: int) -> None:
    """Raise :class:`UserError` for an unknown form, or for a size below 1, before the work is done."""
    for name in formats:
        format_of("", name)
    for name, size in sizes.items():
        if size < 1:
            raise UserError(f"--{name.replace('_', '-')} {size}; at least 1 is needed")


def encoder_dtype(bundle: "SpeechBundle") -> str:
    """In which precision the encoder runs: it decides some units."""
    return str(next(bundle.model.encoder.parameters()).dtype)


def export(path: str | os.PathLike, formats: Sequence[str], *, codebook: int | None = None) -> list[Path]:
    """Write other forms of a store beside it; returns the files, dictionaries and sidecars among them."""
    files: list[Path] = []
    for name in formats:
        if name != PARQUET:
            files += write_format(file_of(path, name), read_units(path), name, codebook=codebook)
    return files


def reader_for(soft: SoftUnits) -> Reader:
    """What to read off latents for units with these columns."""
    return read_codes_and_latents if soft.wanted else read_indices


def columns_of(
    model: "SpeechModel", values: torch.Tensor, utterance_id: str, soft: SoftUnits
) -> dict[str, np.ndarray]:
    """Codes (N, U) and the columns wanted, of what :func:`reader_for` read off one utterance."""
    if not soft.wanted:
        return {"codes": codes_of(values.cpu().numpy())}
    codes, z, log_var = split_codes_and_latents(model, values)
    return {"codes": codes.cpu().numpy(), **soft_columns(model, z, log_var, utterance_id, soft)}


def columns_without_units(num_codebooks: int, soft: SoftUnits) -> dict[str, np.ndarray]:
    """The same of an utterance that is too short for a unit."""
    shapes: dict[str, tuple[int, ...]] = {"codes": (num_codebooks, 0)}
    if soft.entropy:
        shapes["entropy"] = (num_codebooks, 0)
    if soft.top_k:
        shapes["top_codes"] = shapes["top_probabilities"] = (num_codebooks, 0, soft.top_k)
    if soft.sample_seeds:
        shapes["samples"] = (len(soft.sample_seeds), num_codebooks, 0)
    return {name: np.zeros(shape, dtype=np.int64) for name, shape in shapes.items()}


def codes_of(indices: Array) -> Array:
    """A model's indices of an utterance, (U,) of one codebook or (U, N), as codes (N, U)."""
    return indices[None] if indices.ndim == 1 else indices.T
