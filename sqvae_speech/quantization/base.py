"""The contract that every quantizer keeps: latents in, a typed result out."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sqvae_speech.quantization.functional import at_least_float32


class QuantizerOutput(NamedTuple):
    """What a quantizer returns; ``quantized, indices, loss = q(z)[:3]`` works too.

    Attributes:
        quantized: (B, *, D) float, what the decoder gets; zero at masked positions.
        indices: (B, *) int64, the most probable code; zero at masked positions. (B, *, N) for N codebooks.
        loss: scalar, the latent part of the training loss, summed over positions and averaged over the batch; for
            stochastic quantizers the latent part of the negative ELBO, in nats per example.
        metrics: detached scalars by name.
    """

    quantized: Tensor
    indices: Tensor
    loss: Tensor
    metrics: dict[str, Tensor]


class Rows(NamedTuple):
    """A batch flattened to rows, the form in which quantizers compute.

    Attributes:
        z: (N, D) latents, float32 or float64, zero at masked rows.
        log_var: (N, C) head output, or None.
        mask: (N,) bool, True = real, or None when all are.
        batch_size: number of examples, over which the loss is averaged.
    """

    z: Tensor
    log_var: Tensor | None
    mask: Tensor | None
    batch_size: int

    def total(self, values: Tensor) -> Tensor:
        """Sum ``values`` (N,) over the real rows."""
        return values.sum() if self.mask is None else values.masked_fill(~self.mask, 0.0).sum()

    def num_real(self) -> Tensor | int:
        """Number of real rows, at least 1."""
        return max(len(self.z), 1) if self.mask is None else self.mask.sum().clamp(min=1)

    def select(self, values: Tensor) -> Tensor:
        """``values`` (N, ...) with the masked rows set to zero."""
        if self.mask is None:
            return values
        mask = self.mask.reshape(-1, *(1,) * (values.dim() - 1))
        return values.masked_fill(~mask, 0)


class Quantizer(nn.Module, ABC):
    """Maps latents ``z`` (B, *, D), channels last, to one of K codebook vectors at every position.

    ``*`` is any number of axes, none included. Latents may be of any float dtype; everything inside is computed in
    float32 at least, whatever autocast says, and ``quantized`` comes back in the dtype of ``z``.

    Attributes:
        composed: made of other quantizers; its indices have an axis of codebooks, also when there is only one.
    """

    composed = False

    def __init__(self, codebook_size: int, dim: int):
        super().__init__()
        for name, value in (("codebook_size", codebook_size), ("dim", dim)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        self.codebook_size = codebook_size
        self.dim = dim

    @property
    def num_codebooks(self) -> int:
        """How many codes a position has."""
        return 1

    @property
    def log_var_channels(self) -> int:
        """How many channels the encoder's log-variance head must have: 0 (no head), 1 or D."""
        return 0

    @property
    def log_var_per_channel(self) -> bool:
        """Whether ``log_var`` has a value for each of the D channels."""
        return False

    @property
    def log_var_per_example(self) -> bool:
        """Whether ``log_var`` is one value an example, (B, 1.., 1), rather than one a position."""
        return False

    @abstractmethod
    def _quantize(self, rows: Rows, temperature: float, sample: bool) -> QuantizerOutput:
        """Quantize rows. ``quantized`` (N, D) and ``indices`` (N,) are masked and shaped by :meth:`forward`."""

    @abstractmethod
    def _posterior(self, rows: Rows) -> Tensor:
        """``q(k | z)`` of rows, (N, K)."""

    @abstractmethod
    def _nearest(self, rows: Rows) -> Tensor:
        """The most probable code of rows, (N,) int64."""

    @abstractmethod
    def _sample(self, rows: Rows, seed: int) -> Tensor:
        """Codes of rows drawn from the posterior, (N,) int64, by the noise of ``seed``."""

    @abstractmethod
    def decoding_codebook(self) -> Tensor:
        """(K, D) the vectors that indices decode to."""

    @torch.no_grad()
    def set_codebook(self, vectors: Tensor) -> None:
        """Replace the codebook by ``vectors`` (K, D)."""
        codebook = self.get_parameter("codebook")
        if vectors.shape != codebook.shape:
            raise ValueError(f"the codebook is {tuple(codebook.shape)}, got {tuple(vectors.shape)}")
        codebook.copy_(vectors)

    def start_from(self, latents: Tensor, generator: torch.Generator) -> None:
        """Set the codes to some of ``latents`` (M, D), drawn without replacement.

        Raises:
            ValueError: fewer latents than codes.
        """
        if len(latents) < self.codebook_size:
            raise ValueError(f"{self.codebook_size} codes cannot start from {len(latents)} latents")
        self.set_codebook(latents[torch.randperm(len(latents), generator=generator)[: self.codebook_size]])

    def forward(
        self,
        z: Tensor,
        log_var: Tensor | None = None,
        *,
        temperature: float = 1.0,
        mask: Tensor | None = None,
        sample: bool | None = None,
    ) -> QuantizerOutput:
        """Quantize a batch.

        Args:
            z: (B, *, D) latents.
            log_var: the head's log-variance, broadcastable to z, or None for quantizers without a head
                (:attr:`log_var_channels`); the quantizer adds its own trainable scalar.
            temperature: of the Gumbel-softmax relaxation, > 0.
            mask: (B, *) bool, True = real. Masked positions count in nothing.
            sample: draw codes from the posterior instead of taking the most probable one. None means in training
                mode only. In training a draw is relaxed (Gumbel-softmax), in evaluation it is one code.

        Raises:
            ValueError: a shape that does not fit, or a temperature that is not positive.
        """
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        sample = self.training if sample is None else sample
        with torch.autocast(z.device.type, enabled=False):
            rows = self._rows(z, log_var, mask)
            out = self._quantize(rows, temperature, sample)
        return QuantizerOutput(
            quantized=rows.select(out.quantized).to(z.dtype).reshape(z.shape),
            indices=rows.select(out.indices).reshape(*z.shape[:-1], *out.indices.shape[1:]),
            loss=out.loss,
            metrics={name: value.detach() for name, value in out.metrics.items()},
        )

    @torch.no_grad()
    def encode(self, z: Tensor, log_var: Tensor | None = None) -> Tensor:
        """The most probable code of every position: (B, *, D) -> (B, *) int64. Deterministic."""
        with torch.autocast(z.device.type, enabled=False):
            indices = self._nearest(self._rows(z, log_var, None))
        return indices.reshape(*z.shape[:-1], *indices.shape[1:])

    def decode(self, indices: Tensor) -> Tensor:
        """Codebook vectors of ``indices`` (B, *) int64 -> (B, *, D).

        Raises:
            ValueError: an index outside [0, K); checked where it costs no device synchronisation.
        """
        self._check_indices(indices)
        return nn.functional.embedding(indices, self.decoding_codebook())

    def _check_indices(self, indices: Tensor) -> None:
        if indices.device.type != "cpu" or torch.compiler.is_compiling() or not indices.numel():
            return
        low, high = (int(value) for value in indices.aminmax())
        if low < 0 or high >= self.codebook_size:
            raise ValueError(
                f"index {low if low < 0 else high} is outside the codebook of {self.codebook_size} codes "
                f"(legal: 0 to {self.codebook_size - 1}); were these units made with another codebook?"
            )

    def posterior(self, z: Tensor, log_var: Tensor | None = None) -> Tensor:
        """``q(k | z)`` at every position, (B, *, K); rows sum to one."""
        with torch.autocast(z.device.type, enabled=False):
            posterior = self._posterior(self._rows(z, log_var, None))
        return posterior.reshape(*z.shape[:-1], *posterior.shape[1:])

    @torch.no_grad()
    def sample(self, z: Tensor, log_var: Tensor | None = None, *, seed: int) -> Tensor:
        """Codes drawn from the posterior, one a position: (B, *, D) -> (B, *) int64, (B, *, N) with N codebooks.

        A pure function of its arguments: the same noise on every device, and no global generator is touched.

        Args:
            z: (B, *, D) latents.
            log_var: see :meth:`forward`.
            seed: 0 to 2^63 - 1.
        """
        with torch.autocast(z.device.type, enabled=False):
            indices = self._sample(self._rows(z, log_var, None), seed)
        return indices.reshape(*z.shape[:-1], *indices.shape[1:])

    def _rows(self, z: Tensor, log_var: Tensor | None, mask: Tensor | None) -> Rows:
        """Check shapes, lift half precision to float32, flatten to rows, blank what is masked."""
        if z.dim() < 2 or z.shape[-1] != self.dim:
            raise ValueError(f"latents must be (B, *, {self.dim}), channels last, got {tuple(z.shape)}")
        if mask is not None:
            if mask.shape != z.shape[:-1] or mask.dtype != torch.bool:
                raise ValueError(
                    f"mask must be bool {tuple(z.shape[:-1])} for latents {tuple(z.shape)}, "
                    f"got {mask.dtype} {tuple(mask.shape)}"
                )
            # filled, not multiplied: padding may hold anything, also NaN
            z = z.masked_fill(~mask[..., None], 0.0)
        return Rows(
            z=at_least_float32(z).reshape(-1, self.dim),
            log_var=self._log_var_rows(z, log_var, mask),
            mask=None if mask is None else mask.reshape(-1),
            batch_size=z.shape[0],
        )

    def _log_var_rows(self, z: Tensor, log_var: Tensor | None, mask: Tensor | None) -> Tensor | None:
        channels = self.log_var_channels
        if channels == 0:
            if log_var is not None:
                raise ValueError(f"{self.describe()} takes no log_var (None), got {tuple(log_var.shape)}")
            return None
        leading = (z.shape[0], *(1,) * (z.dim() - 2)) if self.log_var_per_example else z.shape[:-1]
        expected = (*leading, channels)
        if log_var is None or log_var.shape != expected:
            got = None if log_var is None else tuple(log_var.shape)
            raise ValueError(
                f"{self.describe()} needs log_var {tuple(expected)} for latents {tuple(z.shape)}, got {got}"
            )
        rows = log_var.expand(*z.shape[:-1], channels)
        if mask is not None:
            rows = rows.masked_fill(~mask[..., None], 0.0)
        return at_least_float32(rows).reshape(-1, channels)

    def describe(self) -> str:
        """A short name for messages."""
        return type(self).__name__

    def shape_description(self) -> str:
        """What two quantizers must share to be composed."""
        return f"{self.describe()}, {self.codebook_size} codes of {self.dim}"

    def extra_repr(self) -> str:
        return f"codebook_size={self.codebook_size}, dim={self.dim}"
