"""In what two sets of units differ."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, fields

import numpy as np

from sqvae_speech.errors import UserError
from sqvae_speech.units.meta import UnitStoreMeta
from sqvae_speech.units.sequences import UtteranceUnits
from sqvae_speech.units.store import UnitSource


@dataclass(frozen=True)
class Difference:
    """The first unit in which an utterance differs.

    Attributes:
        utterance_id: of the utterance.
        unit: its number; where one sequence ends, the first that only the other has.
        seconds: where it begins by the frame rate, None when that or the durations are not known.
        first, second: its codes (N,), or None beyond a sequence's end.
        differing: how many units of the utterance differ, those that only one sequence has among them.
        lengths: units in either.
    """

    utterance_id: str
    unit: int
    seconds: float | None
    first: list[int] | None
    second: list[int] | None
    differing: int
    lengths: tuple[int, int]


@dataclass
class UnitsDiff:
    """What :func:`diff_units` finds.

    Attributes:
        meta: fields of the metadata that differ, with both values. A value that is not known differs from none.
        only_first, only_second: ids that the other does not have, in their order.
        utterances: ids that both have.
        units: units compared: for each such id, those of the longer sequence.
        differing: of them, those that differ in a code or in their duration.
        changed: utterances in which any does.
        first: the first differences, of as many utterances as were asked for.
    """

    meta: dict[str, tuple] = field(default_factory=dict)
    only_first: list[str] = field(default_factory=list)
    only_second: list[str] = field(default_factory=list)
    utterances: int = 0
    units: int = 0
    differing: int = 0
    changed: int = 0
    first: list[Difference] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """The share of the units compared that differ; 0 when there are none."""
        return self.differing / self.units if self.units else 0.0

    @property
    def same(self) -> bool:
        """Whether both have the same units of the same utterances. Metadata may differ."""
        return not (self.only_first or self.only_second or self.differing)


def diff_units(first: UnitSource, second: UnitSource, *, maximum: int = 5) -> UnitsDiff:
    """Compare units utterance by utterance, unit by unit at its place.

    Each side is gone through once; held are only utterances that one side has had and the other not yet, which in the
    same order are none.

    Args:
        first: the units.
        second: others.
        maximum: first differences to tell, one an utterance.

    Raises:
        UserError: they have other numbers of codebooks, other frame rates, or one alone is deduplicated: their units
            do not stand for the same stretches of speech, and would differ everywhere.
    """
    _require_comparable(first, second)
    result = UnitsDiff(meta=_differing_fields(first.meta, second.meta))
    for one, two in _paired(first, second, result):
        result.utterances += 1
        found = _compare(one, two, first.meta)
        result.units += max(one.num_units, two.num_units)
        if found is not None:
            result.changed += 1
            result.differing += found.differing
            if len(result.first) < maximum:
                result.first.append(found)
    return result


def report(diff: UnitsDiff, first: str, second: str, *, maximum: int = 5) -> str:
    """A few lines for people, with the names of both sides; ``maximum`` ids of each kind."""
    lines = [f"{name}: {one!r} in {first}, {two!r} in {second}" for name, (one, two) in diff.meta.items()]
    for ids, name in ((diff.only_first, first), (diff.only_second, second)):
        if ids:
            more = f" and {len(ids) - maximum} more" if len(ids) > maximum else ""
            lines.append(f"only in {name}: {len(ids)} utterances ({', '.join(ids[:maximum])}{more})")
    for found in diff.first:
        where = "" if found.seconds is None else f" ({found.seconds:.3f} s)"
        lengths = "" if found.lengths[0] == found.lengths[1] else f", {found.lengths[0]} and {found.lengths[1]} units"
        one, two = (
            "the end" if codes is None else " ".join(map(str, codes)) for codes in (found.first, found.second)
        )
        lines.append(
            f"{found.utterance_id}: unit {found.unit}{where} is {one} and {two}; {found.differing} differ{lengths}"
        )
    if diff.changed > len(diff.first):
        lines.append(f"... and {diff.changed - len(diff.first)} more utterances")
    lines.append(
        f"{diff.utterances} utterances in both, {diff.changed} of them differ: {diff.differing} of {diff.units} "
        f"units ({diff.rate:.4%})"
    )
    return "\n".join(lines)


def _shown(codes: list[int] | None) -> str:
    return "the end" if codes is None else " ".join(map(str, codes))


def _require_comparable(first: UnitSource, second: UnitSource) -> None:
    one, two = first.meta, second.meta
    for name, what in (("num_codebooks", "codebooks"), ("deduplicated", "deduplicated")):
        if getattr(one, name) != getattr(two, name):
            raise UserError(
                f"{what}: {getattr(one, name)} in {first.name}, {getattr(two, name)} in {second.name}; choose with "
                "--codebook, or convert one of them with --deduplicate or --expand, before they are compared"
            )
    if one.frame_rate is not None and two.frame_rate is not None and one.frame_rate != two.frame_rate:
        raise UserError(
            f"{first.name} has {one.frame_rate:g} units a second and {second.name} has {two.frame_rate:g}: their "
            "units stand for other stretches of speech and cannot be compared"
        )


def _differing_fields(one: UnitStoreMeta, two: UnitStoreMeta) -> dict[str, tuple]:
    optional = {"f0", "entropy", "top_k", "sample_seeds"}  # columns, which are not compared
    values = {
        item.name: (getattr(one, item.name), getattr(two, item.name))
        for item in fields(UnitStoreMeta)
        if item.name not in optional
    }
    return {name: pair for name, pair in values.items() if None not in pair and pair[0] != pair[1]}


def _paired(
    first: UnitSource, second: UnitSource, result: UnitsDiff
) -> Iterator[tuple[UtteranceUnits, UtteranceUnits]]:
    """Utterances that both have, as soon as both were met; the ids of the others go into ``result``."""
    waiting: tuple[dict[str, UtteranceUnits], dict[str, UtteranceUnits]] = ({}, {})
    for pair in itertools.zip_longest(first, second):
        for side, units in enumerate(pair):
            if units is None:
                continue
            other = waiting[1 - side].pop(units.utterance_id, None)
            if other is None:
                waiting[side][units.utterance_id] = units
            else:
                yield (units, other) if side == 0 else (other, units)
    result.only_first, result.only_second = list(waiting[0]), list(waiting[1])


def _compare(one: UtteranceUnits, two: UtteranceUnits, meta: UnitStoreMeta) -> Difference | None:
    common = min(one.num_units, two.num_units)
    differs = np.asarray(np.any(one.codes[:, :common] != two.codes[:, :common], axis=0))
    if one.durations is not None and two.durations is not None:
        differs |= one.durations[:common] != two.durations[:common]
    beyond = abs(one.num_units - two.num_units)
    if not beyond and not differs.any():
        return None
    place = int(np.argmax(differs)) if differs.any() else common
    return Difference(
        utterance_id=one.utterance_id,
        unit=place,
        seconds=_seconds(one, place, meta),
        first=_codes(one, place),
        second=_codes(two, place),
        differing=int(differs.sum()) + beyond,
        lengths=(one.num_units, two.num_units),
    )


def _codes(units: UtteranceUnits, place: int) -> list[int] | None:
    if place >= units.num_units:
        return None
    codes = units.codes[:, place].tolist()
    return codes if units.durations is None else [*codes, int(units.durations[place])]


def _seconds(units: UtteranceUnits, place: int, meta: UnitStoreMeta) -> float | None:
    if meta.frame_rate is None or (meta.deduplicated and units.durations is None):
        return None
    steps = place if units.durations is None else int(units.durations[:place].sum())
    return steps / meta.frame_rate
