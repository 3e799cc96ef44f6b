"""The backward kernels: one over blocks of rows, one over blocks of codes, both drawing logits and noise again.

Neither uses atomic additions, so gradients are the same from run to run: what belongs to a row is summed by the one
program that owns the row, what belongs to a code by the programs that own the code, each over a split of the rows,
and the splits are added afterwards in a fixed order.
"""

import triton
import triton.language as tl

from sqvae_speech.quantization.kernels.tiles import (
    along_rows,
    inverse,
    load_centred,
    load_matrix,
    load_queries,
    other_kernel_has,
    store_matrix,
    tile_gradient,
    tile_logits,
    tile_products,
)


@triton.jit
def backward_rows_kernel(
    z_ptr, codebook_ptr, weight_ptr, centre_ptr, bias_ptr, wide_ptr, seed_ptr,
    quantized_ptr, entropy_ptr, statistics_ptr, grad_quantized_ptr, grad_entropy_ptr,
    grad_z_ptr, grad_weight_ptr, delta_ptr,
    num_rows, codebook_size, weight_stride, temperature: tl.float64,
    dim: tl.constexpr, GAUSSIAN: tl.constexpr, DIAGONAL: tl.constexpr,
    LOGIT: tl.constexpr, T: tl.constexpr, PRECISION: tl.constexpr,
    ADAPTIVE: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Gradients of z and weight, the latter (N, 1) or (N, D), and <G, q> for the kernel over codes.

    The gradients of a row's logits sum to zero, but <G, q> carries the rounding of q, and where the sample is nearly
    one code and the precision high, that is all there is. So moments of the codes are taken about q, where what the
    gradients have in common drops out, and what they sum to corrects <G, q>.
    """
    block = tl.program_id(0)
    if other_kernel_has(
        wide_ptr, block * BLOCK_N, tl.minimum((block + 1) * BLOCK_N, num_rows), BLOCK_N, ADAPTIVE, LOGIT
    ):
        return
    rows = block * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = rows < num_rows
    z, weight = load_queries(
        z_ptr, centre_ptr, weight_ptr, rows, num_rows, weight_stride, dim, BLOCK_D, DIAGONAL, LOGIT
    )
    outer = load_matrix(grad_quantized_ptr, rows, num_rows, dim, BLOCK_D, LOGIT)
    mixture = load_matrix(quantized_ptr, rows, num_rows, dim, BLOCK_D, LOGIT)
    delta = tl.sum(outer * mixture, axis=1)
    inverse_temperature = inverse(temperature, LOGIT)

    residual = tl.zeros((BLOCK_N,), T)
    grad_sum = tl.zeros((BLOCK_N,), T)
    first_moment = tl.zeros((BLOCK_N, BLOCK_D), T)
    if DIAGONAL:
        second_moment = tl.zeros((BLOCK_N, BLOCK_D), T)
    else:
        grad_scale = tl.zeros((BLOCK_N,), T)
    for start in range(0, codebook_size, BLOCK_K):
        codes = start + tl.arange(0, BLOCK_K)
        code = load_centred(codebook_ptr, centre_ptr, codes, codebook_size, dim, BLOCK_D, LOGIT)
        logits = tile_logits(
            z, weight, code, z_ptr, weight_ptr, codebook_ptr, centre_ptr, bias_ptr,
            rows, num_rows, codes, codebook_size, dim, BLOCK_D, GAUSSIAN, DIAGONAL, False, PRECISION, LOGIT,
        )  # fmt: skip
        products = tile_products(
            outer, code, grad_quantized_ptr, codebook_ptr, centre_ptr, rows, num_rows, codes, codebook_size,
            dim, BLOCK_D, False, PRECISION, LOGIT,
        )  # fmt: skip
        grad, _, pull, log_p = tile_gradient(
            logits, products, seed_ptr, entropy_ptr, grad_entropy_ptr, delta, statistics_ptr,
            rows, codes, num_rows, inverse_temperature, False, T, LOGIT,
        )  # fmt: skip
        residual += tl.sum(pull, axis=1)
        grad_sum += tl.sum(grad, axis=1)
        first_moment = tl.dot(grad, code.to(T), first_moment, input_precision=PRECISION, out_dtype=T)
        if DIAGONAL:
            half_square = (-0.5 * code * code).to(T)
            second_moment = tl.dot(grad, half_square, second_moment, input_precision=PRECISION, out_dtype=T)
        else:
            # of logits, an offset is without effect
            grad_scale += tl.sum(grad * log_p, axis=1)

    tl.store(delta_ptr + rows, delta.to(tl.float64) + residual.to(tl.float64), mask=inside)
    # what the loop does not need is loaded again rather than held in registers
    mixture = load_matrix(quantized_ptr, rows, num_rows, dim, BLOCK_D, T)
    z, weight = load_queries(
        z_ptr, centre_ptr, weight_ptr, rows, num_rows, weight_stride, dim, BLOCK_D, DIAGONAL, LOGIT
    )
    about_mixture = first_moment - mixture * grad_sum[:, None]
    scale = weight if DIAGONAL else weight[:, None]
    store_matrix(grad_z_ptr, scale.to(T) * about_mixture, rows, num_rows, dim, BLOCK_D)
    if DIAGONAL:
        # Σ dl (z b - b²/2), with b = q + (b - q)
        grad_weight = second_moment + mixture * (first_moment - 0.5 * mixture * grad_sum[:, None])
        grad_weight += (z.to(T) - mixture) * about_mixture
        store_matrix(grad_weight_ptr, grad_weight, rows, num_rows, dim, BLOCK_D)
    else:
        tl.store(grad_weight_ptr + rows, grad_scale / tl.where(inside, weight, 1.0).to(T), mask=inside)


@triton.jit
def backward_codes_kernel(
    z_ptr, codebook_ptr, weight_ptr, centre_ptr, bias_ptr, wide_ptr, seed_ptr,
    entropy_ptr, statistics_ptr, grad_quantized_ptr, grad_entropy_ptr, delta_ptr, partial_ptr,
    num_rows, codebook_size, weight_stride, rows_per_split, temperature: tl.float64,
    dim: tl.constexpr, GAUSSIAN: tl.constexpr, DIAGONAL: tl.constexpr,
    LOGIT: tl.constexpr, T: tl.constexpr, PRECISION: tl.constexpr,
    ADAPTIVE: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """The gradient of BLOCK_K codes from one split of the rows; ``partial`` is (splits, K, D)."""
    codes = tl.program_id(0) * BLOCK_K + tl.arange(0, BLOCK_K)
    split = tl.program_id(1)
    first_row = split * rows_per_split
    last_row = tl.minimum(first_row + rows_per_split, num_rows)
    if other_kernel_has(wide_ptr, first_row, last_row, 1024, ADAPTIVE, LOGIT):
        return
    code = load_centred(codebook_ptr, centre_ptr, codes, codebook_size, dim, BLOCK_D, LOGIT)
    inverse_temperature = inverse(temperature, LOGIT)

    grad_code = tl.zeros((BLOCK_K, BLOCK_D), T)
    if DIAGONAL:
        pull = tl.zeros((BLOCK_K, BLOCK_D), T)
    else:
        pull = tl.zeros((BLOCK_K,), T)
    for start in range(first_row, last_row, BLOCK_N):
        rows = start + tl.arange(0, BLOCK_N)
        z, weight = load_queries(
            z_ptr, centre_ptr, weight_ptr, rows, num_rows, weight_stride, dim, BLOCK_D, DIAGONAL, LOGIT
        )
        logits = tile_logits(
            z, weight, code, z_ptr, weight_ptr, codebook_ptr, centre_ptr, bias_ptr,
            rows, num_rows, codes, codebook_size, dim, BLOCK_D, GAUSSIAN, DIAGONAL, True, PRECISION, LOGIT,
        )  # fmt: skip
        outer = load_matrix(grad_quantized_ptr, rows, num_rows, dim, BLOCK_D, LOGIT)
        delta = tl.load(delta_ptr + rows, mask=rows < num_rows, other=0.0)
        products = tile_products(
            outer, code, grad_quantized_ptr, codebook_ptr, centre_ptr, rows, num_rows, codes, codebook_size,
            dim, BLOCK_D, True, PRECISION, LOGIT,
        )  # fmt: skip
        grad, sample, _, _ = tile_gradient(
            logits, products, seed_ptr, entropy_ptr, grad_entropy_ptr, delta, statistics_ptr,
            rows, codes, num_rows, inverse_temperature, True, T, LOGIT,
        )  # fmt: skip
        grad_code = tl.dot(sample, outer.to(T), grad_code, input_precision=PRECISION, out_dtype=T)
        if DIAGONAL:
            weighted = (weight * z).to(T)
            pull = tl.dot(grad, weight.to(T), pull, input_precision=PRECISION, out_dtype=T)
        else:
            weighted = (weight[:, None] * z).to(T)
            pull += tl.sum(grad * along_rows(weight, True).to(T), axis=1)
        grad_code = tl.dot(grad, weighted, grad_code, input_precision=PRECISION, out_dtype=T)

    if GAUSSIAN:
        code = load_centred(codebook_ptr, centre_ptr, codes, codebook_size, dim, BLOCK_D, LOGIT)
        grad_code -= code.to(T) * (pull if DIAGONAL else pull[:, None])
    partial_ptr += split.to(tl.int64) * codebook_size * dim
    store_matrix(partial_ptr, grad_code, codes, codebook_size, dim, BLOCK_D)
