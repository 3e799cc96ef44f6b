"""From the configuration to the batches of training on speech."""

from collections.abc import Callable, Sequence
from typing import Any

from sqvae_speech.data.endless import Loader
from sqvae_speech.data.index import ShardIndex
from sqvae_speech.data.loader import SegmentLoader, UtteranceLoader
from sqvae_speech.training.config import TrainingConfig
from sqvae_speech.training.loading import cache_bytes
from sqvae_speech.training.speech_config import DataConfig


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
