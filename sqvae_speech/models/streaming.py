"""Units of a wav that comes in pieces: a live stream, or a recording too long to be held at once."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from sqvae_speech.audio.logmel import LogMel
from sqvae_speech.audio.stream import Level, MelFrames, MelStream
from sqvae_speech.models.speech import SpeechModel

_UNITS_AT_ONCE = 4096  # in one pass of the network: 82 s at 50 units a second

Reader = Callable[[SpeechModel, Tensor, Tensor | None], Tensor]


def read_indices(model: SpeechModel, mel: Tensor, lengths: Tensor | None = None) -> Tensor:
    """(B, n_mels, T) -> (B, U) int64, or (B, U, N)."""
    return model.encode(mel, lengths).indices


def read_posterior(model: SpeechModel, mel: Tensor, lengths: Tensor | None = None) -> Tensor:
    """(B, n_mels, T) -> (B, U, K), or (B, U, N, K)."""
    return model.posterior(mel, lengths)


class UnitStream:
    """Push samples, get units, each as soon as the samples of its receptive field are there.

    How the samples are cut into pieces changes no unit. With a ``level``, or a spec that needs none, the units are
    those of the whole wav encoded at once. Without, a unit is told with the running level: the peak and the loudest
    mel value of the wav up to the end of its receptive field. It is then the offline unit once the loudest moment of
    the wav has passed, and may differ before: quiet beginnings look louder than they will turn out to be.

    Args:
        model: in evaluation mode.
        logmel: its features, on the same device.
        sample_rate: Hz of what is pushed; resampled to the model's.
        level: of the whole wav; None takes the running one.
        read: what to read off the network.

    Attributes:
        num_units: told so far.
    """

    def __init__(
        self,
        model: SpeechModel,
        logmel: LogMel,
        sample_rate: int,
        level: Level | None = None,
        read: Reader = read_indices,
    ):
        self.num_units = 0
        self._model = model
        self._logmel = logmel
        self._fixed = level
        self._read = read
        self._mels = MelStream(logmel, sample_rate)
        spec = logmel.spec
        self._relative = spec.peak is not None or spec.dynamic_range is not None
        self._first = 0  # number of the first frame kept
        self._mel = logmel.window.new_zeros(spec.n_mels, 0)
        self._levels = logmel.window.new_zeros(2, 0)  # peak and loudest at each frame kept

    @property
    def level(self) -> Level:
        """Of what was pushed so far."""
        return self._mels.level

    @property
    def num_samples(self) -> int:
        """Samples pushed so far, at the model's rate."""
        return self._mels.num_samples

    def push(self, wav: np.ndarray | Tensor) -> Tensor:
        """Give (n,) samples; get the units that they complete, (u,) int64, or (u, N) of N codebooks.

        Raises:
            UserError: NaN or infinite samples.
        """
        self._keep(self._mels.push(wav))
        lookahead = self._model.encoder.receptive_frames[1] + 1
        return self._tell(max(0, (self._num_frames - lookahead) // 2 + 1), ended=False)

    def finish(self) -> Tensor:
        """The wav ends here: get the units that reach over its end."""
        self._keep(self._mels.finish())
        return self._tell(max(0, self._model.num_units(self._num_frames)), ended=True)

    @property
    def _num_frames(self) -> int:
        return self._first + self._mel.shape[1]

    def _keep(self, frames: MelFrames) -> None:
        if not frames.mel.shape[1]:
            return
        before = self._levels[1, -1] if self._levels.shape[1] else 0.0
        loudest = frames.mel.amax(dim=0).cummax(dim=0).values.clamp(min=before)
        self._mel = torch.cat([self._mel, frames.mel], dim=1)
        self._levels = torch.cat([self._levels, torch.stack([frames.peak, loudest])], dim=1)

    def _tell(self, stop: int, ended: bool) -> Tensor:
        """The units up to ``stop``; forget the frames that no later unit needs."""
        parts = []
        while self.num_units < stop:
            end, level = self._same_level(min(stop, self.num_units + _UNITS_AT_ONCE))
            parts.append(self._stretch(self.num_units, end, level, ended))
            self.num_units = end
        unneeded = 2 * self._context_start(self.num_units) - self._first
        if unneeded > 0:
            self._mel = self._mel[:, unneeded:].clone()
            self._levels = self._levels[:, unneeded:].clone()
            self._first += unneeded
        if not parts:
            books = (self._model.num_codebooks,) if self._model.quantizer.composed else ()
            return torch.zeros(0, *books, dtype=torch.int64, device=self._mel.device)
        return torch.cat(parts)

    def _same_level(self, stop: int) -> tuple[int, Level]:
        """How far from the next unit on, at most to ``stop``, the level is the same, and which."""
        if self._fixed is not None or not self._relative:
            return stop, self._fixed or Level(1.0, 1.0)
        units = torch.arange(self.num_units, stop, device=self._levels.device)
        last = (2 * units + self._model.encoder.receptive_frames[1]).clamp(max=self._num_frames - 1)
        levels = self._levels[:, last - self._first]
        changed = (levels != levels[:, :1]).any(dim=0).nonzero()
        end = self.num_units + (int(changed[0]) if len(changed) else len(units))
        return end, Level(*levels[:, 0].tolist())

    def _stretch(self, start: int, stop: int, level: Level, ended: bool) -> Tensor:
        """The units from ``start`` to ``stop``, from just the frames that they need.

        A stretch begins at an even frame, as the convolution of stride 2 does. Its outermost units see the edge of
        the stretch where the whole has more frames: they are read off and left out.
        """
        context = self._context_start(start)
        frames = 2 * stop + self._model.encoder.receptive_frames[1] - 1
        if ended:
            frames = min(frames, self._num_frames - self._num_frames % 2)
        spec = self._logmel.spec
        gain = spec.peak / level.peak if spec.peak is not None and level.peak > 0 else 1.0
        mel = self._mel[None, :, 2 * context - self._first : frames - self._first] * gain**spec.power
        loudest = mel.new_tensor([level.loudest * gain**spec.power])
        out = self._read(self._model, self._logmel.log(mel, loudest).float(), None)[0]
        return out[start - context : stop - context]

    def _context_start(self, unit: int) -> int:
        """The unit that begins with the first frame of a unit's receptive field."""
        return max(0, unit + self._model.encoder.receptive_frames[0] // 2)
