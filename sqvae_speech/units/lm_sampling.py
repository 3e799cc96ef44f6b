"""Units drawn from a language model, as a unit store."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from sqvae_speech.errors import UserError, nearest
from sqvae_speech.models.pretrained_unit_lm import UnitLmBundle
from sqvae_speech.models.unit_lm_sampling import sample_units
from sqvae_speech.units.sequences import UtteranceUnits
from sqvae_speech.units.store import UnitStore, UnitStoreMeta, require_same_units, store_of

BATCH = 64  # sequences that are drawn side by side


def sample_store(
    bundle: UnitLmBundle,
    number: int,
    *,
    max_units: int,
    speakers: Sequence[str] = (),
    prompts: UnitStore | None = None,
    prompt_units: int = 0,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
) -> UnitStore:
    """Draw sequences of units.

    Args:
        bundle: the language model.
        number: of sequences.
        max_units: units of a sequence at most; image codes have as many as they have.
        speakers: whose they shall be, in turn. A model that was not told speakers does not look at them. Empty: as
            the prompts say, or unknown.
        prompts: the sequences begin as the first utterances of this store that are long enough.
        prompt_units: with so many units of theirs.
        temperature: logits are divided by it; 0 takes the most probable code.
        top_k: only so many of the most probable codes.
        top_p: only the most probable codes that together have this probability.
        seed: of the draws, the same on every run.

    Returns:
        A store of the kind that the model was trained on: ids ``sample-0001``, ...; with a prompt its id and
        ``-continued``.

    Raises:
        UserError: a number out of range, a speaker that the model does not know, prompts of another kind or too
            short.
    """
    _check(number=number, max_units=max_units, top_k=top_k)
    if temperature < 0 or (top_p is not None and not 0 < top_p <= 1):
        raise UserError(f"temperature {temperature}, top_p {top_p}; legal: temperature >= 0, 0 < top_p <= 1")
    for name in speakers if bundle.conditions else ():
        if name not in bundle.conditions:
            raise UserError(
                f"speaker {name!r} is not known to the language model{nearest(name, bundle.conditions)}; legal: "
                f"{', '.join(bundle.conditions)}"
            )
    given = _prompts(bundle, prompts, prompt_units, number) if prompts is not None else []
    names = [f"{one.utterance_id}-continued" for one in given] or [f"sample-{i + 1:04d}" for i in range(number)]
    whose: list[str | None] = [one.speaker for one in given] or [None] * number
    if speakers:
        whose = [speakers[i % len(speakers)] for i in range(number)]
    device = bundle.model.embedding.weight.device
    generator = torch.Generator(device).manual_seed(seed)
    known = {name: row for row, name in enumerate(bundle.conditions)}
    rows = [known.get(name or "", len(known)) for name in whose]
    drawn: list[UtteranceUnits] = []
    for start in range(0, number, BATCH):
        batch = range(start, min(start + BATCH, number))
        codes = [torch.from_numpy(given[i].codes[:, :prompt_units]) for i in batch] if given else None
        sequences = sample_units(
            bundle.model,
            len(batch),
            max_units=max_units,
            conditions=torch.tensor([rows[i] for i in batch], device=device),
            prompt=None if codes is None else torch.stack(codes),
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            generator=generator,
        )
        drawn += [
            UtteranceUnits(names[i], units.cpu().numpy(), speaker=whose[i])
            for i, units in zip(batch, sequences, strict=True)
        ]
    return store_of(drawn, UnitStoreMeta.from_dict(bundle.units), "samples")


def draw_durations(store: UnitStore, source: UnitStore, seed: int = 0) -> UnitStore:
    """Give deduplicated units durations, each drawn from those that its code (of the first codebook) has elsewhere.

    Args:
        store: deduplicated, without durations.
        source: deduplicated, with durations.
        seed: of the draws.

    Raises:
        UserError: units of another kind, or without durations.
    """
    require_same_units(store.meta, source.meta, store.name, source.name)
    codes, durations = [], []
    for units in source:
        if units.durations is None:
            raise UserError(f"{source.name}: {units.utterance_id} has no durations; encode with --deduplicate again")
        codes.append(units.codes[0])
        durations.append(units.durations)
    all_codes, all_durations = np.concatenate(codes), np.concatenate(durations)
    order = np.argsort(all_codes, kind="stable")
    all_codes, all_durations = all_codes[order], all_durations[order]
    rng = np.random.default_rng(seed)

    def with_durations(units: UtteranceUnits) -> UtteranceUnits:
        first = np.searchsorted(all_codes, units.codes[0], side="left")
        count = np.searchsorted(all_codes, units.codes[0], side="right") - first
        place = first + (rng.random(units.num_units) * count).astype(np.int64)
        # a code that never comes in the source lasts one step
        known = all_durations[np.minimum(place, len(all_durations) - 1)]
        return replace(units, durations=np.where(count > 0, known, 1))

    return store_of(map(with_durations, store), store.meta, store.name)


def _check(**counts: int | None) -> None:
    for name, count in counts.items():
        if count is not None and count < 1:
            raise UserError(f"{name} {count}; at least 1 is needed")


def _prompts(bundle: UnitLmBundle, prompts: UnitStore, prompt_units: int, number: int) -> list[UtteranceUnits]:
    _check(prompt_units=prompt_units)
    meta = UnitStoreMeta.from_dict(bundle.units)
    require_same_units(meta, prompts.meta, f"the language model {bundle.path}", prompts.name)
    long_enough = [units for units in prompts if units.num_units >= prompt_units][:number]
    if len(long_enough) < number:
        raise UserError(
            f"{prompts.name} has {len(long_enough)} utterances of {prompt_units} units or more, {number} are wanted; "
            "ask for fewer, or for shorter prompts"
        )
    return long_enough
