"""Grouped (product) quantization: parts of the latent vector quantized side by side."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from sqvae_speech.quantization import metrics
from sqvae_speech.quantization.base import Quantizer, QuantizerOutput, Rows
from sqvae_speech.quantization.noise import derived_seed


class GroupedQuantizer(Quantizer):
    """G quantizers, each of its own D/G channels; a position has G codes (G·N with residual groups of N stages).

    Given its latents a group is independent of the others, so posteriors multiply and losses add up. Any quantizer
    can be a group. The codes of residual groups lie stage by stage, stage 0 of all groups first, so that the first
    n·G codes decode to the first n stages.

    A head's ``log_var`` of one value is shared by the groups, one of D values is split like the latents.

    Args:
        groups: G quantizers of one class and shape.

    Raises:
        ValueError: no groups, or groups that differ.
    """

    composed = True

    def __init__(self, groups: Sequence[Quantizer]):
        if not groups:
            raise ValueError("a grouped quantizer needs at least one group")
        first = groups[0]
        for number, group in enumerate(groups):
            if group.shape_description() != first.shape_description():
                raise ValueError(
                    f"groups must be alike: group {number} is {group.shape_description()}, "
                    f"group 0 is {first.shape_description()}"
                )
        super().__init__(first.codebook_size, len(groups) * first.dim)
        self.num_stages = first.num_codebooks
        self.groups = nn.ModuleList(groups)

    @property
    def num_codebooks(self) -> int:
        return len(self.groups) * self.num_stages

    @property
    def log_var_channels(self) -> int:
        return self.dim if self.log_var_per_channel else self._group(0).log_var_channels

    @property
    def log_var_per_channel(self) -> bool:
        return self._group(0).log_var_per_channel

    @property
    def log_var_per_example(self) -> bool:
        return self._group(0).log_var_per_example

    def decoding_codebook(self) -> Tensor:
        """(G, K, D/G) the vectors of every group; (G, N, K, D/G) of residual groups."""
        return torch.stack([self._group(number).decoding_codebook() for number in range(len(self.groups))])

    def start_from(self, latents: Tensor, generator: torch.Generator) -> None:
        """Start each group from its channels of ``latents`` (M, D)."""
        for number, part in enumerate(latents.chunk(len(self.groups), dim=-1)):
            self._group(number).start_from(part, generator)

    def set_codebook(self, vectors: Tensor) -> None:
        """Replace the codebooks by ``vectors`` (G, K, D/G); (G, N, K, D/G) of residual groups.

        Raises:
            ValueError: another shape.
        """
        if len(vectors) != len(self.groups):
            raise ValueError(f"there are {len(self.groups)} groups, got codebooks {tuple(vectors.shape)}")
        for number, codebook in enumerate(vectors):
            self._group(number).set_codebook(codebook)

    def decode(self, indices: Tensor) -> Tensor:
        """Vectors of ``indices`` (B, *, n·G) int64, all groups of the first n stages -> (B, *, D).

        Raises:
            ValueError: a number of codes or an index that is out of range.
        """
        size, codes = len(self.groups), indices.shape[-1]
        if codes % size or not 1 <= codes // size <= self.num_stages:
            legal = ", ".join(str(size * stages) for stages in range(1, self.num_stages + 1))
            raise ValueError(f"indices must be (B, *, n) with n one of {legal}, got {tuple(indices.shape)}")
        parts = []
        for number in range(size):
            group, part = self._group(number), indices[..., number::size]
            parts.append(group.decode(part if group.composed else part[..., 0]))
        return torch.cat(parts, dim=-1)

    def _group(self, number: int) -> Quantizer:
        return self.groups[number]  # type: ignore[return-value]

    def _parts(self, rows: Rows) -> Iterator[tuple[Quantizer, Rows]]:
        """Every group with its channels of ``rows``."""
        size = len(self.groups)
        latents = rows.z.chunk(size, dim=-1)
        split = rows.log_var is not None and self.log_var_per_channel
        log_vars = rows.log_var.chunk(size, dim=-1) if split else (rows.log_var,) * size  # type: ignore[union-attr]
        for number in range(size):
            yield self._group(number), rows._replace(z=latents[number], log_var=log_vars[number])

    def _interleave(self, parts: list[Tensor]) -> Tensor:
        """Indices (rows,) or (rows, N), or posteriors with K behind, of every group -> (rows, N·G, ...)."""
        if not self._group(0).composed:
            return torch.stack(parts, dim=1)
        return torch.stack(parts, dim=2).flatten(1, 2)

    def _quantize(self, rows: Rows, temperature: float, sample: bool) -> QuantizerOutput:
        outputs = [group._quantize(part, temperature, sample) for group, part in self._parts(rows)]
        return QuantizerOutput(
            quantized=torch.cat([out.quantized for out in outputs], dim=-1),
            indices=self._interleave([out.indices for out in outputs]),
            loss=torch.stack([out.loss for out in outputs]).sum(),
            metrics=self._combine([out.metrics for out in outputs]),
        )

    def _combine(self, reports: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        if not self._group(0).composed:
            return metrics.combine_codebooks(reports)
        names = [f"perplexity_{stage}" for stage in range(self.num_stages)]
        combined = metrics.combine_codebooks(
            [{name: value for name, value in report.items() if name not in names} for report in reports]
        )
        each = [report[name] for name in names for report in reports]
        return combined | {f"perplexity_{number}": value for number, value in enumerate(each)}

    def posterior(self, z: Tensor, log_var: Tensor | None = None) -> Tensor:
        """The posterior of every code, (B, *, N·G, K)."""
        return super().posterior(z, log_var)

    def _posterior(self, rows: Rows) -> Tensor:
        return self._interleave([group._posterior(part) for group, part in self._parts(rows)])

    def _sample(self, rows: Rows, seed: int) -> Tensor:
        parts = enumerate(self._parts(rows))
        return self._interleave([group._sample(part, derived_seed(seed, number)) for number, (group, part) in parts])

    def _nearest(self, rows: Rows) -> Tensor:
        return self._interleave([group._nearest(part) for group, part in self._parts(rows)])

    def describe(self) -> str:
        return f"GroupedQuantizer of {len(self.groups)} x {self._group(0).describe()}"

    def extra_repr(self) -> str:
        return f"num_groups={len(self.groups)}"
