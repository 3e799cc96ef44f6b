"""``index.json``: what a folder of shards holds, and whether it is whole.

A folder of shards has ``index.json``, and for each ``<split>-000000.tar`` a ``<split>-000000.json`` that lists its
utterances and where they lie in it, so that any utterance can be read without reading the shard.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from sqvae_speech.audio.front_end import FrontEnd
from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.data.files import read_text, write_text
from sqvae_speech.errors import UserError

VERSION = 2
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


class Bad(NamedTuple):
    """An utterance that could not be used, why, and whether that is because there is nothing but silence in it."""

    utterance_id: str
    reason: str
    silent: bool = False


@dataclass(frozen=True)
class ShardInfo:
    """A finished shard.

    Attributes:
        name: of the file.
        utterances, frames: how many are in it.
        shortest, longest: frames of its shortest and its longest utterance; 0 when it has none.
        clipped: utterances whose recording reaches full scale (:class:`sqvae_speech.audio.front_end.Prepared`).
        bytes: size of the file.
        sha256: of its bytes, in hexadecimal.
    """

    name: str
    utterances: int
    frames: int
    shortest: int
    longest: int
    clipped: int
    bytes: int
    sha256: str

    @property
    def sidecar(self) -> str:
        """Name of the file that lists its utterances."""
        return str(Path(self.name).with_suffix(".json"))


@dataclass(frozen=True)
class ShardIndex:
    """A folder of shards.

    Attributes:
        folder: where it lies.
        split: name of the split, the beginning of the shards' names.
        mel_spec: settings of the features.
        front_end: what was done to the recordings before.
        dtype: ``float32`` or ``float16``, the stored type.
        speakers: sorted ids.
        shards: in the order of the manifest.
        bad: utterances that could not be used.
    """

    folder: Path
    split: str
    mel_spec: MelSpec
    front_end: FrontEnd
    dtype: str
    speakers: tuple[str, ...]
    shards: tuple[ShardInfo, ...]
    bad: tuple[Bad, ...] = field(default=())

    @property
    def num_utterances(self) -> int:
        """Utterances in all shards."""
        return sum(shard.utterances for shard in self.shards)

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

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the settings and the shards' checksums: equal for equal features, wherever they lie."""
        content = [self.mel_spec.to_dict(), self.dtype, [shard.sha256 for shard in self.shards]]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def shard_paths(self) -> list[Path]:
        """Paths of the shards in order, what ``webdataset.WebDataset`` takes as strings."""
        return [self.shard_path(number) for number in range(len(self.shards))]

    def shard_path(self, number: int) -> Path:
        """Path of a shard, by its number."""
        return self.folder / self.shards[number].name

    def save(self) -> None:
        """Write ``index.json``, whole or not at all."""
        values = {
            "version": VERSION,
            "split": self.split,
            "mel_spec": self.mel_spec.to_dict(),
            "front_end": self.front_end.to_dict(),
            "dtype": self.dtype,
            "speakers": list(self.speakers),
            "num_utterances": self.num_utterances,
            "num_frames": self.num_frames,
            "fingerprint": self.fingerprint,
            "shards": [vars(shard) for shard in self.shards],
            "bad": [bad._asdict() for bad in self.bad],
        }
        write_text(self.folder / "index.json", json.dumps(values, indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> "ShardIndex":
        """Read the index of a folder of shards and check that the shards are there with their full sizes.

        Raises:
            UserError: no folder, no index, an index that is not one of ours, a missing or truncated shard.
        """
        folder = Path(folder)
        path = folder / "index.json"
        if not path.is_file():
            there = "has no index.json" if folder.is_dir() else "does not exist"
            raise UserError(f"{folder} {there}; make or finish the shards with `sqvae-speech shards`")
        index = cls.read(path)
        index.validate()
        return index

    @classmethod
    def read(cls, path: Path) -> "ShardIndex":
        """Read an ``index.json``, without looking for the shards.

        Raises:
            UserError: it is missing or not one of ours.
        """
        values = read_json(path)
        try:
            if values["version"] != VERSION:
                raise UserError(f"{path} has version {values['version']}, this is {VERSION}; write the shards again")
            return cls(
                folder=path.parent,
                split=values["split"],
                mel_spec=MelSpec.from_dict(values["mel_spec"]),
                front_end=FrontEnd.from_dict(values["front_end"]),
                dtype=values["dtype"],
                speakers=tuple(values["speakers"]),
                shards=tuple(ShardInfo(**shard) for shard in values["shards"]),
                bad=tuple(Bad(**bad) for bad in values["bad"]),
            )
        except (KeyError, TypeError) as error:
            raise UserError(f"{path} is not an index of shards ({error!r}); write the shards again") from None

    def validate(self, checksums: bool = False) -> None:
        """Check that every shard is there with its full size and its list of utterances.

        Args:
            checksums: also read all shards and compare their SHA-256.

        Raises:
            UserError: a shard that is missing, truncated or changed, and how to have it again.
        """
        remedy = "run `sqvae-speech shards` again with the same options: it writes only what is missing or damaged"
        for shard in self.shards:
            path = self.folder / shard.name
            if not path.is_file():
                raise UserError(f"shard {path} is missing; {remedy}")
            size = path.stat().st_size
            if size != shard.bytes:
                what = "truncated" if size < shard.bytes else "changed"
                raise UserError(f"shard {path} is {what}: {size} bytes, index.json says {shard.bytes}; {remedy}")
            if not (self.folder / shard.sidecar).is_file():
                raise UserError(f"{self.folder / shard.sidecar}, the contents of {shard.name}, is missing; {remedy}")
            if checksums and file_sha256(path) != shard.sha256:
                raise UserError(
                    f"shard {path} has changed (SHA-256 differs from index.json's); remove it and {remedy}"
                )

    def entries(self) -> list[Entry]:
        """List all utterances, in the order of the manifest.

        Raises:
            UserError: a shard's list does not belong to the shard of this index.
        """
        entries: list[Entry] = []
        for number, shard in enumerate(self.shards):
            path = self.folder / shard.sidecar
            values = read_json(path)
            if values.get("shard") != vars(shard):
                raise UserError(f"{path} does not belong to {shard.name} of index.json; write the shards again")
            entries += [Entry(u[0], u[1], u[2], number, tuple(u[3]), tuple(u[4])) for u in values["utterances"]]
        return entries


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, or raise :class:`UserError`."""
    try:
        values = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not JSON ({error}); write the shards again") from None
    if not isinstance(values, Mapping):
        raise UserError(f"{path} holds no JSON object; write the shards again")
    return dict(values)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
