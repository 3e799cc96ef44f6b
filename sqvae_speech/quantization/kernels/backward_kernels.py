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
    product,
    store_matrix,
    tile_gradient,
    tile_logits,
)


@triton.jit
def backward_rows_kernel(
    z_ptr, codebook_ptr, weight_ptr, centre_ptr, bias_ptr, seed_ptr,
    quantized_ptr, entropy_ptr, statistics_ptr, grad_quantized_ptr, grad_entropy_ptr,
    grad_z_ptr, grad_weight_ptr, delta_ptr,
    num_rows, codebook_size, weight_stride, temperature: tl.float64,
    dim: tl.constexpr, GAUSSIAN: tl.constexpr, DIAGONAL: tl.constexpr,
    LOGIT: tl.constexpr, T: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Gradients of z and weight, the latter (N, 1) or (N, D), and <G, q - centre> for the kernel over codes."""
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = rows < num_rows
    z, weight = load_queries(
        z_ptr, centre_ptr, weight_ptr, rows, num_rows, weight_stride, dim, BLOCK_D, DIAGONAL, LOGIT
    )
    outer = load_matrix(grad_quantized_ptr, rows, num_rows, dim, BLOCK_D, T)
    mixture = load_centred(quantized_ptr, centre_ptr, rows, num_rows, dim, BLOCK_D, T)
    delta = tl.sum(outer * mixture, axis=1)
    tl.store(delta_ptr + rows, delta, mask=inside)
    inverse_temperature = inverse(temperature, LOGIT)

    first_moment = tl.zeros((BLOCK_N, BLOCK_D), T)
    if DIAGONAL:
        second_moment = tl.zeros((BLOCK_N, BLOCK_D), T)
    else:
        grad_scale = tl.zeros((BLOCK_N,), T)
    for start in range(0, codebook_size, BLOCK_K):
        codes = start + tl.arange(0, BLOCK_K)
        code = load_centred(codebook_ptr, centre_ptr, codes, codebook_size, dim, BLOCK_D, LOGIT)
        logits = tile_logits(
            z, weight, code, bias_ptr, codes, codebook_size, GAUSSIAN, DIAGONAL, False, PRECISION, LOGIT
        )
        products = product(outer, code.to(T), False, PRECISION, T)
        grad, _, log_p = tile_gradient(
            logits, products, seed_ptr, entropy_ptr, grad_entropy_ptr, delta, statistics_ptr,
            rows, codes, num_rows, inverse_temperature, False, T, LOGIT,
        )  # fmt: skip
        first_moment = tl.dot(grad, code.to(T), first_moment, input_precision=PRECISION, out_dtype=T)
        if DIAGONAL:
            half_square = (-0.5 * code * code).to(T)
            second_moment = tl.dot(grad, half_square, second_moment, input_precision=PRECISION, out_dtype=T)
        else:
            # the gradients of a row's logits sum to zero, so the logits may be taken with any offset
            grad_scale += tl.sum(grad * log_p, axis=1)

    store_matrix(
        grad_z_ptr,
        (weight if DIAGONAL else weight[:, None]).to(T) * first_moment,
        rows, num_rows, dim, BLOCK_D,
    )  # fmt: skip
    if DIAGONAL:
        store_matrix(
            grad_weight_ptr, z.to(T) * first_moment + second_moment, rows, num_rows, dim, BLOCK_D
        )
    else:
        tl.store(grad_weight_ptr + rows, grad_scale / tl.where(inside, weight, 1.0).to(T), mask=inside)


@triton.jit
def backward_codes_kernel(
    z_ptr, codebook_ptr, weight_ptr, centre_ptr, bias_ptr, seed_ptr,
    entropy_ptr, statistics_ptr, grad_quantized_ptr, grad_entropy_ptr, delta_ptr, partial_ptr,
    num_rows, codebook_size, weight_stride, rows_per_split, temperature: tl.float64,
    dim: tl.constexpr, GAUSSIAN: tl.constexpr, DIAGONAL: tl.constexpr,
    LOGIT: tl.constexpr, T: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """The gradient of BLOCK_K codes from one split of the rows; ``partial`` is (splits, K, D)."""
    codes = tl.program_id(0) * BLOCK_K + tl.arange(0, BLOCK_K)
    split = tl.program_id(1)
    code = load_centred(codebook_ptr, centre_ptr, codes, codebook_size, dim, BLOCK_D, LOGIT)
    inverse_temperature = inverse(temperature, LOGIT)

    grad_code = tl.zeros((BLOCK_K, BLOCK_D), T)
    if DIAGONAL:
        pull = tl.zeros((BLOCK_K, BLOCK_D), T)
    else:
        pull = tl.zeros((BLOCK_K,), T)
    for start in range(split * rows_per_split, tl.minimum((split + 1) * rows_per_split, num_rows), BLOCK_N):
        rows = start + tl.arange(0, BLOCK_N)
        z, weight = load_queries(
            z_ptr, centre_ptr, weight_ptr, rows, num_rows, weight_stride, dim, BLOCK_D, DIAGONAL, LOGIT
        )
        logits = tile_logits(
            z, weight, code, bias_ptr, codes, codebook_size, GAUSSIAN, DIAGONAL, True, PRECISION, LOGIT
        )
        outer = load_matrix(grad_quantized_ptr, rows, num_rows, dim, BLOCK_D, T)
        delta = tl.load(delta_ptr + rows, mask=rows < num_rows, other=0.0)
        products = product(outer, code.to(T), True, PRECISION, T)
        grad, sample, _ = tile_gradient(
            logits, products, seed_ptr, entropy_ptr, grad_entropy_ptr, delta, statistics_ptr,
            rows, codes, num_rows, inverse_temperature, True, T, LOGIT,
        )  # fmt: skip
        grad_code = tl.dot(sample, outer, grad_code, input_precision=PRECISION, out_dtype=T)
        if DIAGONAL:
            weighted = (weight * z).to(T)
            pull = tl.dot(grad, weight.to(T), pull, input_precision=PRECISION, out_dtype=T)
        else:
            weighted = (weight[:, None] * z).to(T)
            pull += tl.sum(grad * along_rows(weight, True).to(T), axis=1)
        grad_code = tl.dot(grad, weighted, grad_code, input_precision=PRECISION, out_dtype=T)

    if GAUSSIAN:
        grad_code -= code.to(T) * (pull if DIAGONAL else pull[:, None])
    partial_ptr += split.to(tl.int64) * codebook_size * dim
    store_matrix(partial_ptr, grad_code, codes, codebook_size, dim, BLOCK_D)
