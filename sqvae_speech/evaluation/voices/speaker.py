"""How alike two voices are: cosine of embeddings, by a network that is trained here or by any given one."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from sqvae_speech.audio.wav import resample
from sqvae_speech.errors import UserError
from sqvae_speech.evaluation.voices.cepstra import voice_mel
from sqvae_speech.evaluation.voices.classifier import ClassifierConfig, TrainedClassifier, train_classifier

_GIVEN_RATE = 16_000  # Hz of what a given network is called with


class SpeakerEmbedder(Protocol):
    """Gives a voice its place.

    Attributes:
        name: for reports.
    """

    name: str

    def embed(self, wav: NDArray[np.floating], sample_rate: int) -> NDArray[np.float64]:
        """(samples,) floating point at ``sample_rate`` Hz -> (D,) float64 of unit length."""
        ...


class TrainedEmbedder:
    """The project's own: a :mod:`~sqvae_speech.evaluation.voices.classifier` of speakers.

    Args:
        classifier: trained on log-mels of :func:`~sqvae_speech.evaluation.voices.cepstra.voice_mel`.
    """

    name = "classifier of speakers, trained here"

    def __init__(self, classifier: TrainedClassifier):
        self.classifier = classifier

    def embed(self, wav: NDArray[np.floating], sample_rate: int) -> NDArray[np.float64]:
        """See :class:`SpeakerEmbedder`."""
        return self.classifier.embed(voice_mel(wav, sample_rate))


class GivenEmbedder:
    """A network that somebody else trained.

    Args:
        model: called with (1, samples) float32 at 16 kHz, gives (1, D) or (D,).
        name: for messages and reports.
    """

    def __init__(self, model: Any, name: str):
        self._model = model
        self.name = name

    @torch.no_grad()
    def embed(self, wav: NDArray[np.floating], sample_rate: int) -> NDArray[np.float64]:
        """See :class:`SpeakerEmbedder`.

        Raises:
            UserError: the network gives something else than one vector.
        """
        samples = np.asarray(wav, dtype=np.float32)
        if sample_rate != _GIVEN_RATE:
            samples = resample(samples, sample_rate, _GIVEN_RATE)
        vector = self._model(torch.from_numpy(samples)[None])
        if not isinstance(vector, torch.Tensor) or vector.numel() != vector.shape[-1] or vector.numel() < 2:
            got = tuple(vector.shape) if isinstance(vector, torch.Tensor) else type(vector).__name__
            raise UserError(f"speaker model {self.name} gave {got} for one wav; a vector (1, D) is wanted")
        return unit(vector.reshape(-1).double().cpu().numpy())


def train_embedder(
    recordings: Iterable[tuple[str, NDArray[np.floating]]],
    config: ClassifierConfig | None = None,
    *,
    progress: bool = False,
) -> TrainedEmbedder:
    """Train the project's own on (speaker, log-mel by ``voice_mel``) of real recordings.

    Raises:
        UserError: fewer than two speakers.
    """
    pairs = list(recordings)
    title = "learn speakers" if progress else None
    mels, speakers = [mel for _, mel in pairs], [speaker for speaker, _ in pairs]
    return TrainedEmbedder(train_classifier(mels, speakers, config, progress=title))


def load_embedder(name: str) -> GivenEmbedder:
    """Load a network for speaker embeddings.

    Args:
        name: a TorchScript file, or ``hub:<repository or folder>:<entry>`` of torch.hub, whose code is run: name only
            one that you trust. Either is called with (1, samples) float32 at 16 kHz.

    Raises:
        UserError: no such file, a file that is no TorchScript, a repository or an entry that cannot be had.
    """
    if not name.startswith("hub:"):
        if not Path(name).is_file():
            raise UserError(f"speaker model {name}: no such file; a TorchScript file or hub:<repository>:<entry>")
        try:
            return GivenEmbedder(torch.jit.load(name, map_location="cpu").eval(), os.fspath(name))
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"speaker model {name} is not a TorchScript file ({reason})") from None
    repository, _, entry = name.removeprefix("hub:").rpartition(":")
    if not repository or not entry:
        raise UserError(f"speaker model {name!r} has to be hub:<owner/name or folder>:<entry>")
    local = Path(repository).expanduser().is_dir()
    source: dict[str, Any] = {"source": "local"} if local else {"source": "github", "trust_repo": True}
    try:
        model = torch.hub.load(str(Path(repository).expanduser()) if local else repository, entry, **source)
    except Exception as error:  # no network, no entry, a missing package, or whatever the repository stumbles over
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"speaker model {name!r} cannot be had ({reason}); load it once with a network, give a folder, or leave "
            "--speaker-model out to train one here"
        ) from error
    return GivenEmbedder(model.eval() if isinstance(model, torch.nn.Module) else model, name)


def unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale to unit length; zeros stay zeros."""
    return vector / (float(np.linalg.norm(vector)) or 1.0)


def centroids(embeddings: Mapping[str, Sequence[NDArray[np.float64]]]) -> dict[str, NDArray[np.float64]]:
    """Speaker -> the direction of the mean of its embeddings."""
    return {speaker: unit(np.mean(np.stack(vectors), axis=0)) for speaker, vectors in embeddings.items()}


def nearest_speaker(embedding: NDArray[np.float64], voices: Mapping[str, NDArray[np.float64]]) -> str:
    """The speaker whose centroid has the largest cosine with an embedding."""
    return max(voices, key=lambda speaker: float(embedding @ voices[speaker]))
