"""A trained speech model on disk, see :mod:`sqvae_speech.models.storage`."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.config import from_dict, to_dict
from sqvae_speech.errors import UserError
from sqvae_speech.models.decoders import SpeakerVectors
from sqvae_speech.models.speech import SpeechModel, SpeechModelConfig
from sqvae_speech.models.storage import open_model, save_model, stored_weights


@dataclass(frozen=True)
class SpeechBundle:
    """A model with what it was trained for.

    Attributes:
        model: in evaluation mode when it was loaded.
        mel_spec: the log-mel that it reads and writes.
        speakers: names in the order of the embedding table.
        step: optimiser steps it was trained for.
        fingerprint: SHA-256 of the weights, "" for a model that was never saved.
        path: where it was loaded from, for messages.
    """

    model: SpeechModel
    mel_spec: MelSpec
    speakers: tuple[str, ...]
    step: int = 0
    fingerprint: str = ""
    path: str = ""

    @property
    def config(self) -> dict[str, Any]:
        return to_dict(self.model.config)

    @property
    def frame_rate(self) -> float:
        """Units a second."""
        return self.mel_spec.frame_rate / self.model.frames_per_unit

    def rounded(self, weights: str) -> "SpeechBundle":
        """As it is when it has been saved in ``weights``, see :func:`save_speech_model`, and loaded again."""
        model = copy.deepcopy(self.model)
        model.load_state_dict(stored_weights(self.model, weights))
        return replace(self, model=model, fingerprint="")

    @property
    def voice_vector_dim(self) -> int:
        """V of the vectors that say to the decoder whose voice it is.

        Raises:
            UserError: the model knows voices by name only.
        """
        if self.model.config.speaker != "vector":
            raise UserError("this model knows voices by name only; vectors are for one with model.speaker vector")
        return self.model.config.speaker_vector_dim

    def with_voices(self, vectors: Mapping[str, NDArray[np.float32]]) -> "SpeechBundle":
        """The same weights with more speakers to decode as, by vectors of whoever it is.

        Args:
            vectors: (:attr:`voice_vector_dim`,) float32 by name, of the model that made those of training.

        Raises:
            UserError: the model knows voices by name only, or a name was trained already.
        """
        wanted = (self.voice_vector_dim,)
        for name, vector in vectors.items():
            if vector.shape != wanted:
                raise UserError(f"the vector of {name!r} is {vector.shape}; {wanted} is wanted")
        if known := sorted(vectors.keys() & set(self.speakers)):
            raise UserError(f"speaker {known[0]!r} was trained already; give the vector another name")
        model = copy.deepcopy(self.model)
        table = model.decoder.speaker_embedding
        assert isinstance(table, SpeakerVectors)
        rows = torch.as_tensor(np.stack(list(vectors.values())), device=table.vectors.device)
        table.vectors = torch.cat([table.vectors, rows.to(table.vectors.dtype)])
        return replace(self, model=model, speakers=(*self.speakers, *vectors))


def save_speech_model(directory: Path, bundle: SpeechBundle, weights: str = "float32") -> None:
    """Write ``config.json`` and ``model.safetensors`` into ``directory``, see :func:`.storage.save_model`."""
    facts = {"mel_spec": bundle.mel_spec.to_dict(), "speakers": list(bundle.speakers), "model": bundle.config}
    save_model(directory, "speech", bundle.model, bundle.step, facts, weights)


def load_speech_model(path: str | Path, device: str = "cpu") -> SpeechBundle:
    """Load a trained model for inference.

    Args:
        path: an experiment folder (its ``best`` checkpoint, else the ``latest``), a checkpoint folder, or an
            exported model.
        device: a torch device.

    Raises:
        UserError: nothing there, a damaged file, weights that do not fit their configuration.
    """
    stored = open_model(path, "speech")
    config = from_dict(SpeechModelConfig, stored["model"], stored.source)
    mel_spec, speakers = MelSpec.from_dict(stored["mel_spec"]), tuple(stored["speakers"])
    model = SpeechModel(config, mel_spec.n_mels, len(speakers)).to(device)
    fingerprint = stored.load_weights(model)
    return SpeechBundle(model.eval(), mel_spec, speakers, int(stored["step"]), fingerprint, str(stored.directory))
