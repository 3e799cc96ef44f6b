"""What the codes of a store mean."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sqvae_speech.data.ids import check_id
from sqvae_speech.errors import UserError
from sqvae_speech.units.sequences import UtteranceUnits


@dataclass(frozen=True)
class UnitStoreMeta:
    """What the codes of a store mean, and which optional columns it has.

    Attributes:
        codebook_size: K; every code is in [0, K).
        num_codebooks: N.
        frame_rate: units a second before deduplication, Hz; None when a text form did not say.
        mel_spec: ``MelSpec.to_dict()`` of the features that were encoded, or None.
        checkpoint: fingerprint of the model that made them, or None.
        deduplicated: runs are collapsed. Their durations are kept, unless the units came from a form without them.
        f0: how F0 was measured (``{"method": "pyin", "minimum": 65.0, "maximum": 400.0}``, Hz), or None without F0.
        entropy: the entropy of each unit's posterior is stored.
        top_k: so many most probable codes of each unit are stored; 0 for none.
        sample_seeds: the seeds of the sequences in ``samples``.
        shape: ``(rows, columns)`` of the codes of an image, which are stored in raster order; None for speech.
        sampled: ``codes`` are not the most probable ones but a draw with this seed; None otherwise.
    """

    codebook_size: int
    num_codebooks: int = 1
    frame_rate: float | None = None
    mel_spec: dict[str, Any] | None = None
    checkpoint: str | None = None
    deduplicated: bool = False
    f0: dict[str, Any] | None = None
    entropy: bool = False
    top_k: int = 0
    sample_seeds: tuple[int, ...] = ()
    sampled: int | None = None
    shape: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "sample_seeds", tuple(self.sample_seeds))  # JSON gives lists
        object.__setattr__(self, "shape", None if self.shape is None else tuple(self.shape))
        for name in ("codebook_size", "num_codebooks"):
            if not 1 <= getattr(self, name) < 2**31:
                raise UserError(f"{name.replace('_', ' ')} {getattr(self, name)}; legal: 1 to 2^31 - 1")
        if self.frame_rate is not None and not 0 < self.frame_rate < float("inf"):
            raise UserError(f"frame rate {self.frame_rate}; it has to be a number of Hz above 0")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "UnitStoreMeta":
        """The inverse of ``dataclasses.asdict``, also after JSON."""
        return cls(**values)

    @property
    def optional_columns(self) -> list[str]:
        """Of the columns that not every store has, those of this one."""
        wanted = {
            "f0": self.f0 is not None,
            "entropy": self.entropy,
            "top_codes": self.top_k > 0,
            "top_probabilities": self.top_k > 0,
            "samples": bool(self.sample_seeds),
        }
        return [name for name, there in wanted.items() if there]

    def check(self, units: UtteranceUnits) -> None:
        """Raise :class:`UserError` when an utterance does not fit this description, or its id is not legal."""
        name, codes = units.utterance_id, units.codes
        check_id(name)
        if codes.shape[0] != self.num_codebooks:
            raise UserError(f"{name}: {codes.shape[0]} codebooks, but the store has {self.num_codebooks}")
        if codes.size and (codes.min() < 0 or codes.max() >= self.codebook_size):
            worst = codes.min() if codes.min() < 0 else codes.max()
            raise UserError(
                f"{name}: code {worst} is outside a codebook of {self.codebook_size} (0 to "
                f"{self.codebook_size - 1}): the codebook size given is not that of the model that made these units"
            )
        if self.shape is not None and not self.deduplicated and codes.shape[1] != self.shape[0] * self.shape[1]:
            rows, columns = self.shape
            raise UserError(f"{name}: {codes.shape[1]} units, but the images of the store have {rows} x {columns}")
        if units.durations is not None and not self.deduplicated:
            raise UserError(f"{name}: has durations, but the store is not marked as deduplicated")
        for column in self.optional_columns:
            if getattr(units, column) is None:
                raise UserError(f"{name}: has no {column}, which the store says that it has")

    def seconds(self, units: UtteranceUnits) -> float | None:
        """How long the recording of an utterance is, None when it cannot be known.

        By its samples, else by its log-mel frames, else by its units, which miss the frame lost at each edge.
        """
        if self.mel_spec is not None:
            if units.num_samples is not None:
                return units.num_samples / self.mel_spec["sample_rate"]
            if units.num_frames is not None:
                return units.num_frames * self.mel_spec["hop_length"] / self.mel_spec["sample_rate"]
        if self.frame_rate is None or (self.deduplicated and units.durations is None):
            return None
        return units.total_units / self.frame_rate


def with_frame_rate(meta: UnitStoreMeta, frame_rate: float | None) -> UnitStoreMeta:
    """The metadata with a frame rate given by hand, which may fill a gap and never contradict.

    Raises:
        UserError: when the store says another rate.
    """
    if frame_rate is None or meta.frame_rate == frame_rate:
        return meta
    if meta.frame_rate is not None:
        raise UserError(
            f"--frame-rate {frame_rate:g} given, but the units are at {meta.frame_rate:g} Hz; leave it out"
        )
    return replace(meta, frame_rate=frame_rate)


def require_same_codebook(meta: UnitStoreMeta, codebook_size: int, num_codebooks: int, what: str, other: str) -> None:
    """Raise :class:`UserError`, with both values, when units are of another codebook than a model or dictionary."""
    for name, one, two in (
        ("codebook_size", meta.codebook_size, codebook_size),
        ("num_codebooks", meta.num_codebooks, num_codebooks),
    ):
        if one != two:
            raise UserError(
                f"{what} has {name} {one}, {other} has {name} {two}: these are not its units; "
                "use the model that made them, or encode again"
            )


def require_same_checkpoint(meta: UnitStoreMeta, fingerprint: str, what: str) -> None:
    """Raise :class:`UserError`, with both fingerprints, when another model made the units; a text form knows none."""
    if meta.checkpoint is not None and meta.checkpoint != fingerprint:
        raise UserError(
            f"{what} was made by checkpoint {meta.checkpoint[:12]}, and this one is {fingerprint[:12]}: its "
            "codes mean something else here; use the model that made them, or encode again"
        )


def require_same_units(one: UnitStoreMeta, two: UnitStoreMeta, what: str, other: str) -> None:
    """Raise :class:`UserError`, with both values, when the units of two stores cannot be modelled as one kind.

    What only one of them says (a text form knows neither frame rate nor checkpoint) is not compared.
    """
    require_same_codebook(one, two.codebook_size, two.num_codebooks, what, other)
    for name in ("deduplicated", "shape", "frame_rate", "checkpoint"):
        first, second = getattr(one, name), getattr(two, name)
        known = name in ("deduplicated", "shape") or None not in (first, second)
        if known and first != second:
            raise UserError(
                f"{what} has {name} {first}, {other} has {name} {second}: units of different kinds; encode both with "
                "one model, and deduplicate both or neither"
            )
