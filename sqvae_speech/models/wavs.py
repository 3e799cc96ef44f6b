"""From wavs to what the network says of them, whole and in batches or in pieces."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sqvae_speech.audio.logmel import LogMel
from sqvae_speech.audio.sources import WavSource
from sqvae_speech.audio.stream import measure_level
from sqvae_speech.audio.wav import resample
from sqvae_speech.models.speech import SpeechModel
from sqvae_speech.models.streaming import Reader, UnitStream, read_indices

LONG_SECONDS = 60.0  # longer wavs go alone, in pieces
BATCH_SECONDS = 160.0  # of a batch, padding included
LEAST_FILLED = 0.8  # of a batch's width, on a CPU: there padding costs as much as speech, and batches gain little
WINDOW_BATCHES = 8  # batches' worth of wavs that are read ahead and sorted by length


class Read(NamedTuple):
    """What was read off one wav: ``values`` (u, ...), its samples at the model's rate, its peak."""

    values: Tensor
    num_samples: int
    peak: float


class WavReader:
    """Runs a network over wavs of any rates and lengths, in batches of similar lengths, long ones in pieces.

    Memory is bounded whatever the number of wavs and the length of recordings.

    Args:
        model: in evaluation mode.
        logmel: its features, on the same device.
    """

    def __init__(self, model: SpeechModel, logmel: LogMel):
        self._model = model
        self._logmel = logmel
        self._spec = logmel.spec

    @property
    def _device(self) -> torch.device:
        return self._logmel.window.device

    @torch.no_grad()
    def read(self, sources: Sequence[WavSource], reader: Reader) -> list[Read]:
        """Run the network over wavs; results in their order. :class:`UserError` for a wav that cannot be read."""
        results: dict[int, Read] = {}
        window: list[tuple[int, Tensor]] = []
        held = 0.0
        # the variance of type II is a mean over the utterance: its posterior, not its units, needs all of it at once
        whole = reader is not read_indices and self._model.quantizer.log_var_per_example
        for number, source in enumerate(sources):
            if source.seconds > LONG_SECONDS and not whole:
                results[number] = self._read_long(source, reader)
                continue
            wav = source.whole()
            if source.sample_rate != self._spec.sample_rate:
                wav = resample(wav, source.sample_rate, self._spec.sample_rate)
            window.append((number, torch.from_numpy(wav)))
            held += source.seconds
            if held >= WINDOW_BATCHES * BATCH_SECONDS:
                self._read_window(window, results, reader)
                window, held = [], 0.0
        self._read_window(window, results, reader)
        return [results[number] for number in range(len(sources))]

    def _read_window(self, window: list[tuple[int, Tensor]], results: dict[int, Read], reader: Reader) -> None:
        queue = sorted(window, key=lambda item: (-len(item[1]), item[0]))
        while queue:
            longest = len(queue[0][1])
            size = max(1, int(BATCH_SECONDS * self._spec.sample_rate) // longest)
            if self._device.type == "cpu":
                size = min(size, sum(len(wav) >= LEAST_FILLED * longest for _, wav in queue))
            members, queue = queue[:size], queue[size:]
            long_enough = [item for item in members if self._num_units(len(item[1]))]
            values = dict(
                zip((number for number, _ in long_enough), self._read_batch(long_enough, reader), strict=True)
            )
            for number, wav in members:
                found = values[number] if number in values else self._nothing(reader)
                results[number] = Read(found, len(wav), float(wav.abs().max()))

    def _read_batch(self, members: Sequence[tuple[int, Tensor]], reader: Reader) -> list[Tensor]:
        if not members:
            return []
        wavs = [wav for _, wav in members]
        sizes = torch.tensor([len(wav) for wav in wavs], device=self._device)
        mel, frames, _ = self._logmel(pad_sequence(wavs, batch_first=True).to(self._device), sizes)
        alike = bool((frames == frames[0]).all())
        real = None if alike else frames
        values = reader(self._model, *self._model.latents(mel, real), mel, real, 0)
        return [row[: self._num_units(len(wav))] for row, wav in zip(values, wavs, strict=True)]

    def _read_long(self, source: WavSource, reader: Reader) -> Read:
        spec, level = self._spec, None
        if spec.peak is not None or spec.dynamic_range is not None:
            level = measure_level(self._logmel, source.sample_rate, source.blocks())
        stream = UnitStream(self._model, self._logmel, source.sample_rate, level, reader)
        parts = [stream.push(block) for block in source.blocks()]
        parts.append(stream.finish())
        return Read(torch.cat([part for part in parts if len(part)]), stream.num_samples, stream.level.peak)

    def _num_units(self, num_samples: int) -> int:
        return max(0, self._model.num_units(self._spec.num_frames(num_samples)))

    def _nothing(self, reader: Reader) -> Tensor:
        """What a reader would give of a wav without units: (0, ...)."""
        one_unit = torch.zeros(1, self._spec.n_mels, 4, device=self._device)
        return reader(self._model, *self._model.latents(one_unit), one_unit, None, 0)[0, :0]
