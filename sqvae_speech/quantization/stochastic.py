"""What Gaussian and von Mises-Fisher quantization have in common: a posterior over codes, sampled in training."""

import math
from abc import abstractmethod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sqvae_speech.quantization import functional, metrics
from sqvae_speech.quantization.base import Quantizer, QuantizerOutput, Rows
from sqvae_speech.quantization.fused import check_backend, stochastic_quantize
from sqvae_speech.quantization.noise import Noise


class Prepared(NamedTuple):
    """What logits and divergences are made from.

    Attributes:
        latents: (N, D).
        vectors: (K, D) what indices decode to, to the last bit.
        weight: (1, 1), (N, 1) or (N, D), the precision of the Gaussian kinds and κ of the vMF one.
        centre: (D,) the mean code, or None. No distance depends on it, but in float32 a common offset costs the
            digits of small distances.
    """

    latents: Tensor
    vectors: Tensor
    weight: Tensor
    centre: Tensor | None

    @property
    def z(self) -> Tensor:
        """(N, D) latents less the centre."""
        return self.latents if self.centre is None else self.latents - self.centre

    @property
    def codebook(self) -> Tensor:
        """(K, D) vectors less the centre."""
        return self.vectors if self.centre is None else self.vectors - self.centre

    def rows(self, block: slice) -> "Prepared":
        weight = self.weight if self.weight.shape[0] == 1 else self.weight[block]
        return self._replace(latents=self.latents[block], weight=weight)


class Draw(NamedTuple):
    """A code of every row, relaxed or hard.

    Attributes:
        quantized: (N, D).
        centred: (N, D), ``quantized`` less the centre, to be compared with :attr:`Prepared.z`.
        divergence: (N,) of the latents from it, in nats.
        indices: (N,) int64, the most probable codes (not those drawn).
        entropy: (N,) of the posterior, in nats.
        posterior: (K,) summed over the real rows, without gradient.
    """

    quantized: Tensor
    centred: Tensor
    divergence: Tensor
    indices: Tensor
    entropy: Tensor
    posterior: Tensor


class StochasticQuantizer(Quantizer):
    """SQ: ``q(k | z)`` by Bayes' rule from a dequantization density and a uniform prior (arXiv 2205.07547, eq. 7-10).

    The latent loss of an example is ``Σ_i [ divergence(z_i, z̃_i) + log K - H(q(· | z_i)) ]``, where z̃ is a
    Gumbel-softmax mixture of codes in training and the most probable code in evaluation. Gradients flow through
    everything: no stop-gradient, no straight-through estimator. ``log K`` is kept, so that the second part is a
    true KL divergence from the uniform prior and never negative.
    """

    kind: str  # of posterior, see functional.LOGITS

    def __init__(
        self,
        codebook_size: int,
        dim: int,
        *,
        init_log_scale: float,
        variance_sum: bool = False,
        backend: str | None = None,
    ):
        super().__init__(codebook_size, dim)
        self.backend = check_backend(backend)
        self.codebook = nn.Parameter(torch.randn(codebook_size, dim))
        # s: log σ² of the Gaussian kinds, log κ of the vMF one. The only parameter of one element.
        self.log_scale = nn.Parameter(torch.tensor([float(init_log_scale)]))
        self.variance_sum = variance_sum

    def _total_log_scale(self, rows: Rows) -> Tensor:
        """Log-scale of every row, (1, 1) without a head or (N, C) with one.

        The published speech code multiplies variances (adds logs), its vision code adds them; ``variance_sum``
        chooses the second: ``exp(head) + exp(s)``, with a head of ones where there is none.
        """
        s = functional.at_least_float32(self.log_scale).reshape(1, 1)
        if not self.variance_sum:
            return s if rows.log_var is None else rows.log_var + s
        return torch.logaddexp(torch.zeros_like(s) if rows.log_var is None else rows.log_var, s)

    @abstractmethod
    def _prepared(self, rows: Rows, codebook: Tensor | None = None) -> Prepared:
        """``codebook`` (K, D) takes the place of the quantizer's own."""

    def _logits(self, z: Tensor, codebook: Tensor, weight: Tensor) -> Tensor:
        return functional.LOGITS[self.kind](z, codebook, weight)

    def _draw(self, prepared: Prepared, mask: Tensor | None, temperature: float, sample: bool) -> Draw:
        if sample and self.training:
            z, vectors, weight, _ = prepared
            out = stochastic_quantize(
                z, vectors, weight, kind=self.kind, temperature=temperature, mask=mask, backend=self.backend
            )
            return Draw(out.quantized, out.centred, out.divergence, out.indices, out.entropy, out.posterior_sum)
        draws = [
            self._draw_codes(prepared.rows(block), None if mask is None else mask[block], sample)
            for block in functional.row_blocks(prepared.latents, self.codebook_size)
        ]
        *columns, posteriors = zip(*draws, strict=True)
        return Draw._make((*map(torch.cat, columns), torch.stack(posteriors).sum(dim=0)))

    def _draw_codes(self, prepared: Prepared, mask: Tensor | None, sample: bool) -> Draw:
        """The most probable codes, or with ``sample`` codes drawn from the posterior."""
        logits = self._logits(*prepared[:3])
        indices = logits.argmax(dim=-1)
        chosen = (logits + functional.gumbel_noise(logits)).argmax(dim=-1) if sample else indices
        posterior = logits.detach().softmax(dim=-1)
        if mask is not None:
            posterior = posterior.masked_fill(~mask[:, None], 0.0)
        centred = F.embedding(chosen, prepared.codebook)
        return Draw(
            quantized=F.embedding(chosen, prepared.vectors),
            centred=centred,
            divergence=functional.DIVERGENCES[self.kind](prepared.z, centred, prepared.weight),
            indices=indices,
            entropy=functional.entropy(logits),
            posterior=posterior.sum(dim=0),
        )

    def _quantize(self, rows: Rows, temperature: float, sample: bool) -> QuantizerOutput:
        prepared = self._prepared(rows)
        draw = self._draw(prepared, rows.mask, temperature, sample)
        kl_discrete = rows.total(math.log(self.codebook_size) - draw.entropy) / rows.batch_size
        kl_continuous = rows.total(draw.divergence) / rows.batch_size
        with torch.no_grad():
            report = {
                **metrics.codebook_metrics(draw.indices, draw.posterior, self.codebook_size, rows.mask),
                "entropy": rows.total(draw.entropy) / rows.num_real(),
                "kl_discrete": kl_discrete,
                "kl_continuous": kl_continuous,
                **self._scale_metrics(rows, prepared.weight),
            }
        return QuantizerOutput(draw.quantized, draw.indices, kl_discrete + kl_continuous, report)

    @abstractmethod
    def _scale_metrics(self, rows: Rows, weight: Tensor) -> dict[str, Tensor]: ...

    def log_posterior(self, z: Tensor, log_var: Tensor | None = None) -> Tensor:
        """``log q(k | z)`` at every position, (B, *, K), finite also where :meth:`posterior` underflows."""
        with torch.autocast(z.device.type, enabled=False):
            logits = self._logits(*self._prepared(self._rows(z, log_var, None))[:3])
        return logits.log_softmax(dim=-1).reshape(*z.shape[:-1], -1)

    def _posterior(self, rows: Rows) -> Tensor:
        return self._logits(*self._prepared(rows)[:3]).softmax(dim=-1)

    def _sample(self, rows: Rows, seed: int) -> Tensor:
        prepared = self._prepared(rows)
        noise = Noise(torch.tensor([seed], device=rows.z.device), len(rows.z), self.codebook_size)
        blocks = functional.row_blocks(rows.z, self.codebook_size)
        return torch.cat([noise.draw(self._logits(*prepared.rows(block)[:3]), block) for block in blocks])

    def _nearest(self, rows: Rows) -> Tensor:
        prepared = self._prepared(rows)
        blocks = functional.row_blocks(rows.z, self.codebook_size)
        return torch.cat([self._logits(*prepared.rows(block)[:3]).argmax(dim=-1) for block in blocks])
