"""``SpeechTokenizer``: speech to discrete units and back, the object a downstream user holds."""

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sqvae_speech.audio.logmel import LogMel
from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.audio.sources import Wav, WavLike, checked_samples, wav_sources
from sqvae_speech.audio.stream import Level, measure_level
from sqvae_speech.audio.vocoder import Vocoder
from sqvae_speech.errors import UserError, nearest
from sqvae_speech.models.exporting import export_compiled, export_onnx
from sqvae_speech.models.hub import set_download_progress
from sqvae_speech.models.inference import UnitTiming, for_inference
from sqvae_speech.models.pretrained import SpeechBundle
from sqvae_speech.models.results import Mel, Posterior, Speech, Units, padded
from sqvae_speech.models.sharing import SharedModel
from sqvae_speech.models.speech import SpeechModel, SpeechModelConfig
from sqvae_speech.models.streaming import UnitStream, read_indices, read_near_ties, read_posterior
from sqvae_speech.models.vocoders import load_vocoder
from sqvae_speech.models.wavs import WavReader
from sqvae_speech.units.batches import choose_device
from sqvae_speech.units.convert_voice import speaker_index
from sqvae_speech.units.extract import codes_of

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
Voices = str | Sequence[str] | Tensor | np.ndarray
BUNDLED = Path(__file__).parent / "pretrained" / "mini"


class SpeechTokenizer(SharedModel):
    """A trained model with its features: wav to units, units to wav.

    Units of an utterance do not depend on what is encoded with it: alone, in any batch, from memory, from a file or
    in a stream with its level known they are the same; where float32 rounding, which differs between batches of other
    shapes, could choose between two codes, float64 decides (:class:`~sqvae_speech.models.inference.InferenceModel`).

    Args:
        bundle: the model.
        device: ``auto`` (a GPU when there is one) or any torch device.
        dtype: of the encoder's convolutions: ``float32``, or ``bfloat16`` or ``float16``, which are faster on some
            devices and change some units, also with company. Quantizer and decoder are not affected; features are
            then computed in float32 where that is closer than the convolutions are (``sqvae16k``).

    Attributes:
        bundle: the model as it was trained, with what it was trained for.
        network: the model as it encodes here.
        logmel: the features.
        timing: which samples a unit is about.
        device, dtype: see above.

    Raises:
        UserError: no such device or dtype.
    """

    def __init__(self, bundle: SpeechBundle, *, device: str = "cpu", dtype: str | torch.dtype = "float32"):
        name = str(dtype).removeprefix("torch.")
        if name not in DTYPES:
            raise UserError(f"dtype {name!r}{nearest(name, DTYPES)}; legal: {', '.join(DTYPES)}")
        self.device = choose_device(device)
        self.dtype = DTYPES[name]
        self.bundle = replace(bundle, model=bundle.model.to(self.device).eval())
        self.timing = UnitTiming(bundle.mel_spec)
        single = self.dtype != torch.float32 and bundle.mel_spec.normalize
        single = single or self.device.type == "mps"  # which has no float64
        self.logmel = LogMel(bundle.mel_spec, torch.float32 if single else torch.float64).to(self.device)
        self.network = for_inference(self.bundle.model, self.dtype)
        self._wavs = WavReader(self.network, self.logmel)

    @property
    def mel_spec(self) -> MelSpec:
        """The features."""
        return self.bundle.mel_spec

    @property
    def sample_rate(self) -> int:
        """Hz of what is encoded and decoded; wavs of other rates are resampled."""
        return self.mel_spec.sample_rate

    @property
    def frame_rate(self) -> float:
        """Units a second."""
        return self.bundle.frame_rate

    @property
    def codebook_size(self) -> int:
        """K: codes are from 0 to K - 1."""
        return self.bundle.model.codebook_size

    @property
    def num_codebooks(self) -> int:
        """N: codes of a unit."""
        return self.bundle.model.num_codebooks

    @property
    def bitrate(self) -> float:
        """Bit/s at most: N log2 K a unit. ``sqvae-speech units stats`` measures what a corpus takes."""
        return self.num_codebooks * math.log2(self.codebook_size) * self.frame_rate

    @property
    def speakers(self) -> tuple[str, ...]:
        """The voices that it can decode to."""
        return self.bundle.speakers

    def __repr__(self) -> str:
        return (
            f"SpeechTokenizer({self.mel_spec.name}, {self.num_codebooks} x {self.codebook_size} codes, "
            f"{self.frame_rate:g} units/s, {len(self.speakers)} speakers, {self.device})"
        )

    def encode(
        self,
        wav: WavLike,
        sample_rate: int | None = None,
        *,
        lengths: Tensor | np.ndarray | Sequence[int] | None = None,
        channel: int | str | None = None,
    ) -> Units:
        """Units of one or many wavs, at any rate and of any lengths.

        Wavs are encoded in batches of similar lengths; those longer than a minute alone and in pieces, in memory
        that does not grow with their length when they are files.

        Args:
            wav: a path; (T,) or (B, T) floating point in [-1, 1], NumPy or torch; or a list of paths and of (T,).
            sample_rate: of arrays, Hz. Recordings have their own.
            lengths: (B,) real samples of a padded (B, T) wav.
            channel: of recordings with several: a number from 0, or ``"mix"``.

        Raises:
            UserError: what is given is not a wav, is empty, holds NaN, has several channels, or has no rate.
        """
        read = self._wavs.read(wav_sources(wav, sample_rate, lengths=lengths, channel=channel), read_indices)
        values = [codes_of(one.values) for one in read]
        return Units(
            codes=padded(values),
            lengths=torch.tensor([value.shape[1] for value in values], device=self.device),
            num_samples=torch.tensor([one.num_samples for one in read], device=self.device),
            peaks=torch.tensor([one.peak for one in read], dtype=torch.float32, device=self.device),
            timing=self.timing,
        )

    def posterior(
        self,
        wav: WavLike,
        sample_rate: int | None = None,
        *,
        lengths: Tensor | np.ndarray | Sequence[int] | None = None,
        channel: int | str | None = None,
    ) -> Posterior:
        """``q(k | z)`` of every unit: soft units, confidences. Arguments and errors as :meth:`encode`.

        A K-vector a unit: two hours at K = 512 take 0.7 GB.
        """
        read = self._wavs.read(wav_sources(wav, sample_rate, lengths=lengths, channel=channel), read_posterior)
        values = [one.values.transpose(0, 1) if one.values.dim() == 3 else one.values[None] for one in read]
        sizes = torch.tensor([value.shape[1] for value in values], device=self.device)
        return Posterior(padded(values), sizes)

    def near_ties(self, wav: WavLike, sample_rate: int | None = None, **options: Any) -> list[Tensor]:
        """Of which units two codes are as good as equal, (U,) bool of each wav: float32 rounding could change them.

        Other runtimes may choose the other one; :meth:`encode` decides in float64. Arguments as :meth:`encode`.
        """
        read = self._wavs.read(wav_sources(wav, sample_rate, **options), read_near_ties)
        return [one.values for one in read]

    def decode(
        self,
        units: Units | Tensor | np.ndarray,
        speaker: Voices,
        *,
        vocoder: str | Vocoder = "griffin_lim",
    ) -> Speech:
        """Say units in a voice.

        Args:
            units: of :meth:`encode`, or codes (B, N, T), or (N, T) of one utterance, integers.
            speaker: seen in training: one for all, or one for each. Of a model that was told voices by vectors
                (``model.speaker: vector``) also (V,) or (B, V) floating point, vectors of anybody.
            vocoder: how log-mels become sound: a name, or an object of the same ``mel_spec``.

        Raises:
            UserError: a speaker that was not trained, codes that are not this model's, an utterance without units, a
                vocoder for other features.
        """
        if isinstance(vocoder, str):
            vocoder = load_vocoder(vocoder, self.mel_spec)
        self.mel_spec.require_same(vocoder.mel_spec, "the tokenizer", "the vocoder")
        mel = self.decode_mel(units, speaker)
        peaks = units.peaks if isinstance(units, Units) else None
        wav = vocoder.vocode(mel.mel, peak=peaks, lengths=mel.lengths)
        samples = torch.tensor([self.mel_spec.num_samples(count) for count in mel.lengths.tolist()])
        return Speech(wav, samples.to(wav.device), self.sample_rate)

    @torch.no_grad()
    def decode_mel(self, units: Units | Tensor | np.ndarray, speaker: Voices) -> Mel:
        """The log-mel of units in a voice, two frames a unit: for a vocoder of your own. Errors as :meth:`decode`."""
        codes, lengths = self._checked_codes(units)
        voices = self._voices(speaker, len(codes))
        indices = codes.transpose(1, 2) if self.bundle.model.quantizer.composed else codes[:, 0]
        mel = self.bundle.model.decode(indices, voices, lengths)
        return Mel(mel, SpeechModel.frames_per_unit * lengths)

    def convert(
        self,
        wav: WavLike,
        speaker: Voices,
        sample_rate: int | None = None,
        *,
        channel: int | str | None = None,
        vocoder: str | Vocoder = "griffin_lim",
    ) -> Speech:
        """Say what a wav says in another voice: any source, the voices of decode. See encode and decode."""
        one = isinstance(speaker, str) or (isinstance(speaker, Tensor | np.ndarray) and speaker.ndim == 1)
        self._voices(speaker, 1 if one else len(speaker))  # before work is done
        return self.decode(self.encode(wav, sample_rate, channel=channel), speaker, vocoder=vocoder)

    def export_onnx(self, path: str | os.PathLike[str]) -> list[Path]:
        """Write wav-to-units as an ONNX file, see :func:`~sqvae_speech.models.exporting.export_onnx`.

        Raises:
            UserError: another suffix than ``.onnx``, or the packages of the extra ``onnx`` are not here.
        """
        return export_onnx(self.bundle, path)

    def export_compiled(self, path: str | os.PathLike[str]) -> list[Path]:
        """Compile wav-to-units into a ``.pt2``, see :func:`~sqvae_speech.models.exporting.export_compiled`.

        Raises:
            UserError: another suffix, or no C++ compiler.
        """
        return export_compiled(self.bundle, path)

    def level(self, wav: Wav, sample_rate: int | None = None, *, channel: int | str | None = None) -> Level:
        """The level of a whole wav, which a stream needs to give its offline units from the beginning on."""
        (source,) = wav_sources([wav], sample_rate, channel=channel)
        return measure_level(self.logmel, source.sample_rate, source.blocks())

    def stream(self, sample_rate: int, *, level: Level | None = None) -> "SpeechStream":
        """Units while the samples come: see :class:`SpeechStream`.

        Args:
            sample_rate: Hz of what will be pushed.
            level: of the whole wav, or of an earlier one through the same microphone (:meth:`level`). None: running.
                Only specs with ``peak`` or ``dynamic_range`` look at it.
        """
        return SpeechStream(self, UnitStream(self.network, self.logmel, sample_rate, level))

    def _voices(self, speaker: Voices, number: int) -> Tensor:
        """What the decoder is told of ``number`` voices: their places in its table, or vectors."""
        if isinstance(speaker, Tensor | np.ndarray):
            vectors = torch.as_tensor(speaker, device=self.device)
            dim = self.bundle.voice_vector_dim
            vectors = vectors.expand(number, -1) if vectors.dim() == 1 else vectors
            if vectors.shape != (number, dim) or not vectors.is_floating_point():
                raise UserError(
                    f"speaker vectors are {tuple(vectors.shape)} {vectors.dtype}; floating point "
                    f"({dim},) for all, or ({number}, {dim}), are wanted"
                )
            return vectors
        names = [speaker] * number if isinstance(speaker, str) else list(speaker)
        if len(names) != number:
            raise UserError(f"{len(names)} speakers for {number} utterances; give one for all, or one for each")
        return torch.tensor([speaker_index(self.speakers, name) for name in names], device=self.device)

    def _checked_codes(self, units: Units | Tensor | np.ndarray) -> tuple[Tensor, Tensor]:
        codes = units.codes if isinstance(units, Units) else torch.as_tensor(units)
        codes = codes[None] if codes.dim() == 2 else codes
        books, size = self.num_codebooks, self.codebook_size
        if codes.dim() != 3 or codes.shape[1] != books or codes.dtype.is_floating_point or codes.dtype == torch.bool:
            raise UserError(
                f"codes are {tuple(codes.shape)} {codes.dtype}; integers (batch, {books}, units) or ({books}, units) "
                "are wanted"
            )
        if 0 in codes.shape:
            raise UserError(f"codes are {tuple(codes.shape)}: there is nothing to say")
        if isinstance(units, Units):
            lengths = units.lengths.to(self.device)
        else:
            lengths = torch.full((len(codes),), codes.shape[2], device=self.device)
        if int(lengths.min()) < 1:
            empty = int(lengths.argmin())
            raise UserError(f"utterance {empty} of the batch has no units: there is nothing to say; leave it out")
        low, high = int(codes.min()), int(codes.max())
        if low < 0 or high >= size:
            raise UserError(
                f"code {low if low < 0 else high} is outside the codebook of {size} (0 to {size - 1}): these are "
                "units of another model"
            )
        return codes.to(self.device, torch.int64), lengths


class SpeechStream:
    """Push samples, get units: each is told as soon as the samples that it is computed from are there.

    That is :attr:`latency` seconds after the end of its nominal span (:class:`UnitTiming`), however the samples are
    cut into pieces; resampling, when the pushed rate is not the tokenizer's, adds its filter's delay and works in
    blocks, together up to 0.15 s.

    The units are the offline ones, those of :meth:`SpeechTokenizer.encode`, for a spec in which each frame stands
    alone (``melgan22k``, ``waveglow22k``, ``vocos24k``). ``sqvae16k`` scales a wav by its peak and counts its dynamic
    range from its loudest moment. With the ``level`` of the very wav the units are the offline ones too. With the
    running level they are so once the wav's loudest moment has passed; until then a unit is told at the level of the
    wav up to the end of its receptive field, and may differ: a quiet beginning is taken to be as loud as the rest.

    Made by :meth:`SpeechTokenizer.stream`.
    """

    def __init__(self, tokenizer: SpeechTokenizer, units: UnitStream):
        self.latency = tokenizer.timing.latency / tokenizer.sample_rate
        self._units = units
        self._finished = False

    @property
    def num_units(self) -> int:
        """Units told so far."""
        return self._units.num_units

    @property
    def level(self) -> Level:
        """Of what was pushed so far."""
        return self._units.level

    @torch.no_grad()
    def push(self, wav: np.ndarray | Tensor) -> Tensor:
        """Give (n,) samples, floating point in [-1, 1]; get (N, u) int64, the units that they complete.

        Raises:
            UserError: another rank or type, NaN or infinite samples, or the stream has ended.
        """
        if self._finished:
            raise UserError("this stream has ended (finish() was called); open another with tokenizer.stream()")
        if not isinstance(wav, np.ndarray | Tensor):
            raise UserError(f"samples are a {type(wav).__name__}; push an array or tensor, (samples,) floating point")
        return codes_of(self._units.push(checked_samples(wav, "what was pushed")))

    @torch.no_grad()
    def finish(self) -> Tensor:
        """The wav ends here: get the rest, (N, u) int64."""
        if self._finished:
            raise UserError("this stream has ended already; open another with tokenizer.stream()")
        self._finished = True
        return codes_of(self._units.finish())


def speech_tokenizer(
    pretrained: bool | str = True, progress: bool = True, map_location: str = "cpu", **options
) -> SpeechTokenizer:
    """A speech tokenizer for ``torch.hub.load``.

    Args:
        pretrained: True for the small tokenizer that comes with the project; a folder or a Hugging Face Hub id for
            another; False for an untrained network of the published sizes.
        progress: show the progress of a download.
        map_location: the device.
        options: more of :meth:`SpeechTokenizer.from_pretrained`, such as ``dtype``.

    Returns:
        A :class:`SpeechTokenizer`, in evaluation mode.

    Raises:
        UserError: there is no such tokenizer, or it cannot be had.
    """
    if pretrained is False:
        spec = MelSpec.preset("sqvae16k")
        model = SpeechModel(SpeechModelConfig(), spec.n_mels, num_speakers=1)
        return SpeechTokenizer(SpeechBundle(model, spec, ("untrained",)), device=map_location, **options)
    if pretrained is True:
        if not BUNDLED.is_dir():
            raise UserError(
                "this copy of sqvae_speech comes without its small tokenizer; name another, pretrained='exp/NAME' or "
                "pretrained='OWNER/NAME' of the Hugging Face Hub, or get the whole project again"
            )
        pretrained = str(BUNDLED)
    set_download_progress(progress)
    return SpeechTokenizer.from_pretrained(pretrained, device=map_location, **options)
