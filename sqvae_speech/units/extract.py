"""Log-mels to discrete units: any stream of utterances, or a whole directory of shards to files."""

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from sqvae_speech.data.index import Entry, ShardIndex
from sqvae_speech.data.reader import ShardReader, UtteranceMel
from sqvae_speech.errors import UserError
from sqvae_speech.units.batches import MelBatch, in_order
from sqvae_speech.units.formats import write_format
from sqvae_speech.units.forms.table import PARQUET, file_of, format_of
from sqvae_speech.units.parts import PART_FRAMES, PartUnits, Processes, divide, encode_in_parts
from sqvae_speech.units.sequences import UtteranceUnits, deduplicate
from sqvae_speech.units.store import UnitStoreMeta, read_units

if TYPE_CHECKING:
    from sqvae_speech.models.pretrained import SpeechBundle

logger = logging.getLogger(__name__)
Array = TypeVar("Array", np.ndarray, torch.Tensor)
MAX_FRAMES = 16_000  # of a batch with its padding: 160 s at 100 frames a second


def min_frames(model) -> int:
    """The fewest mel frames that give a unit."""
    frames = 1
    while model.num_units(frames) < 1:
        frames += 1
    return frames


def store_meta(bundle: "SpeechBundle", *, deduplicated: bool = False) -> UnitStoreMeta:
    """What the units of a model mean."""
    return UnitStoreMeta(
        codebook_size=bundle.model.codebook_size,
        num_codebooks=bundle.model.num_codebooks,
        frame_rate=bundle.frame_rate,
        mel_spec=bundle.mel_spec.to_dict(),
        checkpoint=bundle.fingerprint or None,
        deduplicated=deduplicated,
    )


def extract_units(
    bundle: "SpeechBundle",
    utterances: Iterable[UtteranceMel],
    *,
    max_frames: int = MAX_FRAMES,
    device: torch.device | str = "cpu",
) -> Iterator[UtteranceUnits]:
    """Encode utterances in padded, masked batches; units come in the order given and equal those of one at a time.

    Args:
        bundle: a model in evaluation mode, on ``device``.
        utterances: with log-mels (n_mels, T) of the bundle's MelSpec.
        max_frames: mel frames of a batch, padding included.
        device: where the model is.

    Yields:
        Units of every utterance, (N, 0) of one that is too short for a single unit.
    """
    model = bundle.model

    def encode(batch: MelBatch) -> list[np.ndarray]:
        indices, lengths = model.encode(batch.mel, batch.lengths)
        codes = indices.cpu().numpy()
        return [codes_of(row[:length]) for row, length in zip(codes, lengths.tolist(), strict=True)]

    with torch.no_grad():
        results = in_order(utterances, encode, max_frames=max_frames, min_frames=min_frames(model), device=device)
        for utterance, codes in results:
            frames = utterance.mel.shape[1]
            if codes is None:
                logger.warning("%s: %d frames are too few for a unit", utterance.utterance_id, frames)
                codes = np.zeros((model.num_codebooks, 0), dtype=np.int64)
            yield UtteranceUnits(
                utterance_id=utterance.utterance_id,
                codes=codes,
                speaker=utterance.speaker,
                text=utterance.meta.get("text"),
                peak=utterance.peak,
                num_frames=frames,
            )


def encode_shards(
    bundle: "SpeechBundle",
    shards: str | os.PathLike,
    output: str | os.PathLike,
    *,
    formats: Sequence[str] = (),
    deduplicated: bool = False,
    codebook: int | None = None,
    max_frames: int = MAX_FRAMES,
    part_frames: int = PART_FRAMES,
    device: torch.device | str = "cpu",
    processes: Processes | None = None,
    progress: bool = True,
) -> list[Path]:
    """Encode a directory of shards to a unit store, and to text forms beside it with the same stem.

    A run that was killed goes on where it stopped when it is started again, see :mod:`sqvae_speech.units.parts`.

    Args:
        bundle: the model, on ``device``.
        shards: folder with ``index.json``.
        output: the store, ``.parquet``.
        formats: text forms to write as well, of ``km``, ``gslm``, ``kaldi``.
        deduplicated: collapse runs; the store keeps their durations, text forms cannot.
        codebook: which codebook the text forms get, for a model that has several.
        max_frames: see :func:`extract_units`.
        part_frames: mel frames of a part, about.
        device: where the model is.
        processes: who shares the work.
        progress: show a progress bar.

    Returns:
        The files written, the store first; nothing in all processes but the first.

    Raises:
        UserError: for shards of another MelSpec, damaged shards, or a format that is not known.
    """
    check_options(formats, max_frames=max_frames, part_frames=part_frames)
    index = ShardIndex.load(Path(shards))
    bundle.mel_spec.require_same(index.mel_spec, "the checkpoint", f"the shards of {shards}")
    reader = ShardReader(index)

    def encode(entries: Iterable[Entry]) -> PartUnits:
        units = extract_units(bundle, map(reader.utterance, entries), max_frames=max_frames, device=device)
        return PartUnits([deduplicate(one) if deduplicated else one for one in units])

    def description() -> dict[str, Any]:
        return {"shards": index.fingerprint, "max_frames": max_frames, "dtype": encoder_dtype(bundle)}

    joined = encode_in_parts(
        Path(output),
        store_meta(bundle, deduplicated=deduplicated),
        divide(index.entries(), lambda entry: entry.num_frames, part_frames),
        encode,
        description,
        processes=processes,
        name=index.split,
        progress=progress,
    )
    return [Path(output), *export(output, formats, codebook=codebook)] if joined else []


def check_options(formats: Sequence[str], **sizes: int) -> None:
    """Raise :class:`UserError` for an unknown text form, or for a size below 1, before the work is done."""
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


def codes_of(indices: Array) -> Array:
    """A model's indices of an utterance, (U,) of one codebook or (U, N), as codes (N, U)."""
    return indices[None] if indices.ndim == 1 else indices.T
