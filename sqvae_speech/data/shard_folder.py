"""A folder of shards, whatever is in them: its ``index.json``, and whether it is whole.

A folder of shards has ``index.json``, and for each ``<split>-000000.tar`` a ``<split>-000000.json`` that lists its
examples and where they lie in it, so that any example can be read without reading the shard. What the examples are
(utterances: :mod:`sqvae_speech.data.index`, images: :mod:`sqvae_speech.data.image_index`) is said by subclasses.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, Self

from sqvae_speech.data.files import read_text, write_text
from sqvae_speech.errors import UserError

INDEX_NAME = "index.json"
SPEECH = "speech"  # the kind of an index that says none: of the version before there were others


class Bad(NamedTuple):
    """An example that could not be used, why, and whether that is because there is nothing but silence in it."""

    name: str
    reason: str
    silent: bool = False


@dataclass(frozen=True, kw_only=True)
class ShardFile(ABC):
    """A finished shard.

    Attributes:
        name: of the file.
        bytes: size of the file.
        sha256: of its bytes, in hexadecimal.
    """

    name: str
    bytes: int
    sha256: str

    @property
    @abstractmethod
    def num_examples(self) -> int:
        """How many examples are in it."""

    @property
    def sidecar(self) -> str:
        """Name of the file that lists its examples."""
        return str(Path(self.name).with_suffix(".json"))


class Copies(Protocol):
    """Where shards are when they are not simply in the folder; see :mod:`sqvae_speech.data.remote`."""

    def path(self, number: int) -> Path:
        """Path of a shard, which is fetched first when it is not here."""
        ...

    def fetch_lists(self) -> None:
        """Fetch the shards' lists that are not here yet."""
        ...

    def fetch_all(self) -> None:
        """Fetch every shard that is not here."""
        ...


@dataclass(frozen=True, kw_only=True)
class ShardFolder(ABC):
    """A folder of shards.

    Attributes:
        folder: where it lies.
        split: name of the split, the beginning of the shards' names.
        shards: in the order of the manifest.
        bad: examples that could not be used.
        copies: of a folder that lies elsewhere: what fetches its shards; None for one that is all here.
    """

    kind: ClassVar[str]
    """What ``index.json`` calls it."""
    noun: ClassVar[str]
    """An example, in messages."""
    list_name: ClassVar[str]
    """Key of the examples in the lists beside the shards."""
    id_name: ClassVar[str]
    """Key of an example's id in ``index.json``."""
    version: ClassVar[int]
    member: ClassVar[str]
    """Suffix of an example's numbers in a shard, ``<id>.<member>``."""
    shard_class: ClassVar[type[ShardFile]]

    folder: Path
    split: str
    shards: tuple[ShardFile, ...]
    bad: tuple[Bad, ...] = ()
    copies: Copies | None = field(default=None, repr=False, compare=False)

    # ---- what a kind of examples has to say

    @abstractmethod
    def description(self) -> dict[str, Any]:
        """What ``index.json`` says of all examples, for JSON; the inverse of :meth:`fields`."""

    @classmethod
    @abstractmethod
    def fields(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """The constructor's arguments that :meth:`description` stands for."""

    @abstractmethod
    def counts(self) -> dict[str, int]:
        """Totals of the shards, as ``index.json`` has them."""

    @abstractmethod
    def settings(self) -> list[Any]:
        """What else than the shards' bytes the examples depend on, for the fingerprint."""

    # ---- what is the same for all

    @property
    def num_examples(self) -> int:
        """Examples in all shards."""
        return sum(shard.num_examples for shard in self.shards)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the settings and the shards' checksums: equal for equal contents, wherever they lie."""
        content = [*self.settings(), [shard.sha256 for shard in self.shards]]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def shard_paths(self) -> list[Path]:
        """Paths of the shards in order, what ``webdataset.WebDataset`` takes as strings."""
        return [self.shard_path(number) for number in range(len(self.shards))]

    def shard_path(self, number: int) -> Path:
        """Path of a shard, by its number; fetched first when it lies elsewhere."""
        return self.folder / self.shards[number].name if self.copies is None else self.copies.path(number)

    def bad_values(self) -> list[dict[str, Any]]:
        """What could not be used, for JSON."""
        return [{self.id_name: bad.name, "reason": bad.reason, "silent": bad.silent} for bad in self.bad]

    def save(self) -> None:
        """Write ``index.json``, whole or not at all."""
        values = {
            "version": self.version,
            **({} if self.kind == SPEECH else {"kind": self.kind}),
            "split": self.split,
            **self.description(),
            **self.counts(),
            "fingerprint": self.fingerprint,
            "shards": [vars(shard) for shard in self.shards],
            "bad": self.bad_values(),
        }
        write_text(self.folder / INDEX_NAME, json.dumps(values, indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read the index of a folder of shards and check that the shards are there with their full sizes.

        Raises:
            UserError: no folder, no index, an index that is not one of ours or of another kind, a missing or
                truncated shard.
        """
        index = cls.read(index_path(folder))
        index.validate()
        return index

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read an ``index.json``, without looking for the shards.

        Raises:
            UserError: it is missing, not one of ours, or of another kind of examples.
        """
        values = read_json(path)
        try:
            kind = values.get("kind", SPEECH)
            if kind != cls.kind:
                raise UserError(f"{path.parent} holds {kind}; this takes shards of {cls.kind}")
            if values["version"] != cls.version:
                raise UserError(
                    f"{path} has version {values['version']}, this is {cls.version}; write the shards again"
                )
            return cls(
                folder=path.parent,
                split=values["split"],
                shards=tuple(cls.shard_class(**shard) for shard in values["shards"]),
                bad=tuple(Bad(bad[cls.id_name], bad["reason"], bad["silent"]) for bad in values["bad"]),
                **cls.fields(values),
            )
        except (KeyError, TypeError) as error:
            raise UserError(f"{path} is not an index of shards ({error!r}); write the shards again") from None

    def validate(self, checksums: bool = False) -> None:
        """Check that every shard is there with its full size and its list of examples.

        Shards that lie elsewhere are checked when they are fetched; with ``checksums`` all are, and read again.

        Args:
            checksums: also read all shards and compare their SHA-256.

        Raises:
            UserError: a shard that is missing, truncated or changed, and how to have it again.
        """
        if self.copies is not None:
            if not checksums:
                return
            self.copies.fetch_all()
            self.copies.fetch_lists()
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

    def rows(self, number: int) -> Sequence[Sequence[Any]]:
        """What the list beside a shard has, a row an example: its id first, at last the places (offset, bytes) of its
        numbers and of its ``.json``. The list is here: see :meth:`fetch_lists`.

        Raises:
            UserError: the list does not belong to the shard of this index.
        """
        shard = self.shards[number]
        path = self.folder / shard.sidecar
        values = read_json(path)
        if values.get("shard") != vars(shard):
            raise UserError(f"{path} does not belong to {shard.name} of index.json; write the shards again")
        return values[self.list_name]

    def fetch_lists(self) -> None:
        """Fetch the shards' lists, where they lie elsewhere."""
        if self.copies is not None:
            self.copies.fetch_lists()


def index_path(folder: str | Path) -> Path:
    """Return the path of a folder's ``index.json``, or raise :class:`UserError` when there is none."""
    path = Path(folder) / INDEX_NAME
    if not path.is_file():
        there = "has no index.json" if path.parent.is_dir() else "does not exist"
        raise UserError(f"{folder} {there}; make or finish the shards with `sqvae-speech shards`")
    return path


def kind_of(folder: str | Path) -> str:
    """Return the :attr:`ShardFolder.kind` of a folder of shards.

    Raises:
        UserError: no folder, no index, one that cannot be read.
    """
    return read_json(index_path(folder)).get("kind", SPEECH)


def is_shards(folder: str | Path) -> bool:
    """Whether a folder is one of shards; otherwise it is taken for a data directory."""
    return (Path(folder) / INDEX_NAME).is_file()


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
