"""Configuration of a training run of the speech model."""

from dataclasses import dataclass, field

from sqvae_speech.data.index import MIN_FRAMES
from sqvae_speech.models.speech import SpeechModelConfig
from sqvae_speech.training.config import AutoencoderTrainingConfig
from sqvae_speech.training.shards_config import ShardsConfig

BATCHING = ("crops", "utterances")


@dataclass(frozen=True)
class DataConfig(ShardsConfig):
    """What to train on, and how it is cut; see also :class:`ShardsConfig`.

    Attributes:
        batching: ``crops``, ``training.batch_size`` a step, one of every utterance in an epoch; or ``utterances``,
            whole ones of like length, as many a process as ``batch_frames`` hold.
        segment_frames: mel frames of a crop. The network eats one at each end: 34 gives 32 frames, 16 units.
        batch_frames: mel frames of one process' batch of utterances at most, padding included. A step has as many
            batches as there are processes.
        speaker_vectors: for ``model.speaker`` vector: an ``.npz`` of vectors by the names of speakers or utterances,
            see :mod:`sqvae_speech.data.speaker_vectors`.
        f0: for ``model.f0_condition``: the F0 of ``train``, an ``.npz`` of ``sqvae-speech data f0``.
        valid_f0: the same of ``valid``.
    """

    batching: str = "crops"
    segment_frames: int = 34
    batch_frames: int = 2000
    speaker_vectors: str | None = None
    f0: str | None = None
    valid_f0: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batching not in BATCHING:
            raise ValueError(f"data.batching must be one of {', '.join(BATCHING)}, got {self.batching!r}")
        for name in ("segment_frames", "batch_frames"):
            self._at_least(name, MIN_FRAMES)


@dataclass(frozen=True)
class SpeechTrainConfig:
    """A whole run: data, model, training."""

    task: str = "speech"
    data: DataConfig = field(default_factory=DataConfig)
    model: SpeechModelConfig = field(default_factory=SpeechModelConfig)
    training: AutoencoderTrainingConfig = field(default_factory=AutoencoderTrainingConfig)

    def __post_init__(self) -> None:
        if (self.model.speaker == "vector") != (self.data.speaker_vectors is not None):
            raise ValueError(
                f"model.speaker {self.model.speaker} with data.speaker_vectors {self.data.speaker_vectors}: vector "
                "needs a file of vectors, and table has no use for one"
            )
        if self.model.f0_condition != (self.data.f0 is not None):
            raise ValueError(
                f"model.f0_condition {self.model.f0_condition} with data.f0 {self.data.f0}: give both or neither; "
                "`sqvae-speech data f0` writes the file"
            )
        if self.model.f0_condition and (self.data.valid is not None) != (self.data.valid_f0 is not None):
            raise ValueError(f"data.valid {self.data.valid} with data.valid_f0 {self.data.valid_f0}: give both")
        if self.training.accumulation > 1 and self.data.batching == "utterances":
            raise ValueError(
                f"training.accumulation must be 1 with data.batching utterances, got {self.training.accumulation}; "
                "data.batch_frames is what bounds memory there"
            )
        if self.training.learning_rate_rule != "none" and self.data.batching == "utterances":
            raise ValueError(
                f"training.learning_rate_rule must be none with data.batching utterances, got "
                f"{self.training.learning_rate_rule}: it goes by training.batch_size, which is of crops"
            )
