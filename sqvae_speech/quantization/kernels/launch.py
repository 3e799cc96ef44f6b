"""Launching the kernels: dtypes, block sizes, the splits of the rows, and the sums over splits."""

import functools
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from sqvae_speech.quantization import functional
from sqvae_speech.quantization.kernels import AUTOTUNE_VARIABLE, PRECISION_VARIABLE
from sqvae_speech.quantization.kernels.backward_kernels import backward_codes_kernel, backward_rows_kernel
from sqvae_speech.quantization.kernels.forward_kernels import forward_kernel, posterior_sum_kernel
from sqvae_speech.quantization.kernels.interpreter import interpreting, repair
from sqvae_speech.quantization.kernels.tiles import wide_kernel

if interpreting():
    repair()

# name -> (input_precision of tl.dot, dtypes of the logits of float32 inputs; of two, each block of rows has its own)
PRECISIONS = {
    "auto": ("tf32x3", (torch.float32, torch.float64)),
    "tf32x3": ("tf32x3", (torch.float32,)),
    "ieee": ("ieee", (torch.float32,)),
    "float64": ("tf32x3", (torch.float64,)),
}
TRITON_DTYPES = {torch.float32: tl.float32, torch.float64: tl.float64}


class Config(NamedTuple):
    """Block sizes and scheduling of one launch."""

    block_n: int
    block_k: int
    num_warps: int
    num_stages: int


class Problem:
    """What all kernels are told about one call."""

    def __init__(self, z: Tensor, codebook: Tensor, weight: Tensor, seed: Tensor, temperature: float, kind: str):
        if z.dim() != 2 or codebook.dim() != 2 or z.shape[1] != codebook.shape[1]:
            raise ValueError(
                f"z must be (N, D) and codebook (K, D), got {tuple(z.shape)} and {tuple(codebook.shape)}"
            )
        if tuple(weight.shape) not in {(1, 1), (len(z), 1), tuple(z.shape)}:
            raise ValueError(
                f"weight must be (1, 1), (N, 1) or (N, D) for z {tuple(z.shape)}, got {tuple(weight.shape)}"
            )
        self.z, self.codebook, self.weight = z.contiguous(), codebook.contiguous(), weight.contiguous()
        self.seed, self.temperature = seed, float(temperature)
        self.num_rows, self.dim = z.shape
        self.codebook_size = len(codebook)
        self.gaussian, self.diagonal = kind == "gaussian", weight.shape[-1] > 1
        self.dtype = functional.at_least_float32(z).dtype
        self.precision, self.logit_dtypes = _precision(self.dtype)
        self.block_d = max(16, triton.next_power_of_2(self.dim))
        dtype = self.logit_dtypes[-1]
        # the same numbers as the operator's, for which q is less the centre; then exact in float64 logits
        centre = (
            functional.centre(functional.at_least_float32(codebook))
            if self.gaussian
            else codebook.new_zeros(self.dim)
        )
        self.centre = centre.to(dtype)
        self.bias = self._half_squares(dtype) if self.gaussian and not self.diagonal else self.centre
        self.wide = self._wide_rows() if self.adaptive else self.centre

    @property
    def adaptive(self) -> bool:
        return len(self.logit_dtypes) > 1

    def has_rows(self, logit_dtype: torch.dtype) -> bool:
        """Whether any row's logits are made in ``logit_dtype``; waits for the device."""
        return not self.adaptive or bool((self.wide.bool() == (logit_dtype == torch.float64)).any())

    def _half_squares(self, dtype: torch.dtype) -> Tensor:
        return (self.codebook.to(dtype) - self.centre).square().sum(dim=-1).mul_(-0.5)

    def _wide_rows(self) -> Tensor:
        wide = torch.empty(self.num_rows, dtype=torch.int8, device=self.z.device)
        radius = torch.linalg.vector_norm(self.codebook.float() - self.centre.float(), dim=-1).amax()
        if self.num_rows:
            block = 64 if self.block_d <= 64 else 16
            wide_kernel[(triton.cdiv(self.num_rows, block),)](
                self.z,
                self.weight,
                self.centre,
                radius,
                wide,
                self.num_rows,
                self.sizes()[2],
                dim=self.dim,
                GAUSSIAN=self.gaussian,
                DIAGONAL=self.diagonal,
                BLOCK_N=block,
                BLOCK_D=self.block_d,
            )
        return wide

    def inputs(self) -> tuple[Tensor, ...]:
        """The first arguments of every kernel."""
        return self.z, self.codebook, self.weight, self.centre, self.bias, self.wide

    def sizes(self) -> tuple[int, int, int]:
        """The next arguments: rows, codes, and how far apart the weights of rows are."""
        return self.num_rows, self.codebook_size, 0 if self.weight.numel() == 1 else 1

    def options(self, config: Config, logit_dtype: torch.dtype) -> dict[str, Any]:
        return {
            "dim": self.dim,
            "GAUSSIAN": self.gaussian,
            "DIAGONAL": self.diagonal,
            "LOGIT": TRITON_DTYPES[logit_dtype],
            "T": TRITON_DTYPES[self.dtype],
            "PRECISION": self.precision,
            "ADAPTIVE": self.adaptive,
            "BLOCK_N": config.block_n,
            "BLOCK_K": config.block_k,
            "BLOCK_D": self.block_d,
            "num_warps": config.num_warps,
            "num_stages": config.num_stages,
        }

    def key(self) -> tuple[Any, ...]:
        """What the best block sizes depend on; the number of rows to the next power of two."""
        rows = triton.next_power_of_2(self.num_rows)
        shape = (rows, self.codebook_size, self.dim, self.gaussian, self.diagonal)
        return (*shape, self.dtype, self.precision, self.z.dtype, self.z.device)


def _precision(dtype: torch.dtype) -> tuple[str, tuple[torch.dtype, ...]]:
    name = os.environ.get(PRECISION_VARIABLE) or "auto"
    if name not in PRECISIONS:
        raise ValueError(f"{PRECISION_VARIABLE} must be one of {', '.join(PRECISIONS)}, got {name!r}")
    return ("ieee", (torch.float64,)) if dtype == torch.float64 else PRECISIONS[name]


def forward(
    z: Tensor, codebook: Tensor, weight: Tensor, seed: Tensor, mask: Tensor | None, temperature: float, kind: str
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See :func:`sqvae_speech.quantization.kernels.forward`."""
    problem = Problem(z, codebook, weight, seed, temperature, kind)
    quantized = problem.z.new_empty(problem.z.shape, dtype=problem.dtype)
    entropy = quantized.new_empty(problem.num_rows)
    indices = entropy.to(torch.int64)
    statistics = quantized.new_empty(2, problem.num_rows, dtype=torch.float64)
    posterior_sum = quantized.new_zeros(problem.codebook_size)
    if problem.num_rows == 0:
        return quantized, entropy, indices, posterior_sum, statistics

    def launch(config: Config, logit_dtype: torch.dtype) -> None:
        forward_kernel[(triton.cdiv(problem.num_rows, config.block_n),)](
            *problem.inputs(),
            problem.seed,
            quantized,
            entropy,
            indices,
            statistics,
            *problem.sizes(),
            problem.temperature,
            **problem.options(config, logit_dtype),
        )

    run("forward", problem, launch)
    return quantized, entropy, indices, _posterior_sum(problem, mask, statistics), statistics


def _posterior_sum(problem: Problem, mask: Tensor | None, statistics: Tensor) -> Tensor:
    splits, rows_per_split = row_splits(problem)
    partial = torch.empty(splits, problem.codebook_size, dtype=problem.dtype, device=problem.z.device)

    def launch(config: Config, logit_dtype: torch.dtype) -> None:
        posterior_sum_kernel[(triton.cdiv(problem.codebook_size, config.block_k), splits)](
            *problem.inputs(),
            None if mask is None else mask.contiguous().view(torch.int8),
            statistics,
            partial,
            *problem.sizes(),
            rows_per_split,
            MASKED=mask is not None,
            **problem.options(config, logit_dtype),
        )

    run("posterior_sum", problem, launch)
    return partial.sum(dim=0)


def backward(
    grad_quantized: Tensor,
    grad_entropy: Tensor,
    z: Tensor,
    codebook: Tensor,
    weight: Tensor,
    seed: Tensor,
    temperature: float,
    kind: str,
    quantized: Tensor,
    entropy: Tensor,
    statistics: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """See :func:`sqvae_speech.quantization.kernels.backward`."""
    problem = Problem(z, codebook, weight, seed, temperature, kind)
    grad_z = torch.empty_like(problem.z)
    if problem.num_rows == 0:
        return grad_z, torch.zeros_like(codebook), torch.zeros_like(weight)
    grad_quantized, grad_entropy = grad_quantized.contiguous(), grad_entropy.contiguous()
    grad_weight = quantized.new_empty(problem.num_rows, weight.shape[-1])
    delta = quantized.new_empty(problem.num_rows, dtype=torch.float64)

    def launch_rows(config: Config, logit_dtype: torch.dtype) -> None:
        backward_rows_kernel[(triton.cdiv(problem.num_rows, config.block_n),)](
            *problem.inputs(),
            problem.seed,
            quantized.contiguous(),
            entropy,
            statistics,
            grad_quantized,
            grad_entropy,
            grad_z,
            grad_weight,
            delta,
            *problem.sizes(),
            problem.temperature,
            **problem.options(config, logit_dtype),
        )

    splits, rows_per_split = row_splits(problem)
    partial = quantized.new_empty(splits, problem.codebook_size, problem.dim)

    def launch_codes(config: Config, logit_dtype: torch.dtype) -> None:
        backward_codes_kernel[(triton.cdiv(problem.codebook_size, config.block_k), splits)](
            *problem.inputs(),
            problem.seed,
            entropy,
            statistics,
            grad_quantized,
            grad_entropy,
            delta,
            partial,
            *problem.sizes(),
            rows_per_split,
            problem.temperature,
            **problem.options(config, logit_dtype),
        )

    run("backward_rows", problem, launch_rows)
    run("backward_codes", problem, launch_codes)
    grad_codebook = partial.sum(dim=0).to(codebook.dtype)
    return grad_z, grad_codebook, grad_weight.sum_to_size(weight.shape).to(weight.dtype)


# Block sizes. Tiles are (BLOCK_N, BLOCK_K); the operands that stay for the whole loop are BLOCK_D wide.

Launch = Callable[[Config, torch.dtype], None]
_chosen: dict[tuple[Any, ...], Config] = {}


def run(kernel: str, problem: Problem, launch: Launch) -> None:
    """Launch for every dtype of logits, with the block sizes of the table or, where asked for, with the fastest."""
    tune = os.environ.get(AUTOTUNE_VARIABLE) == "1" and not torch.are_deterministic_algorithms_enabled()
    for logit_dtype in problem.logit_dtypes:
        key = (kernel, logit_dtype, tune, *problem.key())
        if key in _chosen:
            launch(_chosen[key], logit_dtype)
        elif tune and problem.z.is_cuda and problem.has_rows(logit_dtype):
            _chosen[key] = fastest(candidates(kernel, problem, logit_dtype), launch, logit_dtype, _milliseconds)
            launch(_chosen[key], logit_dtype)
        else:
            config = first_that_fits(default_config(kernel, problem, logit_dtype), launch, logit_dtype)
            if not tune:
                _chosen[key] = config


def first_that_fits(config: Config, launch: Launch, logit_dtype: torch.dtype) -> Config:
    """Launch with ``config``, or with ever smaller blocks until the GPU has the shared memory for them."""
    while True:
        try:
            launch(config, logit_dtype)
            return config
        except triton.runtime.errors.OutOfResources:
            block_n, block_k, num_warps, num_stages = config
            if num_stages > 1:
                config = Config(block_n, block_k, num_warps, 1)
            elif max(block_n, block_k) > 16:
                halved = (block_n // 2, block_k) if block_n >= block_k else (block_n, block_k // 2)
                config = Config(*halved, num_warps, 1)
            else:
                raise


def fastest(
    configs: list[Config], launch: Launch, logit_dtype: torch.dtype, time: Callable[[Callable[[], None]], float]
) -> Config:
    """The config of the shortest time; those that do not fit the device are passed over.

    Raises:
        RuntimeError: none fits.
    """
    times: dict[Config, float] = {}
    for config in configs:
        try:
            times[config] = time(functools.partial(launch, config, logit_dtype))
        except triton.runtime.errors.OutOfResources:
            continue
    if not times:
        raise RuntimeError(f"none of {len(configs)} block sizes fits this GPU")
    return min(times, key=times.__getitem__)


def _milliseconds(function: Callable[[], None]) -> float:
    return triton.testing.do_bench(function, warmup=5, rep=30, return_mode="median")


@functools.cache
def _num_processors(device: torch.device) -> int:
    # the interpreter runs one program after the other; a few exercise the splits
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2


def row_splits(problem: Problem) -> tuple[int, int]:
    """Into how many parts the kernels over codes cut the rows, and the rows of a part.

    Enough that four programs come to each multiprocessor when codes are few; one part when codes alone suffice. The
    partial gradients then hold about 4 x processors x 64 codes, whatever K is. At most 8192 rows share a part, and
    with it one dtype of logits.
    """
    wanted = 4 * _num_processors(problem.z.device) // triton.cdiv(problem.codebook_size, 64)
    wanted = max(wanted, triton.cdiv(problem.num_rows, 8192))
    splits = min(wanted, triton.cdiv(problem.num_rows, 64))
    rows = triton.cdiv(triton.cdiv(problem.num_rows, splits), 64) * 64
    return triton.cdiv(problem.num_rows, rows), rows


def default_config(kernel: str, problem: Problem, logit_dtype: torch.dtype) -> Config:
    """Block sizes chosen by what must stay in registers and shared memory, compiled for Hopper; not yet measured."""
    size = problem.block_d * (2 if logit_dtype == torch.float64 else 1)
    if kernel not in ("forward", "backward_rows"):
        return Config(32, 64 if size <= 128 else 32, num_warps=8, num_stages=2)
    # as tall as leaves a program for every multiprocessor: each block of rows reads the whole codebook
    processors = _num_processors(problem.z.device)
    tall = next((n for n in (128, 64) if triton.cdiv(problem.num_rows, n) >= processors), 32)
    accumulators = size * (2 if problem.diagonal and kernel == "backward_rows" else 1)
    block_n = min(tall, 128 if size <= 64 else 64 if accumulators <= 256 else 32)
    return Config(block_n, 32, num_warps=8, num_stages=1 if problem.diagonal or size > 128 else 2)


def candidates(kernel: str, problem: Problem, logit_dtype: torch.dtype) -> list[Config]:
    """What the autotuner tries: the table's choice and its neighbours."""
    return list(dict.fromkeys((default_config(kernel, problem, logit_dtype), *_neighbours(problem))))


def _neighbours(problem: Problem) -> Iterator[Config]:
    for block_n in (32, 64, 128):
        for block_k in (32, 64, 128):
            if block_n * block_k > 8192 or (problem.block_d > 128 and block_n * block_k > 4096):
                continue
            for num_warps in (4, 8):
                for num_stages in (1, 2, 3):
                    yield Config(block_n, block_k, num_warps, num_stages)
