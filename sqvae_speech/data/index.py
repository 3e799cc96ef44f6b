"""``index.json`` of a folder of log-mels: the features' settings, the speakers, and how long everything is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from sqvae_speech.audio.front_end import FrontEnd
from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.data.shard_folder import SPEECH, ShardFile, ShardFolder

DTYPES = ("float32", "float16")
UTTERANCES_PER_SHARD = 128
# Frames of the shortest utterance that gives a unit in the published network: 2 fall to the first convolution.
MIN_FRAMES = 4


class Entry(NamedTuple):
    """An utterance in a shard.

    Attributes:
        utterance_id, speaker: ids.
        num_frames: frames of its mel.
        shard: number of its shard in the index.
        mel: offset and size in bytes of its ``.mel.npy`` in the shard.
        json: the same of its ``.json``.
    """

    utterance_id: str
    speaker: str
    num_frames: int
    shard: int
    mel: tuple[int, int]
    json: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class ShardInfo(ShardFile):
    """A finished shard of utterances.

    Attributes:
        utterances, frames: how many are in it.
        shortest, longest: frames of its shortest and its longest utterance; 0 when it has none.
        clipped: utterances whose recording reaches full scale (:class:`sqvae_speech.audio.front_end.Prepared`).
    """

    utterances: int
    frames: int
    shortest: int
    longest: int
    clipped: int

    @property
    def num_examples(self) -> int:
        return self.utterances


@dataclass(frozen=True, kw_only=True)
class ShardIndex(ShardFolder):
    """A folder of shards of utterances; see also :class:`sqvae_speech.data.shard_folder.ShardFolder`.

    Attributes:
        mel_spec: settings of the features.
        front_end: what was done to the recordings before.
        dtype: ``float32`` or ``float16``, the stored type.
        speakers: sorted ids.
    """

    kind: ClassVar[str] = SPEECH
    noun: ClassVar[str] = "utterance"
    list_name: ClassVar[str] = "utterances"
    id_name: ClassVar[str] = "utterance_id"
    version: ClassVar[int] = 2
    member: ClassVar[str] = "mel.npy"
    shard_class: ClassVar[type[ShardFile]] = ShardInfo

    shards: tuple[ShardInfo, ...]
    mel_spec: MelSpec
    front_end: FrontEnd
    dtype: str
    speakers: tuple[str, ...]

    @property
    def num_utterances(self) -> int:
        """Utterances in all shards."""
        return self.num_examples

    @property
    def num_frames(self) -> int:
        """Frames in all shards."""
        return sum(shard.frames for shard in self.shards)

    @property
    def shortest(self) -> int:
        """Frames of the shortest utterance."""
        return min(shard.shortest for shard in self.shards)

    @property
    def longest(self) -> int:
        """Frames of the longest utterance."""
        return max(shard.longest for shard in self.shards)

    @property
    def clipped(self) -> int:
        """Utterances whose recording reaches full scale."""
        return sum(shard.clipped for shard in self.shards)

    @property
    def hours(self) -> float:
        """Hours of speech: frames at the mel's frame rate."""
        return self.num_frames / self.mel_spec.frame_rate / 3600

    def description(self) -> dict[str, Any]:
        return {
            "mel_spec": self.mel_spec.to_dict(),
            "front_end": self.front_end.to_dict(),
            "dtype": self.dtype,
            "speakers": list(self.speakers),
        }

    @classmethod
    def fields(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "mel_spec": MelSpec.from_dict(values["mel_spec"]),
            "front_end": FrontEnd.from_dict(values["front_end"]),
            "dtype": values["dtype"],
            "speakers": tuple(values["speakers"]),
        }

    def counts(self) -> dict[str, int]:
        return {"num_utterances": self.num_utterances, "num_frames": self.num_frames}

    def settings(self) -> list[Any]:
        return [self.mel_spec.to_dict(), self.dtype]

    def entries(self) -> list[Entry]:
        """List all utterances, in the order of the manifest; fetches the shards' lists where they lie elsewhere.

        Raises:
            UserError: a shard's list does not belong to the shard of this index.
        """
        self.fetch_lists()
        return [
            Entry(row[0], row[1], row[2], number, tuple(row[3]), tuple(row[4]))
            for number in range(len(self.shards))
            for row in self.rows(number)
        ]
