"""Transformers, causal or not: pre-norm (RMSNorm), rotary positions (arXiv 2104.09864), SwiGLU (arXiv 2002.05202)."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROTARY_BASE = 10_000.0


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of a transformer.

    Attributes:
        dim: width of the residual stream.
        num_layers: blocks of attention and feed-forward.
        num_heads: of attention; each is ``dim / num_heads`` wide, an even number.
        hidden_ratio: width of the feed-forward, relative to ``dim``. SwiGLU has three matrices: 8/3 gives as many
            weights as a plain feed-forward of four times ``dim``.
        dropout: of the embeddings and of what each block adds. (Not of attention's weights: fused kernels that have
            it are slower, and on a CPU there is none.)
    """

    dim: int = 256
    num_layers: int = 6
    num_heads: int = 4
    hidden_ratio: float = 8 / 3
    dropout: float = 0.1

    def __post_init__(self) -> None:
        for name in ("dim", "num_layers", "num_heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.dim % (2 * self.num_heads):
            raise ValueError(f"dim must be a multiple of 2 * num_heads = {2 * self.num_heads}, got {self.dim}")
        if not self.hidden_ratio > 0:
            raise ValueError(f"hidden_ratio must be positive, got {self.hidden_ratio}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")


class KeyValueCache:
    """Keys and values of the positions that a transformer has read, for one new position at a time.

    Args:
        config: of the transformer.
        batch: sequences.
        capacity: positions at most.
        like: a tensor of the transformer, for device and dtype.
    """

    def __init__(self, config: TransformerConfig, batch: int, capacity: int, like: Tensor):
        head_dim = config.dim // config.num_heads
        shape = (config.num_layers, batch, config.num_heads, capacity, head_dim)
        self.keys = torch.empty(shape, device=like.device, dtype=like.dtype)
        self.values = torch.empty_like(self.keys)
        self.length = 0

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store the keys and values (B, H, T, d) of a layer's new positions; returns those of all positions."""
        end = self.length + keys.shape[2]
        self.keys[layer, :, :, self.length : end] = keys
        self.values[layer, :, :, self.length : end] = values
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]


class _Attention(nn.Module):
    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.num_heads = config.num_heads
        self.qkv = nn.Linear(config.dim, 3 * config.dim, bias=False)
        self.out = nn.Linear(config.dim, config.dim, bias=False)

    def forward(
        self, x: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor | None, cache: KeyValueCache | None, layer: int
    ) -> Tensor:
        batch, length, dim = x.shape
        queries, keys, values = (
            part.view(batch, length, self.num_heads, -1).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1)
        )
        queries, keys = _rotate(queries, rotation), _rotate(keys, rotation)
        if cache is not None:
            keys, values = cache.extend(layer, keys, values)
        attended = F.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=mask,
            is_causal=mask is None and length > 1,  # a single new position sees all that is there
        )
        return self.out(attended.transpose(1, 2).reshape(batch, length, dim))


class _FeedForward(nn.Module):
    def __init__(self, config: TransformerConfig):
        super().__init__()
        hidden = 8 * math.ceil(config.hidden_ratio * config.dim / 8)
        self.gate_and_value = nn.Linear(config.dim, 2 * hidden, bias=False)
        self.out = nn.Linear(hidden, config.dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.gate_and_value(x).chunk(2, dim=-1)
        return self.out(F.silu(gate) * value)


class _Block(nn.Module):
    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.dim)
        self.attention = _Attention(config)
        self.feed_forward_norm = nn.RMSNorm(config.dim)
        self.feed_forward = _FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor | None, cache: KeyValueCache | None, layer: int
    ) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x), rotation, mask, cache, layer))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


class _Transformer(nn.Module):
    """The blocks, and the rotations of their positions: relative, so that only order and distance count."""

    frequencies: Tensor

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.config = config
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.num_layers))
        self.norm = nn.RMSNorm(config.dim)
        head_dim = config.dim // config.num_heads
        frequencies = ROTARY_BASE ** -(torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
        self.register_buffer("frequencies", frequencies.float(), persistent=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                # the residual stream is a sum of 2 * num_layers terms: it keeps its scale whatever the depth (GPT-2)
                depth = 2 * config.num_layers if name.endswith("out.weight") else 1
                nn.init.normal_(parameter, std=0.02 / math.sqrt(depth))

    def _run(self, x: Tensor, mask: Tensor | None, start: int = 0, cache: KeyValueCache | None = None) -> Tensor:
        positions = torch.arange(start, start + x.shape[1], device=x.device)
        angles = torch.outer(positions.float(), self.frequencies)
        rotation = (angles.cos(), angles.sin())
        x = self.dropout(x)
        for layer, block in enumerate(self.blocks):
            x = block(x, rotation, mask, cache, layer)
        return self.norm(x)


class CausalTransformer(_Transformer):
    """Embeddings to hidden states, each computed from its own position and those before it."""

    def forward(self, x: Tensor, segments: Tensor | None = None, cache: KeyValueCache | None = None) -> Tensor:
        """Hidden states, normalised.

        Args:
            x: (B, T, dim) embeddings.
            segments: (B, T) integers; a position sees only those of its own segment. None: one segment.
            cache: what was read before, which ``x`` continues, and which is extended by it. With a cache that is not
                empty T is 1, and ``segments`` is None.

        Returns:
            (B, T, dim).
        """
        length = x.shape[1]
        start = 0 if cache is None else cache.length
        if start and (length > 1 or segments is not None):
            raise ValueError(f"a cache that is not empty is continued by one position of one segment, not {length}")
        mask = None
        if segments is not None:
            causal = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
            mask = (causal & (segments[:, :, None] == segments[:, None, :]))[:, None]
        x = self._run(x, mask, start, cache)
        if cache is not None:
            cache.length += length
        return x


class BidirectionalTransformer(_Transformer):
    """Embeddings to hidden states, each computed from all positions of its sequence."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Hidden states, normalised.

        Args:
            x: (B, T, dim) embeddings.
            mask: (B, T) bool, True = real; what is padding is seen by nothing.

        Returns:
            (B, T, dim); of padding, anything.
        """
        return self._run(x, mask[:, None, None])


def _rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Turn the pairs (i, i + d/2) of (B, H, T, d) by the angles of their positions; in float32."""
    cos, sin = rotation
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1).to(x.dtype)
