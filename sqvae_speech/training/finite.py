"""Stopping a run whose loss is not finite, with what caused it."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sqvae_speech.errors import UserError

_SHOWN = 8  # names in a message


class DivergedError(UserError):
    """The loss or a gradient is no longer finite. The message says where, and what the last good checkpoint is."""


class FiniteWatch:
    """Keeps an eye on loss and gradient norm of every step without waiting for a GPU at each.

    On a CPU a step is looked at before the optimiser takes it. On a GPU the first bad step is noted there, and read
    when :meth:`check` is called; until then its batch is kept.

    Args:
        device: that the run computes on.
        interval: steps between two calls of :meth:`check` at most.
        advice: says what is left and what to do, the end of the message.
        norm_counts: False where a gradient norm that is not finite is in order (fp16, whose scale is then lowered).
    """

    def __init__(self, device: torch.device, interval: int, advice: Callable[[], str], *, norm_counts: bool = True):
        self.advice = advice
        self.immediate = device.type == "cpu"
        self.norm_counts = norm_counts
        self._first_bad = torch.full((), -1, dtype=torch.int64, device=device)
        self._recent: deque[tuple[int, dict[str, Any], Mapping[str, Tensor]]] = deque(
            maxlen=1 if self.immediate else interval
        )

    def note(self, step: int, batch: dict[str, Any], scalars: Mapping[str, Tensor], model: nn.Module) -> None:
        """Look at a step, after its backward pass and before the optimiser's.

        Args:
            step: its number.
            batch: of it.
            scalars: ``loss`` and ``grad_norm``, and whatever helps to find the cause.
            model: whose gradients are looked through.

        Raises:
            DivergedError: on a CPU, when it is not finite.
        """
        self._recent.append((step, batch, scalars))
        names = ("loss", "grad_norm") if self.norm_counts else ("loss",)
        if self.immediate:
            if not all(math.isfinite(scalars[name]) for name in names):
                raise DivergedError(self._message(step, _broken_gradients(model.named_parameters())))
            return
        finite = torch.stack([torch.isfinite(scalars[name]) for name in names]).all()
        self._first_bad = torch.where((self._first_bad < 0) & ~finite, step, self._first_bad)

    def check(self) -> None:
        """Wait for the device and look at all steps so far.

        Raises:
            DivergedError: one was not finite.
        """
        if not self.immediate and (step := int(self._first_bad)) >= 0:
            raise DivergedError(self._message(step, ()))

    def _message(self, step: int, gradients: Iterable[str]) -> str:
        lines = [f"training has diverged: step {step} is not finite"]
        for number, batch, scalars in self._recent:
            if number != step:
                continue
            values = {name: float(value) for name, value in scalars.items()}
            shown = {"loss", "grad_norm"} | {name for name, value in values.items() if not math.isfinite(value)}
            lines.append("  " + ", ".join(f"{name} {values[name]:g}" for name in values if name in shown))
            lines.append(f"  batch: {describe_batch(batch)}")
        names = list(gradients)
        if names:
            more = ", ..." if len(names) > _SHOWN else ""
            lines.append(f"  gradients that are not finite: {', '.join(names[:_SHOWN])}{more}")
        return "\n".join([*lines, self.advice()])


def describe_batch(batch: Mapping[str, Any]) -> str:
    """Names of a batch's examples, and the range of its values or the examples whose values are not finite."""
    names = next((value for value in batch.values() if isinstance(value, list)), None)
    parts = []
    for key, value in batch.items():
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.numel() == 0:
            continue
        broken = (
            (~torch.isfinite(value)).flatten(1).any(dim=1).nonzero().flatten().tolist() if value.dim() > 1 else []
        )
        if broken:
            which = [str(names[number] if names else number) for number in broken[:_SHOWN]]
            parts.append(f"{key} is not finite in {', '.join(which)}{', ...' if len(broken) > _SHOWN else ''}")
        else:
            parts.append(f"{key} from {float(value.min()):g} to {float(value.max()):g}")
    if names is not None:
        parts.append(
            f"{len(names)} examples: {', '.join(map(str, names[:_SHOWN]))}{', ...' if len(names) > _SHOWN else ''}"
        )
    return "; ".join(parts)


def _broken_gradients(parameters: Iterable[tuple[str, nn.Parameter]]) -> list[str]:
    return [name for name, p in parameters if p.grad is not None and not bool(torch.isfinite(p.grad).all())]
