"""What a unit language model is worth: its bits against those of a bigram, a unigram and the uniform prior."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqvae_speech.evaluation.ngram import Bigram, Unigram
from sqvae_speech.evaluation.report_files import number
from sqvae_speech.models.pretrained_unit_lm import UnitLmBundle
from sqvae_speech.units.blocks import UnitSequences
from sqvae_speech.units.lm_scoring import MAX_SYMBOLS, sequence_nats
from sqvae_speech.units.statistics import unit_statistics
from sqvae_speech.units.store import UnitStore, UnitStoreMeta, require_same_units


@dataclass(frozen=True)
class LmScore:
    """What one model needs to write down a set of units. Bits, with those of the ends of sequences included.

    Attributes:
        bits: in all.
        bits_per_unit: over the number of units; ends are not counted among them.
        bits_per_code: the same for each of a unit's codes: bits per dimension, of image codes.
        perplexity: 2 to the ``bits_per_unit``.
        bits_per_second: over the duration of the recordings, None where that is not known. Of deduplicated units
            these are the bits of the runs, without their durations.
    """

    bits: float
    bits_per_unit: float
    bits_per_code: float
    perplexity: float
    bits_per_second: float | None


@dataclass(frozen=True)
class LmSplitScores:
    """Scores of one split: ``scores`` by the name of the model, the worst first as far as one can know."""

    split: str
    utterances: int
    units: int
    seconds: float | None
    scores: dict[str, LmScore]


def score_split(
    bundle: UnitLmBundle,
    store: UnitStore,
    train: UnitStore | None = None,
    *,
    split: str = "",
    max_symbols: int = MAX_SYMBOLS,
) -> LmSplitScores:
    """Score a store with the language model and with what it is measured against.

    The uniform prior gives every code log2 K bits, and no bits to where a sequence ends.

    Args:
        bundle: the language model.
        store: units of the same kind as it was trained on.
        train: what unigram and bigram are counted on; None leaves them out.
        split: its name, for the report.
        max_symbols: symbols of a batch, padding included.

    Raises:
        UserError: units of another kind, or none at all.
    """
    meta = UnitStoreMeta.from_dict(bundle.units)
    require_same_units(meta, store.meta, f"the language model {bundle.path}", store.name)
    vocabulary = bundle.model.vocabulary
    statistics = unit_statistics(store)
    sequences = UnitSequences(store, vocabulary, bundle.conditions)
    codes = statistics.units * vocabulary.num_codebooks

    def score(bits: float) -> LmScore:
        return LmScore(
            bits=bits,
            bits_per_unit=bits / statistics.units,
            bits_per_code=bits / codes,
            perplexity=2.0 ** (bits / statistics.units),
            bits_per_second=None if statistics.seconds is None else bits / statistics.seconds,
        )

    scores = {"uniform": score(codes * math.log2(vocabulary.codebook_size))}
    if train is not None:
        require_same_units(meta, train.meta, f"the language model {bundle.path}", train.name)
        counted = UnitSequences(train, vocabulary)
        scores["unigram"] = score(float(Unigram(counted).nats(sequences).sum()) / math.log(2))
        scores["bigram"] = score(float(Bigram(counted).nats(sequences).sum()) / math.log(2))
    nats = sequence_nats(bundle.model, sequences, max_symbols=max_symbols)
    scores["transformer"] = score(float(nats.sum()) / math.log(2))
    return LmSplitScores(split, statistics.utterances, statistics.units, statistics.seconds, scores)


def lm_report(bundle: UnitLmBundle, splits: Sequence[LmSplitScores]) -> dict[str, Any]:
    """All scores of a language model with what identifies it, ready for JSON."""
    return {
        "model": bundle.path,
        "step": bundle.step,
        "checkpoint": bundle.fingerprint,
        "parameters": sum(parameter.numel() for parameter in bundle.model.parameters()),
        "units": bundle.units,
        "conditions": len(bundle.conditions),
        "splits": [asdict(split) for split in splits],
    }


def lm_markdown(values: Mapping[str, Any]) -> str:
    """The table of a :func:`lm_report`: a row a split and model."""
    units = values["units"]
    lines = [
        f"# Language model {values['model']}\n\n"
        f"Step {values['step']}, checkpoint {values['checkpoint'][:12]}, {values['parameters']:,} weights; "
        f"{units['num_codebooks']} x {units['codebook_size']} codes"
        f"{', deduplicated' if units['deduplicated'] else ''}, {values['conditions'] or 'no'} conditions.\n\n"
        "| split | model | bits/unit | bits/code | perplexity | bits/s | of uniform |\n"
        "|---|---|---:|---:|---:|---:|---:|\n"
    ]
    for split in values["splits"]:
        uniform = split["scores"]["uniform"]["bits"]
        for name, score in split["scores"].items():
            cells = [
                split["split"],
                name,
                f"{score['bits_per_unit']:.3f}",
                f"{score['bits_per_code']:.3f}",
                f"{score['perplexity']:.2f}",
                number(score["bits_per_second"], 1),
                f"{score['bits'] / uniform:.1%}" if uniform else "n/a",
            ]
            lines.append("| " + " | ".join(cells) + " |\n")
    lines.append(
        "\nThe bits of a sequence's end are counted, spread over its units; the uniform prior has none for it. "
        "perplexity: 2 to the bits of a unit. Unigram (1/2 added to each count) and bigram (interpolated Kneser-Ney) "
        "are of the training units.\n"
    )
    return "".join(lines)
