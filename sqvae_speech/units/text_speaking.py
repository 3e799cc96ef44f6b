"""Texts as units, by a trained text-to-units model."""

from collections.abc import Sequence

import torch

from sqvae_speech.data.ids import legal_id
from sqvae_speech.data.texts import TextFrontEnd, numbers_of
from sqvae_speech.errors import UserError, nearest
from sqvae_speech.models.pretrained_text_to_units import TextToUnitsBundle
from sqvae_speech.units.meta import UnitStoreMeta
from sqvae_speech.units.sequences import UtteranceUnits, deduplicate
from sqvae_speech.units.store import UnitStore, store_of

BATCH = 16  # texts that are said side by side


def speak_texts(
    bundle: TextToUnitsBundle,
    texts: Sequence[str],
    speakers: Sequence[str | None],
    *,
    ids: Sequence[str] | None = None,
    temperature: float = 0.0,
    rounds: int = 8,
    rate: float = 1.0,
    seed: int = 0,
) -> UnitStore:
    """Say texts.

    Args:
        bundle: the model.
        texts: sentences.
        speakers: who says each; None only for a model that is not told.
        ids: of the utterances; by default ``text-0001``, ...
        temperature: of the draws, see :meth:`~sqvae_speech.models.text_to_units.TextToUnits.speak`; 0 draws nothing.
        rounds: see there.
        rate: of speaking; 2 is twice as fast.
        seed: of the draws, the same on every run.

    Returns:
        Deduplicated units with durations, and their texts and speakers.

    Raises:
        UserError: a number out of range, a speaker or symbols of a text that the model does not know.
    """
    if not temperature >= 0 or rounds < 1 or not rate > 0:
        raise UserError(
            f"temperature {temperature}, rounds {rounds}, rate {rate}; legal: temperature 0 or more, rounds 1 or "
            "more, rate above 0"
        )
    for speaker in speakers if bundle.speakers else ():
        require_speaker(bundle, speaker)
    front_end = TextFrontEnd(**bundle.text)
    read = [numbers_of(front_end.symbols(text), bundle.symbols, text) for text in texts]
    names = [f"text-{number:04d}" for number in range(1, len(texts) + 1)] if ids is None else list(map(legal_id, ids))
    device = next(bundle.model.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    voices = {name: row for row, name in enumerate(bundle.speakers)}
    said: list[UtteranceUnits] = []
    for start in range(0, len(texts), BATCH):
        batch = range(start, min(start + BATCH, len(texts)))
        spoken = bundle.model.speak(
            torch.nn.utils.rnn.pad_sequence([torch.tensor(read[i]) for i in batch], batch_first=True).to(device),
            torch.tensor([len(read[i]) for i in batch], device=device),
            torch.tensor([voices.get(speakers[i] or "", 0) for i in batch], device=device),
            temperature=temperature,
            rounds=rounds,
            rate=rate,
            generator=generator,
        )
        rows = zip(
            batch, spoken.codes.cpu().numpy(), spoken.durations.cpu().numpy(), spoken.lengths.tolist(), strict=True
        )
        for i, codes, durations, length in rows:
            runs = UtteranceUnits(names[i], codes[:length].T, speakers[i], durations[:length], texts[i])
            said.append(deduplicate(runs))  # two runs that follow one another may have the same code
    return store_of(said, UnitStoreMeta.from_dict(bundle.units), "spoken texts")


def require_speaker(bundle: TextToUnitsBundle, name: str | None) -> None:
    """Raise :class:`UserError`, with those it knows, for a speaker that the model was not trained on."""
    if name not in bundle.speakers:
        raise UserError(
            f"speaker {name!r} is not known to the text-to-units model{nearest(name or '', bundle.speakers)}; legal: "
            f"{', '.join(bundle.speakers)}"
        )
