"""What stands in for a vocoder where none is trained: torchaudio's InverseMelScale and GriffinLim."""

import torch
from torch import Tensor
from torchaudio.transforms import GriffinLim, InverseMelScale

from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.audio.vocoder import Vocoder, check_mel, limit_level, restore_level, undo_log, undo_preemphasis
from sqvae_speech.errors import UserError


class TorchaudioVocoder(Vocoder):
    """With the transform, the bands and the windows that the MelSpec says, and torchaudio's own defaults else.

    Args:
        mel_spec: the features it is to take; its frames are centred.
        rounds: of Griffin-Lim, with its momentum of 0.99.

    Raises:
        UserError: frames that are not centred, which torchaudio's are.
    """

    def __init__(self, mel_spec: MelSpec, rounds: int = 32):
        spec = mel_spec
        if not spec.center:
            raise UserError(f"torchaudio centres the frames of a spectrum, {spec.name} does not; take another preset")
        self._mel_spec = spec
        self._inversion = InverseMelScale(
            n_stft=spec.n_fft // 2 + 1,
            n_mels=spec.n_mels,
            sample_rate=spec.sample_rate,
            f_min=spec.fmin,
            f_max=spec.fmax,
            norm=spec.mel_norm,
            mel_scale=spec.mel_scale,
        )
        self._windows = {"n_fft": spec.n_fft, "win_length": spec.win_length, "hop_length": spec.hop_length}
        self._rounds = rounds

    @property
    def mel_spec(self) -> MelSpec:
        """The features it takes."""
        return self._mel_spec

    @torch.no_grad()
    def vocode(self, mel: Tensor, peak: Tensor | float | None = None, lengths: Tensor | None = None) -> Tensor:
        """See :meth:`Vocoder.vocode`; one utterance after the other. Phases always begin the same."""
        spec = self._mel_spec
        batch = mel[None] if mel.ndim == 2 else mel
        wavs = []
        for one, frames in zip(batch.float(), check_mel(batch, lengths, spec).tolist(), strict=True):
            search = GriffinLim(
                **self._windows, n_iter=self._rounds, power=spec.power, length=spec.num_samples(frames)
            )
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                wav = search(self._inversion(undo_log(one[None, :, :frames], spec)))
            wavs.append(undo_preemphasis(wav, spec.preemphasis)[0])
        made = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True)
        made = limit_level(restore_level(made, peak, spec))
        return made[0] if mel.ndim == 2 else made
