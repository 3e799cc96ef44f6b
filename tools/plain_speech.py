"""The published speech model, written plainly: what the package's is timed and held against.

Conv1d, BatchNorm1d and GRU modules, squared distances by their definition from an (N, D, K) array as in the published
code, Gumbel-softmax, ARELBO. Nothing of the package is used.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# (rows, codes) -> uniform numbers
Uniform = Callable[[int, int], Tensor]


class PlainSpeech(nn.Module):
    """Encoder, Gaussian quantizer of type I or IV, jitter, decoder.

    Args:
        covariance: ``global`` or ``diagonal``.
        n_mels: of the input.
        num_speakers: of the decoder.
        channels: of the convolutions.
        codebook_size: K.
        dim: D.
        speaker_dim: of the speaker embedding.
        hidden: of the GRU in one direction.
        jitter: probability of the time jitter.
    """

    def __init__(
        self,
        covariance: str = "diagonal",
        n_mels: int = 80,
        num_speakers: int = 100,
        channels: int = 768,
        codebook_size: int = 512,
        dim: int = 64,
        speaker_dim: int = 64,
        hidden: int = 128,
        jitter: float = 0.5,
    ):
        super().__init__()
        self.dim, self.jitter, self.diagonal = dim, jitter, covariance == "diagonal"
        layers: list[nn.Module] = []
        for inputs, kernel, stride, padding in (
            (n_mels, 3, 1, 0),
            (channels, 3, 1, 1),
            (channels, 4, 2, 1),
            (channels, 3, 1, 1),
            (channels, 3, 1, 1),
        ):
            conv = nn.Conv1d(inputs, channels, kernel, stride, padding, bias=False)
            layers += [conv, nn.BatchNorm1d(channels), nn.ReLU(inplace=True)]
        layers.append(nn.Conv1d(channels, 2 * dim if self.diagonal else dim, 1))
        self.encoder = nn.Sequential(*layers)
        self.log_variance = nn.Parameter(torch.tensor([math.log(10.0)]))
        self.codebook = nn.Parameter(torch.randn(codebook_size, dim))
        self.speaker_embedding = nn.Embedding(num_speakers, speaker_dim)
        self.rnn = nn.GRU(dim + speaker_dim, hidden, num_layers=2, batch_first=True, bidirectional=True)
        self.output = nn.Linear(2 * hidden, n_mels)

    def forward(self, mel: Tensor, speaker: Tensor, temperature: float, uniform: Uniform | None = None) -> Tensor:
        """The loss in nats per example, log K included.

        Args:
            mel: (B, n_mels, T), T even.
            speaker: (B,) int64.
            temperature: of the relaxation.
            uniform: of the Gumbel noise; None draws from torch's generator.
        """
        heads = self.encoder(mel).transpose(1, 2)
        z, head = heads[..., : self.dim], heads[..., self.dim :]
        log_variance = head + self.log_variance if self.diagonal else self.log_variance.expand(1, 1, 1)
        quantized, latent_loss = self.quantize(z, log_variance, temperature, uniform)
        reconstruction = self.decode(self.jittered(quantized), speaker)
        target = mel[:, :, 1:-1]
        error = (reconstruction - target).square().mean()
        return 0.5 * target[0].numel() * error.log() + latent_loss

    def quantize(
        self, z: Tensor, log_variance: Tensor, temperature: float, uniform: Uniform | None
    ) -> tuple[Tensor, Tensor]:
        """(B, U, D) -> the relaxed sample (B, U, D), and the latent loss."""
        precision = torch.exp(-log_variance)
        rows, weights = z.reshape(-1, self.dim, 1), precision.reshape(-1, precision.shape[-1], 1)
        logits = -0.5 * (weights * (self.codebook.t() - rows) ** 2).sum(dim=1)
        if uniform is None:
            limit = torch.finfo(logits.dtype).eps
            u = torch.rand_like(logits).clamp(limit, 1 - limit)
        else:
            u = uniform(*logits.shape)
        sample = F.softmax((logits - (-u.log()).log()) / temperature, dim=-1)
        quantized = (sample @ self.codebook).view_as(z)
        posterior = F.softmax(logits, dim=-1)
        information = (posterior * F.log_softmax(logits, dim=-1)).sum(dim=-1) + math.log(len(self.codebook))
        distance = 0.5 * (precision * (z - quantized) ** 2).sum()
        return quantized, (distance + information.sum()) / len(z)

    def jittered(self, x: Tensor) -> Tensor:
        """Each position with probability p/2 each its left or right neighbour, kept where there is none."""
        draw = torch.rand(x.shape[:2], device=x.device)
        step = (draw >= 1 - self.jitter / 2).long() - (draw < self.jitter / 2).long()
        source = (torch.arange(x.shape[1], device=x.device) + step).clamp(0, x.shape[1] - 1)
        return x.gather(1, source[..., None].expand_as(x))

    def decode(self, quantized: Tensor, speaker: Tensor) -> Tensor:
        x = F.interpolate(quantized.transpose(1, 2), scale_factor=2).transpose(1, 2)
        identity = self.speaker_embedding(speaker)[:, None].expand(-1, x.shape[1], -1)
        return self.output(self.rnn(torch.cat((x, identity), dim=-1))[0]).transpose(1, 2)

    @torch.no_grad()
    def copy_from(self, weights: dict[str, Tensor]) -> None:
        """Take the weights of the package's speech model, a state dict of it."""
        own = {
            "log_variance": weights["quantizer.log_scale"],
            "codebook": weights["quantizer.codebook"],
            "speaker_embedding.weight": weights["decoder.speaker_embedding.weight"],
        }
        for name, value in weights.items():
            part, _, rest = name.partition(".")
            if part == "decoder" and rest.startswith(("rnn.", "output.")):
                own[rest] = value
            elif name.startswith("encoder.blocks."):
                _, _, block, layer, leaf = name.split(".")
                own[f"encoder.{3 * int(block) + int(layer)}.{leaf}"] = value.squeeze(2) if layer == "0" else value
            elif name.startswith("encoder.head."):
                own[f"encoder.15.{name.rpartition('.')[2]}"] = value.squeeze(2) if value.dim() == 4 else value
        self.load_state_dict(own)
