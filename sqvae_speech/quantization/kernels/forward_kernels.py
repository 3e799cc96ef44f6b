"""The forward kernels: one pass over the codebook for each block of rows, and the sums of the posterior."""

import triton
import triton.language as tl

from sqvae_speech.quantization.kernels.tiles import (
    along_rows,
    gumbel,
    inverse,
    less_normaliser,
    load_centred,
    load_queries,
    other_kernel_has,
    row_keys,
    store_matrix,
    tile_logits,
)


@triton.jit
def forward_kernel(
    z_ptr, codebook_ptr, weight_ptr, centre_ptr, bias_ptr, wide_ptr, seed_ptr,
    quantized_ptr, entropy_ptr, indices_ptr, statistics_ptr,
    num_rows, codebook_size, weight_stride, temperature: tl.float64,
    dim: tl.constexpr, GAUSSIAN: tl.constexpr, DIAGONAL: tl.constexpr,
    LOGIT: tl.constexpr, T: tl.constexpr, PRECISION: tl.constexpr,
    ADAPTIVE: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """A program takes BLOCK_N rows past all codes, with two softmaxes at once: the posterior and the relaxed sample.

    Of the posterior it carries the maximum m, Σ e^(l-m) and Σ e^(l-m) (l-m), from which the entropy follows; of the
    sample the maximum, the sum and the mixture of codes. When a maximum rises, all of them are scaled to the new one.
    """
    block = tl.program_id(0)
    if other_kernel_has(
        wide_ptr, block * BLOCK_N, tl.minimum((block + 1) * BLOCK_N, num_rows), BLOCK_N, ADAPTIVE, LOGIT
    ):
        return
    rows = block * BLOCK_N + tl.arange(0, BLOCK_N)
    z, weight = load_queries(
        z_ptr, centre_ptr, weight_ptr, rows, num_rows, weight_stride, dim, BLOCK_D, DIAGONAL, LOGIT
    )
    first, second = row_keys(seed_ptr, rows)
    inverse_temperature = inverse(temperature, LOGIT)

    peak = tl.full((BLOCK_N,), float("-inf"), LOGIT)
    total = tl.zeros((BLOCK_N,), T)
    moment = tl.zeros((BLOCK_N,), T)
    best = tl.zeros((BLOCK_N,), tl.int32)
    noisy_peak = tl.full((BLOCK_N,), float("-inf"), LOGIT)
    noisy_total = tl.zeros((BLOCK_N,), T)
    mixture = tl.zeros((BLOCK_N, BLOCK_D), T)

    for start in range(0, codebook_size, BLOCK_K):
        codes = start + tl.arange(0, BLOCK_K)
        code = load_centred(codebook_ptr, centre_ptr, codes, codebook_size, dim, BLOCK_D, LOGIT)
        logits = tile_logits(
            z, weight, code, z_ptr, weight_ptr, codebook_ptr, centre_ptr, bias_ptr,
            rows, num_rows, codes, codebook_size, dim, BLOCK_D, GAUSSIAN, DIAGONAL, False, PRECISION, LOGIT,
        )  # fmt: skip
        # ties go to the lower code, within a block by the reduction and between blocks by the strict comparison
        top, argtop = tl.max(logits, axis=1, return_indices=True, return_indices_tie_break_left=True)
        best = tl.where(top > peak, start + argtop, best)
        new_peak = tl.maximum(peak, top)
        # at the first block the old maximum is -inf, and its product with a zero sum would not be a number
        shift = tl.where(total > 0.0, (peak - new_peak).to(T), -1.0)
        scale = tl.exp(shift)
        below = (logits - new_peak[:, None]).to(T)
        density = tl.exp(below)
        moment = scale * (moment + total * shift) + tl.sum(density * below, axis=1)
        total = scale * total + tl.sum(density, axis=1)
        peak = new_peak

        noise = gumbel(first[:, None], second[:, None], codes[None, :], T)
        noisy = (logits + noise.to(LOGIT)) * inverse_temperature
        new_peak = tl.maximum(noisy_peak, tl.max(noisy, axis=1))
        scale = tl.exp((noisy_peak - new_peak).to(T))
        sample = tl.exp((noisy - new_peak[:, None]).to(T))
        noisy_total = scale * noisy_total + tl.sum(sample, axis=1)
        mixture = tl.dot(sample, code.to(T), mixture * scale[:, None], input_precision=PRECISION, out_dtype=T)
        noisy_peak = new_peak

    store_matrix(quantized_ptr, mixture / noisy_total[:, None], rows, num_rows, dim, BLOCK_D)
    inside = rows < num_rows
    log_total = tl.log(total)
    tl.store(entropy_ptr + rows, log_total - moment / total, mask=inside)
    tl.store(indices_ptr + rows, best.to(tl.int64), mask=inside)
    normaliser = peak.to(tl.float64) + log_total.to(tl.float64)
    tl.store(statistics_ptr + rows, normaliser, mask=inside)
    normaliser = noisy_peak.to(tl.float64) + tl.log(noisy_total).to(tl.float64)
    tl.store(statistics_ptr + num_rows + rows, normaliser, mask=inside)


@triton.jit
def posterior_sum_kernel(
    z_ptr, codebook_ptr, weight_ptr, centre_ptr, bias_ptr, wide_ptr, mask_ptr, statistics_ptr, partial_ptr,
    num_rows, codebook_size, weight_stride, rows_per_split,
    dim: tl.constexpr, GAUSSIAN: tl.constexpr, DIAGONAL: tl.constexpr, MASKED: tl.constexpr,
    LOGIT: tl.constexpr, T: tl.constexpr, PRECISION: tl.constexpr,
    ADAPTIVE: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """A program sums the posterior of BLOCK_K codes over one split of the rows; ``partial`` is (splits, K).

    The posterior is known only when the forward pass has seen all codes, hence the second product of rows and codes.
    """
    codes = tl.program_id(0) * BLOCK_K + tl.arange(0, BLOCK_K)
    split = tl.program_id(1)
    first_row = split * rows_per_split
    last_row = tl.minimum(first_row + rows_per_split, num_rows)
    if other_kernel_has(wide_ptr, first_row, last_row, 1024, ADAPTIVE, LOGIT):
        return
    code = load_centred(codebook_ptr, centre_ptr, codes, codebook_size, dim, BLOCK_D, LOGIT)
    total = tl.zeros((BLOCK_K,), T)
    for start in range(first_row, last_row, BLOCK_N):
        rows = start + tl.arange(0, BLOCK_N)
        z, weight = load_queries(
            z_ptr, centre_ptr, weight_ptr, rows, num_rows, weight_stride, dim, BLOCK_D, DIAGONAL, LOGIT
        )
        logits = tile_logits(
            z, weight, code, z_ptr, weight_ptr, codebook_ptr, centre_ptr, bias_ptr,
            rows, num_rows, codes, codebook_size, dim, BLOCK_D, GAUSSIAN, DIAGONAL, True, PRECISION, LOGIT,
        )  # fmt: skip
        posterior = tl.exp(less_normaliser(logits, statistics_ptr, rows, num_rows, True, T, LOGIT))
        if MASKED:
            real = tl.load(mask_ptr + rows, mask=rows < num_rows, other=0)
            posterior = tl.where(along_rows(real != 0, True), posterior, 0.0)
        total += tl.sum(posterior, axis=1)
    offset = split.to(tl.int64) * codebook_size
    tl.store(partial_ptr + offset + codes, total, mask=codes < codebook_size)
