"""``MelSpec``: everything that fixes a log-mel spectrogram, and the presets that vocoders and papers use."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from sqvae_speech.errors import UserError, nearest

_CHOICES: dict[str, tuple[Any, ...]] = {
    "mel_scale": ("slaney", "htk"),
    "mel_norm": ("slaney", None),
    "power": (1.0, 2.0),
    "log": ("db", "log10", "ln"),
    "pad_mode": ("reflect", "constant"),
}


@dataclass(frozen=True)
class MelSpec:
    """The settings that fix a log-mel, from the waveform to the last number.

    The chain is: divide the wav by its largest absolute value and multiply by ``peak`` (if set), pre-emphasise, pad,
    take the magnitude of a short-time Fourier transform with a periodic Hann window, raise it to ``power``, sum it
    into mel bands, raise it to at least ``clamp``, take the logarithm, and for dB raise it to at least
    ``dynamic_range`` below the utterance's largest value and map it by ``x / dynamic_range + 1``.

    Two specs are equal when every setting that changes a number is; ``name`` is only a label.

    Attributes:
        name: label, a preset's name or the user's own.
        sample_rate: Hz.
        n_fft: length of the Fourier transform, samples.
        hop_length: distance between frames, samples.
        win_length: length of the Hann window, samples; centred in ``n_fft``.
        n_mels: number of mel bands.
        fmin: lower edge of the lowest band, Hz.
        fmax: upper edge of the highest band, Hz.
        mel_scale: ``"slaney"`` (linear below 1 kHz; librosa's default) or ``"htk"`` (torchaudio's default).
        mel_norm: ``"slaney"`` gives each band the same area, ``None`` the same height, 1.
        power: 1.0 sums magnitudes, 2.0 powers.
        preemphasis: ``a`` in ``y[t] = x[t] - a x[t - 1]``; 0.0 is none.
        log: ``"db"`` (10 log10 of the power), ``"log10"`` or ``"ln"`` (both of the mel as it is).
        clamp: floor of the mel before the logarithm.
        dynamic_range: dB kept below each utterance's own largest value; ``None`` keeps all. Only with ``log="db"``.
        normalize: map dB to ``dB / dynamic_range + 1``.
        peak: largest absolute value that the wav is scaled to first; ``None`` leaves the level alone.
        center: frame ``t`` is centred on sample ``t * hop_length``, by ``n_fft // 2`` samples of padding.
        pad_mode: ``"reflect"`` (the default of librosa 0.7) or ``"constant"`` (zeros, the default of librosa 1.0).
        padding: samples added at each end when ``center`` is false.

    Raises:
        UserError: a setting is not legal, or does not agree with another.
    """

    name: str = field(compare=False)
    sample_rate: int
    n_fft: int
    hop_length: int
    win_length: int
    n_mels: int
    fmin: float
    fmax: float
    mel_scale: str = "slaney"
    mel_norm: str | None = "slaney"
    power: float = 1.0
    preemphasis: float = 0.0
    log: str = "ln"
    clamp: float = 1e-5
    dynamic_range: float | None = None
    normalize: bool = False
    peak: float | None = None
    center: bool = True
    pad_mode: str = "reflect"
    padding: int = 0

    def __post_init__(self) -> None:
        for key, hint in _FIELD_TYPES.items():
            object.__setattr__(self, key, _checked(self.name, key, getattr(self, key), hint))
        for key, legal in _CHOICES.items():
            value = getattr(self, key)
            if value not in legal:
                close = nearest(value, (c for c in legal if isinstance(c, str))) if isinstance(value, str) else ""
                _reject(self.name, key, value, f"one of {', '.join(map(repr, legal))}{close}")
        for key in ("sample_rate", "n_fft", "hop_length", "win_length", "n_mels", "clamp"):
            if getattr(self, key) <= 0:
                _reject(self.name, key, getattr(self, key), "greater than 0")
        if self.win_length > self.n_fft:
            _reject(self.name, "win_length", self.win_length, f"at most n_fft, {self.n_fft}")
        if not 0 <= self.fmin < self.fmax <= self.sample_rate / 2:
            legal_band = f"0 <= fmin < fmax <= {self.sample_rate / 2:g} Hz, half the sample rate"
            _reject(self.name, "band fmin, fmax", (self.fmin, self.fmax), legal_band)
        if not 0 <= self.preemphasis < 1:
            _reject(self.name, "preemphasis", self.preemphasis, "from 0 (none) to less than 1")
        if self.peak is not None and self.peak <= 0:
            _reject(self.name, "peak", self.peak, "greater than 0, or none to leave the level alone")
        if self.dynamic_range is not None and (self.log != "db" or self.dynamic_range <= 0):
            _reject(self.name, "dynamic_range", self.dynamic_range, "a number of dB greater than 0, with log: db")
        if self.normalize and self.dynamic_range is None:
            _reject(self.name, "normalize", self.normalize, "false unless dynamic_range is set")
        if self.padding < 0 or (self.center and self.padding):
            _reject(self.name, "padding", self.padding, "0 when center is true, else 0 or more samples")

    @classmethod
    def preset(cls, name: str) -> "MelSpec":
        """Return the preset called ``name``; a :class:`UserError` lists the presets."""
        if name not in PRESETS:
            close = nearest(name, PRESETS)
            raise UserError(f"no mel preset {name!r}{close} (the presets are {', '.join(PRESETS)})")
        return PRESETS[name]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "MelSpec":
        """Rebuild a spec from :meth:`to_dict`. Unknown or missing settings are a :class:`UserError`."""
        unknown = [key for key in values if key not in _FIELD_TYPES]
        if unknown:
            close = nearest(str(unknown[0]), _FIELD_TYPES)
            raise UserError(f"a mel spec has no setting {unknown[0]!r}{close} (legal: {', '.join(_FIELD_TYPES)})")
        required = [f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING]
        missing = [key for key in required if key not in values]
        if missing:
            raise UserError(
                f"a mel spec lacks {', '.join(missing)}; every spec that this project writes has all settings"
            )
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return all settings as plain values, for JSON and YAML."""
        return dataclasses.asdict(self)

    @property
    def frame_rate(self) -> float:
        """Mel frames a second."""
        return self.sample_rate / self.hop_length

    @property
    def decibels_per_unit(self) -> float:
        """How many dB one unit of the log-mel is, so that errors compare in dB whatever the preset.

        Normalised dB: the dynamic range; dB: 1; logarithms of magnitudes: 20 to the base 10, 20 / ln 10 natural; of
        powers: half of these.
        """
        if self.log == "db":
            return float(self.dynamic_range or 1.0) if self.normalize else 1.0
        ten = 20.0 / self.power
        return ten if self.log == "log10" else ten / math.log(10.0)

    @property
    def smallest_n_fft(self) -> int:
        """The shortest transform whose bins are all among those of ``n_fft`` and that the window still fits.

        The spectrum of a short window is smooth: these bins say it all.
        """
        n_fft = self.n_fft
        while n_fft % 4 == 0 and n_fft // 2 >= self.win_length:
            n_fft //= 2
        return n_fft

    @property
    def pad_samples(self) -> int:
        """Samples that padding puts before the first and after the last sample of the wav."""
        return self.n_fft // 2 if self.center else self.padding

    @property
    def window_start(self) -> int:
        """Sample of the wav (usually negative: in the padding) on which the first frame's window begins."""
        return (self.n_fft - self.win_length) // 2 - self.pad_samples

    @property
    def min_samples(self) -> int:
        """Samples that a wav needs at least.

        For at least one frame, and so that a reflection never has to reach beyond the wav's other end. Only samples
        under a window count: this is less than librosa's ``n_fft // 2 + 1`` where ``win_length`` is below ``n_fft``.
        """
        one_frame = max(1, self.n_fft - 2 * self.pad_samples)
        if self.pad_mode == "constant":
            return one_frame
        # The last window ends within n_fft of the padded end, less what the window leaves of n_fft on its right.
        window_end = self.n_fft - (self.n_fft - self.win_length) // 2 - self.win_length
        reach = max(-self.window_start, self.pad_samples - window_end, 0)
        return max(one_frame, reach + 1)

    def num_frames(self, num_samples: int) -> int:
        """Return the number of frames of a wav of ``num_samples``; 0 when it is shorter than :attr:`min_samples`."""
        if num_samples < self.min_samples:
            return 0
        return 1 + (num_samples + 2 * self.pad_samples - self.n_fft) // self.hop_length

    def num_samples(self, num_frames: int) -> int:
        """Return the length that a vocoder gives back: the fewest samples whose mel has ``num_frames`` frames.

        A mel so short that no legal wav has as few frames gives :attr:`min_samples`.
        """
        shortest = (num_frames - 1) * self.hop_length + self.n_fft - 2 * self.pad_samples
        return max(shortest, self.min_samples)

    def require_same(self, other: "MelSpec", what: str, other_what: str) -> None:
        """Refuse to mix features made in different ways.

        Args:
            other: the spec that has to equal this one.
            what: whose spec this is, as the user knows it, such as ``"checkpoint exp/a"``.
            other_what: whose spec ``other`` is.

        Raises:
            UserError: the settings differ; the message gives each with both values.
        """
        if self == other:
            return
        ours, theirs = self.to_dict(), other.to_dict()
        lines = [
            f"  {f.name}: {ours[f.name]!r} in {what}, {theirs[f.name]!r} in {other_what}"
            for f in dataclasses.fields(self)
            if f.compare and ours[f.name] != theirs[f.name]
        ]
        raise UserError(
            f"{what} ({self.name}) and {other_what} ({other.name}) have different mel settings:\n"
            + "\n".join(lines)
            + "\nuse features and models made with the same mel preset"
        )


def _reject(spec: str, key: str, value: Any, legal: str) -> NoReturn:
    raise UserError(f"mel spec {spec!r}: {key} is {value!r}; it has to be {legal}")


def _checked(spec: str, key: str, value: Any, hint: Any) -> Any:
    """Return ``value`` as its field's type (an int is welcome for a float), or raise a UserError."""
    if hint in (float, float | None) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    # bool is an int to Python, but sample_rate: yes is no rate
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        _reject(spec, key, value, str(getattr(hint, "__name__", hint)))
    if isinstance(value, float) and not math.isfinite(value):
        _reject(spec, key, value, "a finite number")
    return value


_FIELD_TYPES: dict[str, Any] = {f.name: f.type for f in dataclasses.fields(MelSpec)}

# Sources: the published SQ-VAE speech code and its predecessor's preprocessing (librosa 0.7: reflect padding);
# descriptinc/melgan-neurips Audio2Mel; NVIDIA's Tacotron 2 / WaveGlow STFT layer; vocos-mel-24khz (torchaudio's
# MelSpectrogram defaults).
PRESETS: dict[str, MelSpec] = {
    spec.name: spec
    for spec in (
        MelSpec(
            name="sqvae16k",
            sample_rate=16000,
            n_fft=2048,
            hop_length=160,
            win_length=400,
            n_mels=80,
            fmin=50.0,
            fmax=8000.0,
            preemphasis=0.97,
            log="db",
            clamp=1e-5,
            dynamic_range=80.0,
            normalize=True,
            peak=0.999,
        ),
        MelSpec(
            name="melgan22k",
            sample_rate=22050,
            n_fft=1024,
            hop_length=256,
            win_length=1024,
            n_mels=80,
            fmin=0.0,
            fmax=11025.0,
            log="log10",
            clamp=1e-5,
            center=False,
            padding=384,
        ),
        MelSpec(
            name="waveglow22k",
            sample_rate=22050,
            n_fft=1024,
            hop_length=256,
            win_length=1024,
            n_mels=80,
            fmin=0.0,
            fmax=8000.0,
            log="ln",
            clamp=1e-5,
        ),
        MelSpec(
            name="vocos24k",
            sample_rate=24000,
            n_fft=1024,
            hop_length=256,
            win_length=1024,
            n_mels=100,
            fmin=0.0,
            fmax=12000.0,
            mel_scale="htk",
            mel_norm=None,
            log="ln",
            clamp=1e-7,
        ),
    )
}
