"""What a text-to-units model is worth: its units of held-out sentences against those of the recordings.

Beside it stand what it has to be better than, runs drawn from a bigram, and, where another voice has said the same
sentence, that one's units: as far as units depend on who speaks, nothing that is right comes closer.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.data.index import ShardIndex
from sqvae_speech.data.kaldi import DataDir, Interval
from sqvae_speech.data.reader import ShardReader
from sqvae_speech.data.texts import TextFrontEnd
from sqvae_speech.errors import UserError
from sqvae_speech.evaluation.edit_distance import edit_distance
from sqvae_speech.evaluation.frames import SILENCES, FrameSequence
from sqvae_speech.evaluation.report_files import number
from sqvae_speech.evaluation.unit_recognizer import UnitRecognizer
from sqvae_speech.evaluation.voices.cepstra import cepstral_distortion, mel_cepstra
from sqvae_speech.models.inference import UnitTiming
from sqvae_speech.models.pretrained import SpeechBundle
from sqvae_speech.models.pretrained_text_to_units import TextToUnitsBundle
from sqvae_speech.units.convert_voice import decode_units, require_units_of
from sqvae_speech.units.meta import UnitStoreMeta, require_same_units
from sqvae_speech.units.sequences import UtteranceUnits, deduplicate, expand, run_lengths
from sqvae_speech.units.spoken_texts import read_spoken_texts
from sqvae_speech.units.store import UnitStore
from sqvae_speech.units.text_speaking import speak_texts

Phones = Mapping[str, tuple[Interval, ...]]
Code = tuple[int, ...]


@dataclass(frozen=True)
class SpokenScores:
    """Of one way to get units, against the recordings and their units.

    Attributes:
        utterances: that there are such units for.
        unit_error: edits that make the recording's runs of its, over the number of the recording's.
        duration_ratio: how long it lasts, over how long the recordings last.
        phone_error: edits that make the phones spoken of those that are recognised in its units, over the number of
            phones spoken; see :class:`~sqvae_speech.evaluation.unit_recognizer.UnitRecognizer`. None without an
            alignment.
        distortion: mel-cepstral, dB, of the log-mel that the speech model decodes of the units to that of the
            recording, aligned by dynamic time warping; the mean over utterances. None without a speech model.
    """

    utterances: int
    unit_error: float
    duration_ratio: float
    phone_error: float | None
    distortion: float | None


class Decoding(NamedTuple):
    """What it takes to compare sounds: the ``tokenizer`` whose units they are, and ``shards`` of the recordings."""

    tokenizer: SpeechBundle
    shards: Sequence[ShardIndex]


def score_text_to_units(
    bundle: TextToUnitsBundle,
    test: UnitStore,
    train: UnitStore,
    alignments: Phones | None = None,
    decoding: Decoding | None = None,
    *,
    temperature: float = 0.0,
    seed: int = 0,
) -> dict[str, SpokenScores]:
    """Score a model on the texts of a store.

    Args:
        bundle: the model.
        test: recordings' units; those with texts or speakers that the model cannot say are left out.
        train: what the bigram, and the phones of units, are counted on.
        alignments: phones of utterances of both, silences among them; None leaves phones out.
        decoding: what turns units into log-mels, in the voice of the recording's speaker; None leaves sound out.
        temperature: of the model's draws.
        seed: of all draws.

    Returns:
        By name: ``recording`` (what it scores against itself), ``text to units``, ``bigram``, and, where there is
        one, ``another voice``.

    Raises:
        UserError: units of another kind, or none that can be said; recordings that the shards do not have.
    """
    meta = UnitStoreMeta.from_dict(bundle.units)
    for store in (train, test):
        require_same_units(meta, deduplicated_meta(store.meta), f"the text-to-units model {bundle.path}", store.name)
    if decoding is not None:
        require_units_of(decoding.tokenizer, meta, f"the text-to-units model {bundle.path}")
    sayable = read_spoken_texts(test, TextFrontEnd(**bundle.text), bundle.symbols, bundle.speakers)
    real = [one.units for one in sayable]
    spoken = speak_texts(
        bundle,
        [str(units.text) for units in real],
        [units.speaker for units in real],
        ids=[units.utterance_id for units in real],
        temperature=temperature,
        seed=seed,
    )
    systems: dict[str, list[UtteranceUnits | None]] = {
        "recording": [*real],
        "text to units": [spoken[units.utterance_id] for units in real],
        "bigram": [*_bigram_draws(train, real, seed)],
        "another voice": [_by_another(units, real) for units in real],
    }
    mels = None if decoding is None else _mels(decoding, [units.utterance_id for units in real])
    recognizer = _recognizer(train, alignments) if alignments else None
    scores = {}
    for name, units in systems.items():
        pairs = [(one, other) for one, other in zip(units, real, strict=True) if one is not None]
        if pairs:
            score = _scores(pairs, recognizer, alignments or {})
            if decoding is not None and mels is not None:
                score = replace(score, distortion=_distortion(pairs, decoding.tokenizer, mels))
            scores[name] = score
    return scores


def read_alignments(data_dirs: Iterable[str | Path]) -> dict[str, tuple[Interval, ...]]:
    """The phones of the utterances of data directories, where they have ``ali``."""
    utterances = (one for folder in data_dirs for one in DataDir.read(folder, allow_pipes=True).utterances)
    return {one.utterance_id: one.ali for one in utterances if one.ali}


def deduplicated_meta(meta: UnitStoreMeta) -> UnitStoreMeta:
    """What a store's metadata is when its runs have been collapsed."""
    return UnitStoreMeta.from_dict({**asdict(meta), "deduplicated": True})


def text_to_units_markdown(bundle: TextToUnitsBundle, splits: Mapping[str, Mapping[str, SpokenScores]]) -> str:
    """The scores as tables."""
    lines = [
        f"# Text to units {bundle.path}\n\nStep {bundle.step}, checkpoint {bundle.fingerprint[:12]}; it reads "
        f"{len(bundle.symbols)} {bundle.text['kind']}.\n\n"
        "| split | units of | utterances | unit error | phone error | distortion (dB) | duration |\n"
        "|---|---|---:|---:|---:|---:|---:|\n"
    ]
    for split, scores in splits.items():
        for name, score in scores.items():
            phones = number(None if score.phone_error is None else 100 * score.phone_error, 1)
            lines.append(
                f"| {split} | {name} | {score.utterances} | {100 * score.unit_error:.1f} | {phones} | "
                f"{number(score.distortion, 2)} | "
                f"{score.duration_ratio:.3f} |\n"
            )
    lines.append(
        "\nErrors in % of the recording's runs, and of the phones spoken; phones are recognised in units by a "
        "hidden Markov model of both, counted on training. distortion: mel-cepstral, of what the units are decoded "
        "to. duration: relative to the recording. bigram: runs drawn from one, as many as the recording has. another "
        "voice: the same sentence, as somebody else says it.\n"
    )
    return "".join(lines)


def report(bundle: TextToUnitsBundle, splits: Mapping[str, Mapping[str, SpokenScores]]) -> dict[str, Any]:
    """The scores as plain values."""
    return {
        "model": bundle.path,
        "step": bundle.step,
        "checkpoint": bundle.fingerprint,
        "text": bundle.text,
        "splits": {
            split: {name: asdict(score) for name, score in scores.items()} for split, scores in splits.items()
        },
    }


def _codes(units: UtteranceUnits) -> list[Code]:
    return list(map(tuple, units.codes.T.tolist()))


def _scores(
    pairs: Sequence[tuple[UtteranceUnits, UtteranceUnits]], recognizer: UnitRecognizer | None, alignments: Phones
) -> SpokenScores:
    edits = sum(edit_distance(_codes(one), _codes(real)) for one, real in pairs)
    phone_error = None
    aligned = [pair for pair in pairs if pair[1].utterance_id in alignments]
    if recognizer is not None and aligned:
        phone_edits = phones = 0
        for one, real in aligned:
            spoken = [interval.label for interval in alignments[real.utterance_id] if interval.label not in SILENCES]
            heard = [name for name in recognizer.recognize(expand(one).codes) if name not in SILENCES]
            phone_edits += edit_distance(heard, spoken)
            phones += len(spoken)
        phone_error = phone_edits / phones
    return SpokenScores(
        utterances=len(pairs),
        unit_error=edits / sum(real.num_units for _, real in pairs),
        duration_ratio=sum(one.total_units for one, _ in pairs) / sum(real.total_units for _, real in pairs),
        phone_error=phone_error,
        distortion=None,
    )


def _mels(decoding: Decoding, utterance_ids: Iterable[str]) -> dict[str, np.ndarray]:
    """The log-mels of recordings, (n_mels, T)."""
    wanted = set(utterance_ids)
    found: dict[str, np.ndarray] = {}
    for index in decoding.shards:
        decoding.tokenizer.mel_spec.require_same(index.mel_spec, "the speech model", f"the shards of {index.folder}")
        reader = ShardReader(index)
        found |= {
            one.utterance_id: reader.utterance(one).mel for one in index.entries() if one.utterance_id in wanted
        }
    if missing := sorted(wanted - found.keys()):
        raise UserError(
            f"the shards given do not have {missing[0]!r}, whose units are to be scored; give its split too"
        )
    return found


def _distortion(
    pairs: Sequence[tuple[UtteranceUnits, UtteranceUnits]], tokenizer: SpeechBundle, mels: Mapping[str, np.ndarray]
) -> float:
    # levels, and what all frames have in common, are not in these cepstra
    scale = tokenizer.mel_spec.decibels_per_unit
    device = next(tokenizer.model.parameters()).device
    values = [
        cepstral_distortion(
            mel_cepstra(scale * mels[real.utterance_id]),
            mel_cepstra(scale * decode_units(tokenizer, one, str(real.speaker), device=device).cpu().numpy()),
        )
        for one, real in pairs
    ]
    return float(np.mean(values))


def _recognizer(train: UnitStore, alignments: Phones) -> UnitRecognizer:
    if train.meta.mel_spec is None:
        raise UserError(f"{train.name} does not say of which features it is: phones cannot be found; encode again")
    spec = MelSpec.from_dict(train.meta.mel_spec)
    timing = UnitTiming(spec)
    (start, stop), step = timing.span(0), 1 / timing.frame_rate
    first = (start + stop) / 2 / spec.sample_rate
    sequences = []
    for units in map(expand, train):
        if units.utterance_id in alignments and units.num_units:
            times = first + step * np.arange(units.num_units)
            name, phones = units.utterance_id, alignments[units.utterance_id]
            sequences.append(
                FrameSequence(name, units.speaker or "", times[-1], times, step, codes=units.codes, phones=phones)
            )
    return UnitRecognizer(sequences)


def _bigram_draws(train: UnitStore, real: Sequence[UtteranceUnits], seed: int) -> list[UtteranceUnits]:
    """Runs that follow one another as in training, as many as each recording has; each lasts as one there does."""
    pieces = [deduplicate(units) for units in train if units.num_units]
    codes = np.concatenate([units.codes for units in pieces], axis=1)
    durations = np.concatenate([_durations(units) for units in pieces])
    _, numbers = np.unique(codes, axis=1, return_inverse=True)
    numbers = numbers.ravel()
    starts = np.cumsum([0, *(units.num_units for units in pieces)])[:-1]
    followed = np.setdiff1d(np.arange(len(numbers)), starts) - 1  # places whose next run is of the same utterance
    order = followed[np.argsort(numbers[followed], kind="stable")]
    sorted_numbers = numbers[order]
    rng = np.random.default_rng(seed)
    drawn = []
    for units in real:
        places = [int(rng.choice(starts))]
        while len(places) < units.num_units:
            low, high = (
                np.searchsorted(sorted_numbers, numbers[places[-1]], side=side) for side in ("left", "right")
            )
            places.append(int(order[rng.integers(low, high)]) + 1 if high > low else int(rng.choice(starts)))
        found, runs = run_lengths(codes[:, places])
        lasting = np.add.reduceat(durations[places], np.cumsum(runs) - runs)
        drawn.append(UtteranceUnits(units.utterance_id, found, units.speaker, lasting))
    return drawn


def _durations(units: UtteranceUnits) -> np.ndarray:
    """(T,) int64, units that each run lasts; 1 where they are not known."""
    return np.ones(units.num_units, np.int64) if units.durations is None else units.durations


def _by_another(units: UtteranceUnits, all_units: Sequence[UtteranceUnits]) -> UtteranceUnits | None:
    """The first utterance of the same text by somebody else."""
    return next((one for one in all_units if one.text == units.text and one.speaker != units.speaker), None)
