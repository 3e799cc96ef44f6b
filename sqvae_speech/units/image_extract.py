"""Images to discrete codes and back: shards to a unit store, in which an image's codes keep their places."""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sqvae_speech.data.image_index import ImageEntry, ImageIndex
from sqvae_speech.data.image_loader import image_batches
from sqvae_speech.errors import UserError
from sqvae_speech.units.meta import UnitStoreMeta, require_same_checkpoint, require_same_codebook
from sqvae_speech.units.parts import PartUnits, Processes, divide, encode_in_parts
from sqvae_speech.units.sequences import UtteranceUnits
from sqvae_speech.units.store import UnitStore

if TYPE_CHECKING:
    from sqvae_speech.models.pretrained_image import ImageBundle

BATCH_SIZE = 100
PART_IMAGES = 10_000


def image_store_meta(bundle: "ImageBundle") -> UnitStoreMeta:
    """What the codes of a model mean."""
    return UnitStoreMeta(
        codebook_size=bundle.model.codebook_size,
        num_codebooks=bundle.model.num_codebooks,
        checkpoint=bundle.fingerprint or None,
        shape=bundle.model.latent_shape,
    )


def extract_codes(
    bundle: "ImageBundle", batches: Iterable[Mapping[str, Any]], *, device: torch.device | str = "cpu"
) -> Iterator[UtteranceUnits]:
    """Encode batches of images.

    Args:
        bundle: a model in evaluation mode, on ``device``.
        batches: dicts with ``image``, ``image_id`` and ``label``, what
            :func:`sqvae_speech.data.image_loader.image_batches` yields.
        device: where the model is.

    Yields:
        Of every image its codes (N, H' W'), row after row; the id is the image's, ``speaker`` its label.
    """
    for batch in batches:
        indices = bundle.model.encode(batch["image"].to(device))  # (B, H', W') or (B, H', W', N)
        codes = indices.flatten(1, 2).reshape(len(indices), -1, bundle.model.num_codebooks).transpose(1, 2)
        for name, label, one in zip(batch["image_id"], batch["label"], codes.cpu().numpy(), strict=True):
            yield UtteranceUnits(name, one, speaker=label)


def encode_image_shards(
    bundle: "ImageBundle",
    shards: str | os.PathLike,
    output: str | os.PathLike,
    *,
    batch_size: int = BATCH_SIZE,
    part_images: int = PART_IMAGES,
    device: torch.device | str = "cpu",
    processes: Processes | None = None,
    progress: bool = True,
) -> list[Path]:
    """Encode a folder of shards to a unit store, whose ``meta.shape`` says how an image's codes lie.

    A run that was killed goes on where it stopped when it is started again, see :mod:`sqvae_speech.units.parts`.

    Args:
        bundle: the model, on ``device``.
        shards: folder with ``index.json``.
        output: the store, ``.parquet``.
        batch_size: images of a batch.
        part_images: images that a process does at a time.
        device: where the model is.
        processes: who shares the work.
        progress: show a progress bar.

    Returns:
        The store; nothing in all processes but the first.

    Raises:
        UserError: for shards of other images than the model's, or damaged ones.
    """
    for name, size in (("batch-size", batch_size), ("part-images", part_images)):
        if size < 1:
            raise UserError(f"--{name} {size}; at least 1 is needed")
    index = ImageIndex.load(Path(shards))
    bundle.image_spec.require_same(index.image_spec, "the checkpoint", f"the shards of {shards}")

    def encode(entries: Iterable[ImageEntry]) -> PartUnits:
        batches = image_batches(index, batch_size, list(entries))
        return PartUnits(list(extract_codes(bundle, batches, device=device)))

    def description() -> dict[str, Any]:
        dtype = str(next(bundle.model.encoder.parameters()).dtype)
        return {"shards": index.fingerprint, "batch_size": batch_size, "dtype": dtype}

    joined = encode_in_parts(
        Path(output),
        image_store_meta(bundle),
        divide(index.entries(), lambda entry: 1, part_images),
        encode,
        description,
        processes=processes,
        name=index.split,
        progress=progress,
    )
    return [Path(output)] if joined else []


def code_grids(units: Iterable[UtteranceUnits], meta: UnitStoreMeta) -> Tensor:
    """Put codes back into their places.

    Args:
        units: of images.
        meta: of their store.

    Returns:
        What :meth:`sqvae_speech.models.image.ImageModel.decode` takes: (B, H', W') int64, (B, H', W', N) of several
        codebooks.

    Raises:
        UserError: units of speech.
    """
    if meta.shape is None:
        raise UserError("these are units in time, not codes of images; take a store that was encoded from images")
    codes = torch.from_numpy(np.stack([one.codes for one in units]))  # (B, N, H' W')
    grids = codes.unflatten(2, meta.shape).permute(0, 2, 3, 1)
    return grids[..., 0] if meta.num_codebooks == 1 else grids


def decode_store(bundle: "ImageBundle", store: UnitStore, *, device: torch.device | str = "cpu") -> Iterator[Tensor]:
    """Decode all images of a store, in its order.

    Args:
        bundle: the model that made the codes, on ``device``.
        store: of codes.
        device: where the model is.

    Yields:
        (C, H, W) float32 in [0, 1], of a label map (H, W) int64.

    Raises:
        UserError: units of speech, or of another model, codebook or shape.
    """
    meta = store.meta
    model = bundle.model
    require_same_codebook(meta, model.codebook_size, model.num_codebooks, store.name, f"the model {bundle.path}")
    require_same_checkpoint(meta, bundle.fingerprint, store.name)
    if meta.shape not in (None, model.latent_shape):
        ours, theirs = ("{} x {}".format(*shape) for shape in (meta.shape, model.latent_shape))
        raise UserError(f"{store.name} has images of {ours} codes, the model {bundle.path} of {theirs}")
    rows = list(store)
    for start in range(0, len(rows), BATCH_SIZE):
        yield from model.decode(code_grids(rows[start : start + BATCH_SIZE], meta).to(device)).cpu()
