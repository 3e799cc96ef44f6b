"""From what an encoder says of the variance to what a quantizer takes, for latents of any shape."""

import torch
from torch import Tensor

from sqvae_speech.quantization import Quantizer


def log_var_for(quantizer: Quantizer, head: Tensor, mask: Tensor | None = None) -> Tensor | None:
    """The log-variance in the quantizer's form.

    Args:
        quantizer: of any kind.
        head: (B, *, C) at every position; C is the quantizer's ``log_var_channels``, or more where it takes one
            value, which is then the mean over them (the published image code).
        mask: (B, *) bool, the real positions, or None when all are.

    Returns:
        None for a quantizer without a head; (B, 1.., 1), the mean over the real positions, where it takes one value
        an example; else (B, *, 1) or (B, *, D).
    """
    channels = quantizer.log_var_channels
    if channels == 0:
        return None
    if channels == 1 and head.shape[-1] > 1:
        head = head.mean(dim=-1, keepdim=True)
    if not quantizer.log_var_per_example:
        return head
    positions = tuple(range(1, head.dim() - 1))
    if mask is None:
        return head.mean(dim=positions, keepdim=True)
    mask = mask[..., None]
    count = mask.sum(dim=positions, keepdim=True).clamp(min=1)
    return torch.where(mask, head, 0.0).sum(dim=positions, keepdim=True) / count
