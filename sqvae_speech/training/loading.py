"""From the configuration to the batches of training and validation."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from sqvae_speech.data.endless import Loader
from sqvae_speech.data.index import ShardIndex
from sqvae_speech.data.loader import SegmentLoader, UtteranceLoader
from sqvae_speech.data.remote import open_index
from sqvae_speech.data.shard_folder import ShardFolder
from sqvae_speech.errors import UserError
from sqvae_speech.training.config import TrainingConfig
from sqvae_speech.training.shards_config import ShardsConfig
from sqvae_speech.training.speech_config import DataConfig

GB = 10**9
Index = TypeVar("Index", bound=ShardFolder)


def load_index(data: ShardsConfig, key: str, kind: type[Index]) -> Index:
    """Open the shards that ``data.train`` or ``data.valid`` names.

    Args:
        data: of the configuration.
        key: ``train`` or ``valid``.
        kind: what the shards have to hold: a class of indices.

    Raises:
        UserError: it is not set; shards of another kind; see :func:`sqvae_speech.data.remote.open_index`.
    """
    folder = getattr(data, key)
    if not folder:
        raise UserError(f"data.{key} is not set: give a folder of shards, e.g. --data.{key} dump/{key}")
    return open_index(
        folder,
        kind,
        download_dir=Path(data.download_dir).expanduser() if data.download_dir else None,
        download_bytes=int(data.download_gb * GB),
    )


def cache_bytes(data: ShardsConfig) -> int | None:
    """Bytes of the packed cache at most, as loaders take them."""
    return None if data.cache_gb is None else int(data.cache_gb * GB)


def build_loader(
    index: ShardIndex,
    data: DataConfig,
    training: TrainingConfig,
    *,
    rank: int,
    world_size: int,
    speakers: Sequence[str] | None = None,
) -> Loader[Any, Any]:
    """Return the endless loader that ``data.batching`` names.

    Raises:
        UserError: see :class:`SegmentLoader` and :class:`UtteranceLoader`.
    """
    common: dict[str, Any] = {
        "seed": training.seed,
        "num_workers": data.num_workers,
        "shuffle_shards": data.shuffle_shards,
        "rank": rank,
        "world_size": world_size,
        "speakers": speakers,
        "cache_bytes": cache_bytes(data),
    }
    return _LOADERS[data.batching](index, data, training, common)


def _crops(index: ShardIndex, data: DataConfig, training: TrainingConfig, common: dict[str, Any]) -> SegmentLoader:
    return SegmentLoader(index, batch_size=training.batch_size, segment_frames=data.segment_frames, **common)


def _utterances(
    index: ShardIndex, data: DataConfig, training: TrainingConfig, common: dict[str, Any]
) -> UtteranceLoader:
    return UtteranceLoader(index, batch_frames=data.batch_frames, **common)


_LOADERS: dict[str, Callable[..., Loader[Any, Any]]] = {"crops": _crops, "utterances": _utterances}
