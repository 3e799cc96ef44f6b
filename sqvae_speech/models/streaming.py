"""Units of a wav that comes in pieces: a live stream, or a recording too long to be held at once."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from sqvae_speech.audio.logmel import LogMel
from sqvae_speech.audio.stream import Level, MelFrames, MelStream
from sqvae_speech.models.inference import InferenceEncoder, InferenceModel
from sqvae_speech.models.row_convolution import RowConvolution
from sqvae_speech.models.speech import SpeechModel

_UNITS_AT_ONCE = 2048  # in one pass of the network: 41 s at 50 units a second

# What to read off latents, with the arguments of SpeechModel.choose.
Reader = Callable[[SpeechModel, Tensor, Tensor | None, Tensor, Tensor | None, int], Tensor]


def read_indices(
    model: SpeechModel, z: Tensor, log_var: Tensor | None, mel: Tensor, lengths: Tensor | None, first: int
) -> Tensor:
    """Latents (B, U, D) -> (B, U) int64, or (B, U, N)."""
    return model.choose(z, log_var, mel, lengths, first)


def read_posterior(
    model: SpeechModel, z: Tensor, log_var: Tensor | None, mel: Tensor, lengths: Tensor | None, first: int
) -> Tensor:
    """Latents (B, U, D) -> (B, U, K), or (B, U, N, K)."""
    return model.quantizer.posterior(z, log_var)


def read_near_ties(
    model: SpeechModel, z: Tensor, log_var: Tensor | None, mel: Tensor, lengths: Tensor | None, first: int
) -> Tensor:
    """Latents (B, U, D) -> (B, U) bool, which units a rounding error of float32 could change."""
    assert isinstance(model, InferenceModel)
    if log_var is not None:  # of one an utterance too
        log_var = log_var.expand(*z.shape[:2], -1)
    rows = z.flatten(0, 1)[:, None], None if log_var is None else log_var.flatten(0, 1)[:, None]
    return model.changes(model.quantizer.encode(*rows), *rows).view(z.shape[:2])


class EncoderStream:
    """The encoder over mel frames that come in pieces: every frame goes through every layer once.

    Args:
        encoder: with its batch normalisations folded in.
    """

    def __init__(self, encoder: InferenceEncoder):
        self.dtype = encoder.dtype
        self._layers = encoder.convolutions
        self._kept = [self._zeros(layer, 0) for layer in self._layers]  # rows that the next outputs need too

    def start(self, *, at_beginning: bool) -> None:
        """Begin with frame 0 of the wav, or in its midst with frame 2s: the first unit is then s + 3."""
        self._kept = [self._zeros(layer, layer.padding if at_beginning else 0) for layer in self._layers]

    def push(self, frames: Tensor, *, last: bool = False) -> Tensor:
        """(F, n_mels) float32, F even -> the head of the units that they complete, (u, channels) float32.

        Args:
            frames: the next ones.
            last: the wav ends with them.
        """
        x = frames.to(self.dtype)
        for number, layer in enumerate(self._layers):
            ending = [self._zeros(layer, layer.padding)] if last else []
            rows = torch.cat([self._kept[number], x, *ending])
            self._kept[number] = rows[layer.num_outputs(len(rows)) * layer.stride :].clone()
            x = layer(rows)
        return x.float()

    @staticmethod
    def _zeros(layer: RowConvolution, rows: int) -> Tensor:
        return layer.weight.new_zeros(rows, layer.in_channels)


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
        read: what to read off the latents.

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
        folded = isinstance(model.encoder, InferenceEncoder)
        self._encoder = EncoderStream(model.encoder if folded else InferenceEncoder(model.encoder))  # type: ignore
        self._before, self._after = InferenceEncoder.receptive_frames
        spec = logmel.spec
        self._relative = spec.peak is not None or spec.dynamic_range is not None
        self._first = 0  # number of the first frame kept
        self._mel = logmel.window.new_zeros(spec.n_mels, 0)
        self._levels = logmel.window.new_zeros(2, 0)  # peak and loudest at each frame kept
        self._level: Level | None = None  # with which the encoder was fed
        self._fed = 0  # frames of the wav that it has seen

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
        return self._tell(max(0, (self._num_frames - self._after - 1) // 2 + 1), ended=False)

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
            last = ended and self._frames_of(end) > self._num_frames
            end = stop if last else end  # the units that reach over the end come together; their level is the same
            parts.append(self._encode(end, level, last))
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
        last = (2 * units + self._after).clamp(max=self._num_frames - 1)
        levels = self._levels[:, last - self._first]
        changed = (levels != levels[:, :1]).any(dim=0).nonzero()
        end = self.num_units + (int(changed[0]) if len(changed) else len(units))
        return end, Level(*levels[:, 0].tolist())

    def _encode(self, stop: int, level: Level, last: bool) -> Tensor:
        """The units from the next one to ``stop``; the encoder is fed anew when the level has changed."""
        skip, start = 0, self._context_start(self.num_units)
        if level != self._level:
            self._encoder.start(at_beginning=start == 0)
            self._level, self._fed = level, 2 * start
            skip = self.num_units if start == 0 else 0
        frames = self._num_frames - self._num_frames % 2 if last else self._frames_of(stop)
        spec = self._logmel.spec
        gain = spec.peak / level.peak if spec.peak is not None and level.peak > 0 else 1.0
        linear = self._mel[None, :, 2 * start - self._first : frames - self._first] * gain**spec.power
        mel = self._logmel.log(linear, linear.new_tensor([level.loudest * gain**spec.power])).float()
        head = self._encoder.push(mel[0, :, self._fed - 2 * start :].T, last=last)[skip:]
        self._fed = frames
        assert len(head) == stop - self.num_units
        latents = self._model.split_head(head[None])
        return self._read(self._model, *latents, mel, None, self.num_units - start)[0]

    def _frames_of(self, stop: int) -> int:
        """How many frames the units before ``stop`` are computed from."""
        return 2 * (stop - 1) + self._after + 1

    def _context_start(self, unit: int) -> int:
        """The unit that begins with the first frame of a unit's receptive field."""
        return max(0, unit + self._before // 2)
