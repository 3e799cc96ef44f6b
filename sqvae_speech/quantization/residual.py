"""Residual quantization: every stage quantizes what the stages before it left over."""

import math
from collections.abc import Iterator, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sqvae_speech.quantization import functional, metrics
from sqvae_speech.quantization.base import Quantizer, QuantizerOutput, Rows
from sqvae_speech.quantization.gaussian import GaussianQuantizer
from sqvae_speech.quantization.noise import Noise, derived_seed
from sqvae_speech.quantization.vector import VectorQuantizer


class ResidualQuantizer(Quantizer):
    """N quantizers in a row; a position has N codes, and its vector is their sum.

    **Gaussian stages** make the variational form, RSQ-VAE of HQ-VAE (Takida et al., TMLR 2024, arXiv 2401.00365).
    Its loss follows from the single-stage one (arXiv 2205.07547) in three steps.

    1. Generation: codes k_1..k_N, independent and uniform, give vectors b_1..b_N; each is dequantized by its own
       Gaussian, z_n ~ N(b_n, Σ_n). Sums of independent Gaussians are Gaussian, so for z = Σ_n z_n
       ``p(z | k_1..k_N) = N(Σ_n b_n, S)`` with ``S = Σ_n Σ_n``, the sum of the stages' covariances. The decoder sees
       Σ_n b_n.
    2. Inference: the encoder gives ``q(z | x) = N(ẑ, S)``, its covariance tied to that of generation as in the
       single-stage model. Codes are inferred in order, each by Bayes' rule from what is left,
       ``r_1 = ẑ, r_{n+1} = r_n - b_n``: ``q(k_n | r_n) = softmax_k(-½ (b_k - r_n)ᵀ Σ_n⁻¹ (b_k - r_n))``.
    3. The latent part of the negative ELBO is ``E[log q(z | x) - log p(z | k)] + Σ_n E[log q(k_n | r_n) + log K]``:
       the divergence of two Gaussians of one covariance, and N divergences from the uniform prior. Per position

           ``½ (ẑ - Σ_n b_n)ᵀ S⁻¹ (ẑ - Σ_n b_n)  +  Σ_n [ log K - H(q(· | r_n)) ]``,

       where ``ẑ - Σ_n b_n`` is the last residual, r_{N+1}. In training every b_n is a Gumbel-softmax mixture, also in
       the residuals of later stages, and gradients flow through all of it.

    With N = 1 this is the loss of :class:`GaussianQuantizer`. Each stage has its trainable scalar s_n; a head's
    ``log_var`` is shared by the stages.

    **Vector quantization stages** (SoundStream, Zeghidour et al., arXiv 2107.03312): the losses of the stages on
    their residuals, added up; residuals are taken without gradient of the codes, and the sum of the codes is passed
    straight through once. Von Mises-Fisher stages are refused: a residual of unit vectors lies on no sphere.

    **Stage dropout**, in training: with probability ``stage_dropout`` an example is quantized by its first n stages
    only, n uniform in 1..N, so that any first stages make a code of their own. The loss above holds for each example
    with its n for N. All N indices are returned and are what they would be without dropout.

    Args:
        stages: N quantizers of one class and shape.
        shared_codebook: all stages use (and train) the first one's codebook. Moving averages are then updated once a
            batch, with the latents of all stages.
        stage_dropout: probability, in [0, 1].

    Raises:
        ValueError: no stages, stages of an illegal kind or that differ, a probability out of range.
    """

    composed = True

    def __init__(self, stages: Sequence[Quantizer], *, shared_codebook: bool = False, stage_dropout: float = 0.0):
        if not stages:
            raise ValueError("a residual quantizer needs at least one stage")
        first = stages[0]
        if not isinstance(first, GaussianQuantizer | VectorQuantizer):
            raise ValueError(
                f"stages must be GaussianQuantizer or VectorQuantizer, got {type(first).__name__}: residuals need "
                "vectors that can be added"
            )
        for number, stage in enumerate(stages):
            if stage.shape_description() != first.shape_description():
                raise ValueError(
                    f"stages must be alike: stage {number} is {stage.shape_description()}, "
                    f"stage 0 is {first.shape_description()}"
                )
        if not 0 <= stage_dropout <= 1:
            raise ValueError(f"stage_dropout must be a probability in [0, 1], got {stage_dropout}")
        super().__init__(first.codebook_size, first.dim)
        self.num_stages = len(stages)
        self.shared_codebook = shared_codebook
        self.stage_dropout = stage_dropout
        if shared_codebook and isinstance(first, VectorQuantizer):
            stages = stages[:1]  # nothing else tells its stages apart
        elif shared_codebook:
            for stage in stages[1:]:
                stage.register_parameter("codebook", None)
        self.stages = nn.ModuleList(stages)

    @property
    def num_codebooks(self) -> int:
        return self.num_stages

    @property
    def log_var_channels(self) -> int:
        return self._stage(0).log_var_channels

    @property
    def log_var_per_channel(self) -> bool:
        return self._stage(0).log_var_per_channel

    @property
    def log_var_per_example(self) -> bool:
        return self._stage(0).log_var_per_example

    def decoding_codebook(self) -> Tensor:
        """(N, K, D) the vectors of every stage."""
        return torch.stack([self._codebook(number) for number in range(self.num_stages)])

    def decode(self, indices: Tensor) -> Tensor:
        """Sum of the vectors of the first n stages: ``indices`` (B, *, n) int64, 1 <= n <= N -> (B, *, D).

        Raises:
            ValueError: a number of stages or an index that is out of range.
        """
        if not 1 <= indices.shape[-1] <= self.num_stages:
            raise ValueError(
                f"indices must be (B, *, n) with n from 1 to {self.num_stages} stages, got {tuple(indices.shape)}"
            )
        self._check_indices(indices)
        return sum_of_codes([self._codebook(number) for number in range(indices.shape[-1])], indices)

    @torch.no_grad()
    def start_from(self, latents: Tensor, generator: torch.Generator) -> None:
        """Set the codes of each stage to some of what the stages before it leave of ``latents`` (M, D).

        M should be a few times K: nothing is left of a latent that became a code. A shared codebook starts from the
        latents themselves.
        """
        residual = latents
        for number in range(1 if self.shared_codebook else self.num_stages):
            self._stage(number).start_from(residual, generator)
            vectors = self._codebook(number).to(residual)
            nearest = functional.squared_distances(residual, vectors).argmin(dim=-1)
            residual = residual - F.embedding(nearest, vectors)

    def set_codebook(self, vectors: Tensor) -> None:
        """Replace the codebooks by ``vectors`` (N, K, D), or (K, D) of a shared one.

        Raises:
            ValueError: another shape.
        """
        codebooks = (self.codebook_size, self.dim)
        expected = codebooks if self.shared_codebook else (self.num_stages, *codebooks)
        if vectors.shape != expected:
            raise ValueError(f"the codebooks are {expected}, got {tuple(vectors.shape)}")
        for number, codebook in enumerate([vectors] if self.shared_codebook else vectors):
            self._stage(number).set_codebook(codebook)

    def _stage(self, number: int) -> GaussianQuantizer | VectorQuantizer:
        return cast(GaussianQuantizer | VectorQuantizer, self.stages[min(number, len(self.stages) - 1)])

    def _codebook(self, number: int) -> Tensor:
        return self._stage(0 if self.shared_codebook else number).codebook

    def _quantize(self, rows: Rows, temperature: float, sample: bool) -> QuantizerOutput:
        counts = self._draw_stage_counts(rows)
        if isinstance(self._stage(0), VectorQuantizer):
            return self._quantize_vector(rows, counts)
        return self._quantize_gaussian(rows, counts, temperature, sample)

    def _draw_stage_counts(self, rows: Rows) -> Tensor | None:
        """(rows,) int64: how many stages each row uses, the same for all rows of an example. None for all of them."""
        if not self.training or self.stage_dropout == 0 or not len(rows.z):
            return None
        device, size = rows.z.device, (rows.batch_size,)
        drawn = torch.randint(1, self.num_stages + 1, size, device=device)
        dropped = torch.rand(size, device=device) < self.stage_dropout
        counts = torch.where(dropped, drawn, self.num_stages)
        return counts.repeat_interleave(len(rows.z) // rows.batch_size)

    def _quantize_gaussian(
        self, rows: Rows, counts: Tensor | None, temperature: float, sample: bool
    ) -> QuantizerOutput:
        residual, quantized, error = rows.z, torch.zeros_like(rows.z), rows.z
        variance: Tensor | None = None
        reports, indices = [], []
        kl_discrete = rows.z.new_zeros(())
        for number in range(self.num_stages):
            stage, active = cast(GaussianQuantizer, self._stage(number)), _Active(counts, number)
            stage_rows = rows._replace(z=residual, mask=active.mask(rows))
            prepared = stage._prepared(stage_rows, self._codebook(number))
            draw = stage._draw(prepared, stage_rows.mask, temperature, sample)
            residual = prepared.z - draw.centred  # r_n - b_n, without the rounding of a common offset
            quantized = active.choose(quantized + draw.quantized, quantized)
            error = active.choose(residual, error)
            own = prepared.weight.reciprocal()
            variance = own if variance is None else active.choose(variance + own, variance)
            stage_kl = stage_rows.total(math.log(self.codebook_size) - draw.entropy) / rows.batch_size
            kl_discrete = kl_discrete + stage_kl
            indices.append(draw.indices)
            with torch.no_grad():
                reports.append(
                    {
                        **metrics.codebook_metrics(draw.indices, draw.posterior, self.codebook_size, stage_rows.mask),
                        "entropy": stage_rows.total(draw.entropy) / stage_rows.num_real(),
                    }
                )
        assert variance is not None
        kl_continuous = rows.total(0.5 * (error.square() / variance).sum(dim=-1)) / rows.batch_size
        with torch.no_grad():
            # of the sum of one code a stage, whose variances add
            spread = self.decoding_codebook().var(dim=1, correction=0).sum(dim=0)
            report = {
                **metrics.combine_codebooks(reports),
                "kl_discrete": kl_discrete,
                "kl_continuous": kl_continuous,
                **metrics.variances(rows, variance.reciprocal(), spread),
            }
        return QuantizerOutput(quantized, torch.stack(indices, dim=-1), kl_discrete + kl_continuous, report)

    def _quantize_vector(self, rows: Rows, counts: Tensor | None) -> QuantizerOutput:
        residual, quantized = rows.z, torch.zeros_like(rows.z)
        reports, indices, updates = [], [], []
        loss = rows.z.new_zeros(())
        for number in range(self.num_stages):
            stage, active = cast(VectorQuantizer, self._stage(number)), _Active(counts, number)
            stage_rows = rows._replace(z=residual, mask=active.mask(rows))
            chosen, vectors, stage_loss, distance = stage._assign(stage_rows)
            loss = loss + stage_loss
            residual = residual - vectors.detach()
            quantized = active.choose(quantized + vectors.detach(), quantized)
            indices.append(chosen)
            updates.append(stage_rows._replace(z=stage_rows.z.detach()))
            reports.append(
                {
                    **metrics.codebook_metrics(chosen, None, self.codebook_size, stage_rows.mask),
                    "entropy": torch.zeros_like(distance.detach()),
                }
            )
        if self.training and stage.codebook_update == "ema":
            self._update_averages(updates, indices)
        with torch.no_grad():
            distance = rows.total((rows.z - quantized).square().sum(dim=-1)) / rows.batch_size
            report = {**metrics.combine_codebooks(reports), "distance": distance}
        straight_through = rows.z + (quantized - rows.z).detach()
        return QuantizerOutput(straight_through, torch.stack(indices, dim=-1), loss, report)

    def _update_averages(self, updates: list[Rows], indices: list[Tensor]) -> None:
        if self.shared_codebook:
            latents = torch.cat([rows.z for rows in updates])
            everything = torch.ones_like(updates[0].z[:, 0], dtype=torch.bool)
            mask = torch.cat([everything if rows.mask is None else rows.mask for rows in updates])
            updates = [updates[0]._replace(z=latents, mask=mask)]
            indices = [torch.cat(indices)]
        for number, (rows, chosen) in enumerate(zip(updates, indices, strict=True)):
            cast(VectorQuantizer, self._stage(number))._update_codebook(rows, chosen)

    def _stage_by_stage(self, rows: Rows, seed: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Of every stage: the posterior (rows, K) given the codes chosen before, and the code chosen from it (rows,).

        That is the most probable one, or with ``seed`` one that is drawn.
        """
        residual = rows.z
        for number in range(self.num_stages):
            stage, stage_rows = self._stage(number), rows._replace(z=residual)
            if isinstance(stage, VectorQuantizer):
                indices = stage._nearest(stage_rows)
                posterior = F.one_hot(indices, self.codebook_size).to(residual.dtype)
                vectors = functional.at_least_float32(stage.codebook).to(residual.dtype)
                residual = residual - F.embedding(indices, vectors).detach()
            else:
                prepared = stage._prepared(stage_rows, self._codebook(number))
                logits = stage._logits(*prepared[:3])
                posterior = logits.softmax(dim=-1)
                if seed is None:
                    indices = logits.argmax(dim=-1)
                else:
                    stage_seed = torch.tensor([derived_seed(seed, number)], device=logits.device)
                    indices = Noise(stage_seed, len(logits), self.codebook_size).draw(logits, slice(None))
                residual = prepared.z - F.embedding(indices, prepared.codebook)
            yield posterior, indices

    def posterior(self, z: Tensor, log_var: Tensor | None = None) -> Tensor:
        """``q(k_n | r_n)`` at every position, (B, *, N, K), each given the most probable codes of earlier stages."""
        return super().posterior(z, log_var)

    def _posterior(self, rows: Rows) -> Tensor:
        return torch.stack([posterior for posterior, _ in self._stage_by_stage(rows)], dim=-2)

    def _sample(self, rows: Rows, seed: int) -> Tensor:
        return torch.stack([indices for _, indices in self._stage_by_stage(rows, seed)], dim=-1)

    def _nearest(self, rows: Rows) -> Tensor:
        return torch.stack([indices for _, indices in self._stage_by_stage(rows)], dim=-1)

    def describe(self) -> str:
        return f"ResidualQuantizer of {self.num_stages} x {self._stage(0).describe()}"

    def extra_repr(self) -> str:
        return f"num_stages={self.num_stages}, shared_codebook={self.shared_codebook}"


class _Active:
    """Which rows use a stage, given how many stages each row uses (None: all of them)."""

    def __init__(self, counts: Tensor | None, number: int):
        self.rows = None if counts is None else counts > number

    def mask(self, rows: Rows) -> Tensor | None:
        """The mask of the stage: rows that are real and use it."""
        if self.rows is None:
            return rows.mask
        return self.rows if rows.mask is None else self.rows & rows.mask

    def choose(self, new: Tensor, old: Tensor) -> Tensor:
        """``new`` in the rows that use the stage, ``old`` in the others; (rows, ...) or broadcastable to it."""
        return new if self.rows is None else torch.where(self.rows[:, None], new, old)


def sum_of_codes(codebooks: Sequence[Tensor], indices: Tensor) -> Tensor:
    """``Σ_n codebooks[n][indices[..., n]]``, added in the order of the stages."""
    total = F.embedding(indices[..., 0], codebooks[0])
    for number, codebook in enumerate(codebooks[1:], 1):
        total = total + F.embedding(indices[..., number], codebook)
    return total
