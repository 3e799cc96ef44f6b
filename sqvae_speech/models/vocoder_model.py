"""Our own vocoder as one module: what is trained, saved and run."""

import torch
from torch import Tensor, nn

from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.audio.vocoder import fit_samples, undo_preemphasis
from sqvae_speech.models.modules import length_mask
from sqvae_speech.models.vocoder_network import Polar, VocoderConfig, VocoderNetwork
from sqvae_speech.models.vocoder_rounds import VocoderRounds


class VocoderModel(nn.Module):
    """The network, and the rounds from what it says to a wav, which have nothing to learn.

    Args:
        config: sizes.
        mel_spec: the features it takes.

    Raises:
        UserError: a MelSpec whose frames leave samples uncovered.
    """

    def __init__(self, config: VocoderConfig, mel_spec: MelSpec):
        super().__init__()
        self.config = config
        self.mel_spec = mel_spec
        self.network = VocoderNetwork(config, mel_spec)
        self.rounds = VocoderRounds(config, self.network.inverse)

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.rounds.first_phase.device

    def forward(
        self, mel: Tensor, lengths: Tensor | None = None, synthesise: bool = True
    ) -> tuple[Polar, Tensor | None]:
        """What training looks at.

        Args:
            mel: (B, n_mels, T) float.
            lengths: (B,) int64, real frames of each; None: all.
            synthesise: also make the wav.

        Returns:
            What the network says, and (B, ``mel_spec.num_samples(T)``) float32 at the level that the mel has, zero
            beyond each utterance's own samples.
        """
        said = self.network(mel, lengths)
        return said, self._wav(said, mel, lengths) if synthesise else None

    def synthesise(self, mel: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The wav alone, see :meth:`forward`. An utterance is the same alone and in any batch."""
        return self._wav(self.network(mel, lengths), mel, lengths)

    def _wav(self, said: Polar, mel: Tensor, lengths: Tensor | None) -> Tensor:
        samples, factor = self.mel_spec.num_samples(mel.shape[2]), self.mel_spec.preemphasis
        mask = None if lengths is None else length_mask(lengths, mel.shape[2])
        if mask is not None:
            mel = mel.masked_fill(~mask[:, None], 0.0)
        with torch.autocast(mel.device.type, enabled=False):  # as of what the network says: all digits are needed
            wav = self.rounds(said.log_magnitude, self.rounds.phases(said.turn), mel.float(), mask)
            wav = fit_samples(wav[:, -self.network.inverse.start :], samples)
            if lengths is None:
                return undo_preemphasis(wav, factor)
            own = torch.tensor([self.mel_spec.num_samples(length) for length in lengths.tolist()], device=wav.device)
            inside = length_mask(own, samples)
            return undo_preemphasis(wav * inside, factor) * inside
