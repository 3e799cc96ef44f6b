"""What tools/bench_quantizer.py measures: one training step (forward and backward) of every quantizer.

A contender is built for one problem and returns a function that does a step. All of one kind get the same latents,
heads and codebook, in the layout that each wants.
"""

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from sqvae_speech.quantization import GaussianQuantizer, VectorQuantizer, VmfQuantizer

Step = Callable[[], None]
TEMPERATURE = 0.9
KINDS = ("global", "position", "diagonal", "vmf", "vq")
OFFICIAL_NAMES = {"global": "gaussian_1", "position": "gaussian_3", "diagonal": "gaussian_4"}


@dataclass(frozen=True)
class Problem:
    """One size of one kind, on one device; ``official`` is the checkout of the published code, if any."""

    kind: str
    rows: int
    dim: int
    size: int
    device: str
    official: str | None = None

    def inputs(self) -> tuple[Tensor, Tensor | None, Tensor]:
        """Latents (B, 64, D), log-variance head or None, and codebook (K, D); always the same numbers."""
        generator = torch.Generator().manual_seed(1)
        z = torch.randn(self.rows // 64, 64, self.dim, generator=generator)
        codebook = torch.randn(self.size, self.dim, generator=generator)
        channels = {"position": 1, "diagonal": self.dim}.get(self.kind)
        head = None if channels is None else 0.1 * torch.randn(*z.shape[:2], channels, generator=generator)
        if self.kind == "vmf":
            z = nn.functional.normalize(z, dim=-1)
        z, codebook = z.to(self.device).requires_grad_(), codebook.to(self.device)
        return z, None if head is None else head.to(self.device).requires_grad_(), codebook

    def with_(self, **changes: Any) -> "Problem":
        return replace(self, **changes)


def _clear(leaves: list[Tensor]) -> None:
    for leaf in leaves:
        leaf.grad = None


def ours(problem: Problem, backend: str | None = None) -> Step:
    z, head, codebook = problem.inputs()
    if problem.kind == "vmf":
        quantizer: nn.Module = VmfQuantizer(problem.size, problem.dim, backend=backend)
    elif problem.kind == "vq":
        quantizer = VectorQuantizer(problem.size, problem.dim)
    else:
        quantizer = GaussianQuantizer(problem.size, problem.dim, problem.kind, backend=backend)
    quantizer.get_parameter("codebook").data.copy_(codebook)
    quantizer.to(problem.device).train()
    leaves = [z, *([] if head is None else [head]), *quantizer.parameters()]

    def step() -> None:
        _clear(leaves)
        out = quantizer(z, head, temperature=TEMPERATURE)
        (out.loss + out.quantized.sum()).backward()

    return step


def vector_quantize_pytorch(problem: Problem) -> Step:
    """Its defaults: Euclidean distance, codebook by moving averages."""
    from vector_quantize_pytorch import VectorQuantize

    z, _, codebook = problem.inputs()
    quantizer = VectorQuantize(dim=problem.dim, codebook_size=problem.size).to(problem.device).train()
    quantizer._codebook.embed.data.copy_(codebook[None])

    def step() -> None:
        _clear([z])
        quantized, _, loss = quantizer(z)
        (loss.sum() + quantized.sum()).backward()

    return step


def official_speech(problem: Problem) -> Step:
    module = _official(problem, "speech/model.py")
    z, head, codebook = problem.inputs()
    embedding = module.SQEmbedding(OFFICIAL_NAMES[problem.kind], problem.size, problem.dim)
    embedding.embedding.data.copy_(codebook)
    embedding.to(problem.device).train()
    scalar = torch.full((1,), 10.0, device=problem.device).log_().requires_grad_()
    leaves = [z, scalar, *([] if head is None else [head]), *embedding.parameters()]

    def step() -> None:
        _clear(leaves)
        log_var = scalar if head is None else head + scalar
        quantized, loss, _ = embedding(z, log_var, TEMPERATURE)
        (loss + quantized.sum()).backward()

    return step


def official_vision(problem: Problem) -> Step:
    module = _official(problem, "vision/quantizer.py")
    # the published function draws on "cuda" whatever the device of its inputs
    module.sample_gumbel = lambda shape, eps=1e-10: (
        -torch.log(-torch.log(torch.rand(shape, device=problem.device) + eps) + eps)
    )
    z, head, codebook = problem.inputs()
    images = z.detach().reshape(-1, 8, 8, problem.dim).permute(0, 3, 1, 2).contiguous().requires_grad_()
    codebook.requires_grad_()
    scalar = torch.full((1,), 10.0, device=problem.device).log_().requires_grad_()
    if problem.kind == "vmf":
        quantizer = module.VmfVectorQuantizer(problem.size, problem.dim, TEMPERATURE)
    else:
        name = OFFICIAL_NAMES[problem.kind]
        quantizer = module.GaussianVectorQuantizer(problem.size, problem.dim, TEMPERATURE, name)
        if head is not None:
            head = head.detach().reshape(len(images), 8, 8, -1).permute(0, 3, 1, 2).contiguous().requires_grad_()
    leaves = [images, scalar, codebook, *([] if head is None else [head])]

    def step() -> None:
        _clear(leaves)
        scale = scalar.exp() if head is None else head.exp() + scalar.exp()
        quantized, loss, _ = quantizer(images, scale, codebook, True)
        (loss + quantized.sum()).backward()

    return step


CONTENDERS: dict[str, Callable[[Problem], Step]] = {
    "ours": ours,
    "ours, eager blocks": lambda problem: ours(problem, "torch"),
    "ours, plain": lambda problem: ours(problem, "reference"),
    "vector-quantize-pytorch": vector_quantize_pytorch,
    "official speech": official_speech,
    "official vision": official_vision,
}


def contenders(problem: Problem) -> list[str]:
    """Who can take part in ``problem``, in order of the table."""
    names = ["ours"]
    if problem.kind != "vq":
        names += ["ours, eager blocks", "ours, plain"]
    if importlib.util.find_spec("vector_quantize_pytorch"):
        names.append("vector-quantize-pytorch")
    if problem.official is not None:
        if problem.kind in OFFICIAL_NAMES:
            names.append("official speech")
        if problem.kind in ("global", "position", "vmf"):
            names.append("official vision")
    return names


def needed_bytes(name: str, problem: Problem) -> float:
    """About what a step of ``name`` takes: arrays alive at the peak, as measured at K = 512, times their size."""
    cells = 4.0 * problem.rows * problem.size
    return {
        "official speech": 5.2 * problem.dim * cells,
        "official vision": 10 * cells,
        "ours, plain": 10 * cells,
    }.get(name, 3 * cells if name == "vector-quantize-pytorch" else 0.0)


def _official(problem: Problem, path: str) -> ModuleType:
    assert problem.official is not None
    file = Path(problem.official) / path
    if not file.is_file():
        raise SystemExit(f"{problem.official} has no {path}: --official wants a checkout of github.com/sony/sqvae")
    name = f"official_{file.stem}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]
