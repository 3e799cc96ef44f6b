"""What validation of anything needs: draws of its own, totals over processes."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

from sqvae_speech.quantization import CodebookStatistics

Function = TypeVar("Function", bound=Callable[..., Any])


def isolated_random_state(function: Function) -> Function:
    """Run ``function`` from a fixed seed and put the random states back: a run must not depend on its validations."""

    @functools.wraps(function)
    def isolated(*args: Any, **kwargs: Any) -> Any:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return function(*args, **kwargs)

    return cast(Function, isolated)


def over_processes(
    totals: dict[str, float], statistics: CodebookStatistics, world_size: int, device: torch.device
) -> dict[str, float]:
    """``totals`` summed over the processes, as are the counts of ``statistics``."""
    if world_size > 1:
        statistics.counts = statistics.counts.to(device)
        statistics.synchronize()
    return sum_over_processes(totals, world_size, device)


def sum_over_processes(totals: dict[str, float], world_size: int, device: torch.device) -> dict[str, float]:
    """``totals`` summed over the processes, all of which have the same names."""
    if world_size == 1:
        return totals
    summed = torch.tensor(list(totals.values()), dtype=torch.float64, device=device)
    torch.distributed.all_reduce(summed)
    return dict(zip(totals, summed.tolist(), strict=True))
