"""Configuration of a training run of the speech model."""

from dataclasses import dataclass, field

from sqvae_speech.data.index import MIN_FRAMES
from sqvae_speech.models.speech import SpeechModelConfig
from sqvae_speech.training.config import AutoencoderTrainingConfig

BATCHING = ("crops", "utterances")


@dataclass(frozen=True)
class DataConfig:
    """What to train on.

    Attributes:
        train: folder of training shards (with ``index.json``), or an address: ``http://...``, ``https://...``, or
            ``pipe:`` and a command that prints the file ``{name}``, which is run by a shell whatever it says.
        valid: the same of validation, or None for no validation.
        num_workers: threads that prepare batches ahead.
        batching: ``crops``, ``training.batch_size`` a step, one of every utterance in an epoch; or ``utterances``,
            whole ones of like length, as many a process as ``batch_frames`` hold.
        segment_frames: mel frames of a crop. The network eats one at each end: 34 gives 32 frames, 16 units.
        batch_frames: mel frames of one process' batch of utterances at most, padding included. A step has as many
            batches as there are processes.
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
    batching: str = "crops"
    segment_frames: int = 34
    batch_frames: int = 2000
    shuffle_shards: int = 0
    cache_gb: float | None = None
    download_dir: str | None = None
    download_gb: float = 100.0

    def __post_init__(self) -> None:
        if self.batching not in BATCHING:
            raise ValueError(f"data.batching must be one of {', '.join(BATCHING)}, got {self.batching!r}")
        limits = {"num_workers": 0, "segment_frames": MIN_FRAMES, "batch_frames": MIN_FRAMES, "shuffle_shards": 0}
        for name, least in limits.items():
            if getattr(self, name) < least:
                raise ValueError(f"data.{name} must be at least {least}, got {getattr(self, name)}")
        if self.cache_gb is not None and not self.cache_gb >= 0:
            raise ValueError(f"data.cache_gb must be 0 (no cache) or more, got {self.cache_gb}")
        if not self.download_gb > 0:
            raise ValueError(f"data.download_gb must be positive, got {self.download_gb}")


@dataclass(frozen=True)
class SpeechTrainConfig:
    """A whole run: data, model, training."""

    task: str = "speech"
    data: DataConfig = field(default_factory=DataConfig)
    model: SpeechModelConfig = field(default_factory=SpeechModelConfig)
    training: AutoencoderTrainingConfig = field(default_factory=AutoencoderTrainingConfig)
