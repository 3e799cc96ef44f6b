"""Where training takes shards from, the same for all that lies in shards."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ShardsConfig:
    """What to train on.

    Attributes:
        train: folder of training shards (with ``index.json``), or an address: ``http://...``, ``https://...``, or
            ``pipe:`` and a command that prints the file ``{name}``, which is run by a shell whatever it says.
        valid: the same of validation, or None for no validation.
        num_workers: threads that prepare batches ahead.
        shuffle_shards: shuffle within windows of so many shards, for shards that are larger than memory or remote;
            0 shuffles all.
        cache_gb: GB (10^9 bytes) of the packed cache beside the shards at most, which batches are cut from many
            times faster; None: half of this machine's memory; 0: no cache.
        download_dir: where remote shards are kept; None: ``$XDG_CACHE_HOME/sqvae_speech/shards``, or the same under
            ``~/.cache``.
        download_gb: GB of shards there at most. The least recently used are deleted first.
    """

    train: str = ""
    valid: str | None = None
    num_workers: int = 0
    shuffle_shards: int = 0
    cache_gb: float | None = None
    download_dir: str | None = None
    download_gb: float = 100.0

    def __post_init__(self) -> None:
        for name in ("num_workers", "shuffle_shards"):
            self._at_least(name, 0)
        if self.cache_gb is not None and not self.cache_gb >= 0:
            raise ValueError(f"data.cache_gb must be 0 (no cache) or more, got {self.cache_gb}")
        if not self.download_gb > 0:
            raise ValueError(f"data.download_gb must be positive, got {self.download_gb}")

    def _at_least(self, name: str, least: int) -> None:
        if getattr(self, name) < least:
            raise ValueError(f"data.{name} must be at least {least}, got {getattr(self, name)}")
