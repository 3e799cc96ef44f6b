"""From the configuration to the shards, whatever is in them."""

from pathlib import Path
from typing import TypeVar

from sqvae_speech.data.remote import open_index
from sqvae_speech.data.shard_folder import ShardFolder
from sqvae_speech.errors import UserError
from sqvae_speech.training.shards_config import ShardsConfig

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
