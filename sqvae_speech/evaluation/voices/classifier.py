"""A small classifier of recordings by their log-mels: who speaks, or which word is said. Trained here, in seconds.

It judges synthetic speech by what it has learnt from real recordings, and its embedding measures how alike two voices
are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from sqvae_speech.data.reader import pad
from sqvae_speech.errors import UserError

_SCALE = 16.0  # of the cosines: logits range over +-16, enough for a sharp softmax of some hundred classes
_DECIBEL = 20.0  # what is one unit inside: about the standard deviation of a log-mel in dB
_WIDEST_MASK = 12  # mel bands
_NOISE = 1.0  # dB
_TILT = 6.0  # dB by which a noise floor rises or falls towards either end


@dataclass(frozen=True)
class ClassifierConfig:
    """Size and training of a :class:`MelClassifier`.

    Attributes:
        channels: of the convolutions.
        dim: of the embedding.
        dilations: of the convolutions, which are 5 frames wide each; (1, 2, 4) see 29 frames.
        floor: dB below the loudest band, from and to, of a steady noise that examples get; None: of none. It hides
            what lies between the words: who speaks has to be told from speech, not from a room or a microphone, which
            no vocoder brings back.
        steps: of AdamW, with one cycle of the learning rate.
        batch_size: examples a step.
        crop: frames of an example at least and at most: a random stretch of it, of a random length; None: all of it.
        learning_rate: the largest.
        dropout: of the pooled features.
        seed: of weights, batches and augmentation.
    """

    channels: int = 64
    dim: int = 64
    dilations: tuple[int, ...] = (1, 2, 4)
    steps: int = 600
    batch_size: int = 32
    crop: tuple[int, int] | None = (40, 150)
    floor: tuple[float, float] | None = (20.0, 60.0)
    learning_rate: float = 3e-3
    dropout: float = 0.2
    seed: int = 0


class MelClassifier(nn.Module):
    """Dilated convolutions over time, mean and maximum over the utterance, an embedding of unit length, cosines.

    The score of a class is 16 times the cosine between the embedding and the class' own direction, so that cosines
    between embeddings mean what they were trained for. Each frame is normalised alone and padding is kept at zero: an
    utterance gets the same embedding alone and in any batch. The mean of the whole log-mel is taken off first:
    loudness says nothing.

    Args:
        n_mels: bands of the log-mel, in dB.
        num_classes: how many.
        config: sizes.
    """

    def __init__(self, n_mels: int, num_classes: int, config: ClassifierConfig):
        super().__init__()
        widths = [n_mels] + [config.channels] * len(config.dilations)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(width, config.channels, 5, padding=2 * dilation, dilation=dilation)
            for width, dilation in zip(widths, config.dilations, strict=False)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(config.channels) for _ in config.dilations)
        self.dropout = nn.Dropout(config.dropout)
        self.embedding = nn.Linear(2 * config.channels, config.dim)
        self.classes = nn.Parameter(torch.randn(num_classes, config.dim))

    def embed(self, mel: Tensor, lengths: Tensor) -> Tensor:
        """Embed utterances.

        Args:
            mel: (B, n_mels, T) float32, dB.
            lengths: (B,) int64 real frames.

        Returns:
            (B, dim) float32 of unit length.
        """
        real = (torch.arange(mel.shape[2], device=mel.device) < lengths[:, None])[:, None]
        count = lengths[:, None, None].to(mel.dtype)
        mean = mel.masked_fill(~real, 0.0).sum(dim=(1, 2), keepdim=True) / (count * mel.shape[1])
        x = ((mel - mean) / _DECIBEL).masked_fill(~real, 0.0)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = F.gelu(norm(convolution(x).transpose(1, 2)).transpose(1, 2)).masked_fill(~real, 0.0)
        largest = x.masked_fill(~real, -torch.inf).amax(dim=2)
        pooled = torch.cat([x.sum(dim=2) / count[:, 0], largest], dim=1)
        return F.normalize(self.embedding(self.dropout(pooled)), dim=1)

    def forward(self, mel: Tensor, lengths: Tensor) -> Tensor:
        """(B, num_classes) logits; arguments as :meth:`embed`."""
        return _SCALE * self.embed(mel, lengths) @ F.normalize(self.classes, dim=1).T


class TrainedClassifier:
    """A classifier that has learnt: log-mels to labels and embeddings, one at a time.

    Args:
        network: in evaluation mode.
        labels: in the order of its classes.

    Attributes:
        labels: see above.
    """

    def __init__(self, network: MelClassifier, labels: Sequence[str]):
        self._network = network
        self.labels = tuple(labels)

    @torch.no_grad()
    def embed(self, mel: NDArray[np.floating]) -> NDArray[np.float64]:
        """(n_mels, T) dB -> (dim,) float64 of unit length."""
        batch = torch.as_tensor(np.asarray(mel, dtype=np.float32))[None]
        return self._network.embed(batch, torch.tensor([mel.shape[1]]))[0].double().numpy()

    @torch.no_grad()
    def classify(self, mel: NDArray[np.floating]) -> str:
        """(n_mels, T) dB -> the most probable label."""
        batch = torch.as_tensor(np.asarray(mel, dtype=np.float32))[None]
        return self.labels[int(self._network(batch, torch.tensor([mel.shape[1]]))[0].argmax())]


def train_classifier(
    mels: Sequence[NDArray[np.floating]],
    labels: Sequence[str],
    config: ClassifierConfig | None = None,
    *,
    progress: str | None = None,
) -> TrainedClassifier:
    """Train on real recordings.

    Against learning by heart, every example of every step loses a band of up to 12 mels and gets 1 dB of noise.
    The same examples and settings give the same classifier on the same machine; the caller's random state is
    untouched.

    Args:
        mels: (n_mels, T) each, dB.
        labels: of each.
        config: sizes and training.
        progress: title of a progress bar; None shows none.

    Raises:
        UserError: no examples, or of one label only.
    """
    config = config or ClassifierConfig()
    names = sorted(set(labels))
    if len(names) < 2:
        raise UserError(f"a classifier needs examples of two labels or more; there are {len(names)} ({names})")
    targets = torch.tensor([names.index(label) for label in labels])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        rng = np.random.default_rng(config.seed)
        network = MelClassifier(mels[0].shape[0], len(names), config)
        optimizer = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, config.learning_rate, total_steps=config.steps, pct_start=0.1
        )
        for _ in tqdm(range(config.steps), desc=progress, disable=progress is None):
            chosen = rng.integers(len(mels), size=config.batch_size)
            batch = pad([_augmented(mels[number], config, rng) for number in chosen])
            loss = F.cross_entropy(network(batch["mel"], batch["lengths"]), targets[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return TrainedClassifier(network.eval(), names)


def _augmented(mel: NDArray[np.floating], config: ClassifierConfig, rng: np.random.Generator) -> NDArray[np.float32]:
    """A stretch of a log-mel, (n_mels, frames), with a band at the mean and noise."""
    frames = mel.shape[1]
    if config.crop is not None:
        frames = min(frames, int(rng.integers(config.crop[0], config.crop[1] + 1)))
    start = int(rng.integers(mel.shape[1] - frames + 1))
    part = np.array(mel[:, start : start + frames], dtype=np.float32)
    part += _NOISE * rng.standard_normal(part.shape, dtype=np.float32)
    width = int(rng.integers(min(_WIDEST_MASK, mel.shape[0] // 2) + 1))
    low = int(rng.integers(mel.shape[0] - width + 1))
    part[low : low + width] = part.mean()
    if config.floor is None:
        return part
    tilt = rng.uniform(-_TILT, _TILT) * np.linspace(-1.0, 1.0, len(part))
    noise = np.max(part) - rng.uniform(*config.floor) + tilt[:, None]
    return (20.0 * np.log10(10.0 ** (part / 20.0) + 10.0 ** (noise / 20.0))).astype(np.float32)
