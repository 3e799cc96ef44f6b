"""Where representations come from: the log-mel itself, or a trained model."""

from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.data.reader import UtteranceMel
from sqvae_speech.errors import UserError
from sqvae_speech.evaluation.frames import FrameSequence, check_kind, sequence_of
from sqvae_speech.models.inference import UnitTiming
from sqvae_speech.units.batches import MelBatch, in_order
from sqvae_speech.units.extract import MAX_FRAMES, codes_of, min_frames

if TYPE_CHECKING:
    from sqvae_speech.models.pretrained import SpeechBundle


class FrameSource(Protocol):
    """Makes frames of utterances.

    Attributes:
        name: for tables.
        kinds: that it can make.
        codebook_size: K of ``codes``, None without.
        num_codebooks: N, 0 without codes.
        description: what identifies it, for JSON.
    """

    name: str
    kinds: tuple[str, ...]
    codebook_size: int | None
    num_codebooks: int
    description: dict[str, Any]

    def frames(self, utterances: Iterable[UtteranceMel], kinds: Collection[str]) -> Iterator[FrameSequence]:
        """Yield the utterances' frames in their order, leaving out those too short for a frame.

        Raises:
            UserError: a kind that the source cannot make.
        """
        ...


class MelSource:
    """The log-mel as it is, the baseline that any representation should beat.

    Args:
        mel_spec: of the shards.
        stack: so many frames are put side by side as one, without overlap: 2 gives the published models' frame rate.

    Raises:
        UserError: ``stack`` below 1.
    """

    kinds: tuple[str, ...] = ("mel",)
    codebook_size: int | None = None
    num_codebooks = 0

    def __init__(self, mel_spec: MelSpec, stack: int = 1):
        if stack < 1:
            raise UserError(f"--stack {stack}; at least 1 is needed")
        self.mel_spec = mel_spec
        self.stack = stack
        self.name = "log-mel" if stack == 1 else f"log-mel, {stack} stacked"
        self.description: dict[str, Any] = {"features": "mel", "mel_spec": mel_spec.name, "stack": stack}

    def frames(self, utterances: Iterable[UtteranceMel], kinds: Collection[str]) -> Iterator[FrameSequence]:
        """See :class:`FrameSource`; the log-mel is always there."""
        for kind in kinds:
            check_kind(kind, self.kinds)
        spec, stack = self.mel_spec, self.stack
        middle = spec.window_start + spec.win_length // 2 + (stack - 1) * spec.hop_length / 2
        for utterance in utterances:
            count = utterance.mel.shape[1] // stack
            if count:
                mel = utterance.mel[:, : count * stack].T.reshape(count, -1)
                yield sequence_of(
                    utterance,
                    duration(utterance, spec),
                    middle / spec.sample_rate,
                    stack / spec.frame_rate,
                    {"mel": np.ascontiguousarray(mel)},
                )


class ModelSource:
    """A trained speech model: its latents, quantized vectors, codes and posteriors.

    Args:
        bundle: in evaluation mode, on ``device``.
        name: for tables.
        device: where the model is.
        max_frames: mel frames of a batch, padding included.
    """

    kinds: tuple[str, ...] = ("latents", "quantized", "codes", "posterior")

    def __init__(
        self,
        bundle: "SpeechBundle",
        name: str = "model",
        *,
        device: torch.device | str = "cpu",
        max_frames: int = MAX_FRAMES,
    ):
        self.bundle = bundle
        self.name = name
        self.device = device
        self.max_frames = max_frames
        self.codebook_size: int | None = bundle.model.codebook_size
        self.num_codebooks: int = bundle.model.num_codebooks
        self.description: dict[str, Any] = {
            "features": "model",
            "model": bundle.path,
            "step": bundle.step,
            "checkpoint": bundle.fingerprint,
            "mel_spec": bundle.mel_spec.name,
            "quantizer": bundle.config["quantizer"],
        }

    def frames(self, utterances: Iterable[UtteranceMel], kinds: Collection[str]) -> Iterator[FrameSequence]:
        """See :class:`FrameSource`; codes are always there.

        The posterior of N codebooks is their N posteriors side by side, each divided by N, so that rows sum to one
        and divergences are means over the codebooks.
        """
        for kind in kinds:
            check_kind(kind, self.kinds)
        model, spec = self.bundle.model, self.bundle.mel_spec
        start, end = UnitTiming(spec).span(0)
        first, step = (start + end) / 2 / spec.sample_rate, (end - start) / spec.sample_rate

        def encode(batch: MelBatch) -> list[tuple[np.ndarray, dict[str, np.ndarray]]]:
            z, log_var = model.latents(batch.mel, batch.lengths)
            indices = model.choose(z, log_var, batch.mel, batch.lengths)
            arrays = {"indices": indices}
            if "latents" in kinds:
                arrays["latents"] = z
            if "quantized" in kinds:
                arrays["quantized"] = model.quantizer.decode(indices)
            if "posterior" in kinds:
                arrays["posterior"] = model.quantizer.posterior(z, log_var).flatten(2) / self.num_codebooks
            rows = {name: values.cpu().numpy() for name, values in arrays.items()}
            results = []
            for row, length in enumerate(model.num_units(batch.lengths).tolist()):
                own = {name: values[row, :length].copy() for name, values in rows.items()}
                codes = codes_of(own.pop("indices"))
                results.append((codes, {name: values.astype(np.float32) for name, values in own.items()}))
            return results

        with torch.no_grad():
            found = in_order(
                utterances, encode, max_frames=self.max_frames, min_frames=min_frames(model), device=self.device
            )
            for utterance, result in found:
                if result is not None:
                    codes, features = result
                    yield sequence_of(utterance, duration(utterance, spec), first, step, features, codes)


def duration(utterance: UtteranceMel, spec: MelSpec) -> float:
    """Seconds of an utterance, as :func:`sqvae_speech.units.statistics.unit_statistics` counts them."""
    return utterance.mel.shape[1] * spec.hop_length / spec.sample_rate
