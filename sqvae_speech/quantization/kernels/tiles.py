"""What the kernels share: the noise, loads, a tile of logits, a tile of their gradients.

A tile belongs to a block of rows and a block of codes. Kernels that loop over codes hold it as (rows, codes); those
that loop over rows hold it ``FLIPPED``, as (codes, rows), so that its products with row matrices are not transposed.
Values of rows are brought into the tile's shape by :func:`along_rows`, values of codes by :func:`along_codes`.

``LOGIT`` is the dtype in which logits are made and kept until the row's maximum is taken away, ``T`` that of
everything else. ``PRECISION`` is ``tl.dot``'s ``input_precision``, never plain ``tf32``.
"""

import triton
import triton.language as tl

# the integers of sqvae_speech.quantization.noise
WEYL = tl.constexpr(0x9E3779B9)
M1 = tl.constexpr(0x7FEB352D)
M2 = tl.constexpr(0x846CA68B)
# Logit of what lies beyond the codebook, and log-normaliser of what lies beyond the rows: exp gives 0 for both, and
# unlike an infinity it can be multiplied by that 0.
FAR = tl.constexpr(1e30)
# Of how many dimensions, at most, the operands of a tile's products are held at once.
PIECE = tl.constexpr(64)
# Bound on the terms of a float32 logit: their rounding, some 1e-7 of it, is an error of the logit.
MAX_MAGNITUDE = tl.constexpr(256.0)


@triton.jit
def mix(x):
    """A bijection of uint32 in which every input bit moves every output bit."""
    x = x ^ (x >> 16)
    x = tl.mul(x, M1, sanitize_overflow=False)
    x = x ^ (x >> 15)
    x = tl.mul(x, M2, sanitize_overflow=False)
    return x ^ (x >> 16)


@triton.jit
def row_keys(seed_ptr, rows):
    """The two noise keys of ``rows``, uint32."""
    seed = tl.load(seed_ptr)
    low = (seed & 0xFFFFFFFF).to(tl.uint32)
    high = ((seed >> 32) & 0xFFFFFFFF).to(tl.uint32)
    counter = rows.to(tl.uint32)
    first = mix(mix(tl.add(counter, low, sanitize_overflow=False)) ^ high)
    shifted = tl.add(tl.add(counter, high, sanitize_overflow=False), WEYL, sanitize_overflow=False)
    return first, mix(mix(shifted) ^ low)


@triton.jit
def uniform(first, second, codes, T: tl.constexpr):
    """The numbers of ``noise.uniform``, for keys and codes that broadcast to a tile."""
    x = tl.add(tl.mul(codes.to(tl.uint32), WEYL, sanitize_overflow=False), first, sanitize_overflow=False)
    x = tl.mul(x ^ (x >> 16), M1, sanitize_overflow=False)
    x = x ^ second
    x = tl.mul(x ^ (x >> 15), M2, sanitize_overflow=False)
    # through int32: 23 bits fit, and the conversion from signed integers is the cheaper one
    return ((x >> 9).to(tl.int32).to(T) + 0.5) * 1.1920928955078125e-07


@triton.jit
def gumbel(first, second, codes, T: tl.constexpr):
    """The numbers of ``noise.gumbel``, up to the rounding of the logarithm."""
    return -tl.log(-tl.log(uniform(first, second, codes, T)))


@triton.jit
def inverse(temperature, LOGIT: tl.constexpr):
    """1 / temperature, rounded once."""
    # the interpreter hands over a Python float, the compiler a float64
    return (1.0 / tl.full((1,), temperature, tl.float64)).to(LOGIT)


@triton.jit
def along_rows(x, FLIPPED: tl.constexpr):
    if FLIPPED:
        return x[None, :]
    else:  # noqa: RET505 - both branches are resolved at compile time, and differ in type
        return x[:, None]


@triton.jit
def along_codes(x, FLIPPED: tl.constexpr):
    if FLIPPED:
        return x[:, None]
    else:  # noqa: RET505
        return x[None, :]


@triton.jit
def other_kernel_has(wide_ptr, start, stop, BLOCK: tl.constexpr, ADAPTIVE: tl.constexpr, LOGIT: tl.constexpr):
    """Whether rows ``start`` to ``stop`` are left to the launch of the other logit dtype; see :func:`wide_kernel`."""
    if ADAPTIVE:
        wide = 0
        for first in range(start, stop, BLOCK):
            rows = first + tl.arange(0, BLOCK)
            wide = tl.maximum(wide, tl.max(tl.load(wide_ptr + rows, mask=rows < stop, other=0).to(tl.int32)))
        return (wide > 0) != (LOGIT == tl.float64)  # noqa: SIM300
    else:  # noqa: RET505
        return False


@triton.jit
def load_matrix(ptr, index, size, dim: tl.constexpr, BLOCK_D: tl.constexpr, T: tl.constexpr, first=0):
    """Lines ``index`` of a contiguous (size, dim) matrix, from column ``first``: (len(index), BLOCK_D), 0 outside."""
    d = first + tl.arange(0, BLOCK_D)
    inside = (index < size)[:, None] & (d < dim)[None, :]
    return tl.load(ptr + index.to(tl.int64)[:, None] * dim + d[None, :], mask=inside, other=0.0).to(T)


@triton.jit
def load_centred(ptr, centre_ptr, index, size, dim: tl.constexpr, BLOCK_D: tl.constexpr, T: tl.constexpr, first=0):
    """:func:`load_matrix` less the centre, in every line that is there."""
    d = first + tl.arange(0, BLOCK_D)
    centre = tl.load(centre_ptr + d, mask=d < dim, other=0.0).to(T)
    x = load_matrix(ptr, index, size, dim, BLOCK_D, T, first)
    return tl.where((index < size)[:, None], x - centre[None, :], 0.0)


@triton.jit
def store_matrix(ptr, x, index, size, dim: tl.constexpr, BLOCK_D: tl.constexpr):
    d = tl.arange(0, BLOCK_D)
    inside = (index < size)[:, None] & (d < dim)[None, :]
    tl.store(ptr + index.to(tl.int64)[:, None] * dim + d[None, :], x.to(ptr.dtype.element_ty), mask=inside)


@triton.jit
def load_queries(
    z_ptr, centre_ptr, weight_ptr, rows, num_rows, weight_stride,
    dim: tl.constexpr, BLOCK_D: tl.constexpr, DIAGONAL: tl.constexpr, LOGIT: tl.constexpr,
):  # fmt: skip
    """The centred latents and the weights of ``rows``: (rows, BLOCK_D), and the same or (rows,)."""
    z = load_centred(z_ptr, centre_ptr, rows, num_rows, dim, BLOCK_D, LOGIT)
    if DIAGONAL:
        weight = load_matrix(weight_ptr, rows, num_rows, dim, BLOCK_D, LOGIT)
    else:
        # a stride of zero serves the weight (1, 1) that all rows share
        offset = rows.to(tl.int64) * weight_stride
        weight = tl.load(weight_ptr + offset, mask=rows < num_rows, other=0.0).to(LOGIT)
    return z, weight


@triton.jit
def product(rows, codes, FLIPPED: tl.constexpr, PRECISION: tl.constexpr, T: tl.constexpr):
    """Inner products of (rows, BLOCK_D) and (codes, BLOCK_D), as a tile."""
    if FLIPPED:
        return tl.dot(codes, tl.trans(rows), input_precision=PRECISION, out_dtype=T)
    else:  # noqa: RET505
        return tl.dot(rows, tl.trans(codes), input_precision=PRECISION, out_dtype=T)


@triton.jit
def empty_tile(rows, codes, FLIPPED: tl.constexpr, T: tl.constexpr):
    if FLIPPED:
        return tl.zeros((codes.shape[0], rows.shape[0]), T)
    else:  # noqa: RET505
        return tl.zeros((rows.shape[0], codes.shape[0]), T)


@triton.jit
def tile_products(
    x, code, x_ptr, codebook_ptr, centre_ptr, rows, num_rows, codes, codebook_size,
    dim: tl.constexpr, BLOCK_D: tl.constexpr,
    FLIPPED: tl.constexpr, PRECISION: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    """<x, b> of row vectors, not centred, and centred codes; of many dimensions, loaded again piece by piece."""
    if BLOCK_D <= PIECE:
        return product(x, code, FLIPPED, PRECISION, T)
    else:  # noqa: RET505
        products = empty_tile(rows, codes, FLIPPED, T)
        for first in range(0, dim, PIECE):
            piece = load_matrix(x_ptr, rows, num_rows, dim, PIECE, T, first)
            code_piece = load_centred(codebook_ptr, centre_ptr, codes, codebook_size, dim, PIECE, T, first)
            products += product(piece, code_piece, FLIPPED, PRECISION, T)
        return products


@triton.jit
def tile_distances(z, weight, code, DIAGONAL: tl.constexpr, FLIPPED: tl.constexpr, PRECISION: tl.constexpr,
                   LOGIT: tl.constexpr):  # fmt: skip
    """What a piece of the dimensions adds to the logits, but for bias and scale."""
    if DIAGONAL:
        terms = product(weight * z, code, FLIPPED, PRECISION, LOGIT)
        return terms + product(weight, -0.5 * code * code, FLIPPED, PRECISION, LOGIT)
    else:  # noqa: RET505
        return product(z, code, FLIPPED, PRECISION, LOGIT)


@triton.jit
def tile_logits(
    z, weight, code, z_ptr, weight_ptr, codebook_ptr, centre_ptr, bias_ptr, rows, num_rows, codes, codebook_size,
    dim: tl.constexpr, BLOCK_D: tl.constexpr, GAUSSIAN: tl.constexpr, DIAGONAL: tl.constexpr,
    FLIPPED: tl.constexpr, PRECISION: tl.constexpr, LOGIT: tl.constexpr,
):  # fmt: skip
    """Logits of a tile, ``-FAR`` beyond the codebook; see ``functional.LOGITS``.

    Up to PIECE dimensions, ``z`` (rows, BLOCK_D), ``weight`` and ``code`` (codes, BLOCK_D) are multiplied as they
    are. Of more dimensions a row's operand would fill the registers: they are loaded again, piece by piece.
    """
    if BLOCK_D <= PIECE:
        logits = tile_distances(z, weight, code, DIAGONAL, FLIPPED, PRECISION, LOGIT)
    else:
        logits = empty_tile(rows, codes, FLIPPED, LOGIT)
        for first in range(0, dim, PIECE):
            z_piece = load_centred(z_ptr, centre_ptr, rows, num_rows, dim, PIECE, LOGIT, first)
            code_piece = load_centred(codebook_ptr, centre_ptr, codes, codebook_size, dim, PIECE, LOGIT, first)
            if DIAGONAL:
                weight_piece = load_matrix(weight_ptr, rows, num_rows, dim, PIECE, LOGIT, first)
            else:
                weight_piece = weight
            logits += tile_distances(z_piece, weight_piece, code_piece, DIAGONAL, FLIPPED, PRECISION, LOGIT)
    if not DIAGONAL:
        if GAUSSIAN:
            bias = tl.load(bias_ptr + codes, mask=codes < codebook_size, other=0.0).to(LOGIT)
            logits += along_codes(bias, FLIPPED)
        logits *= along_rows(weight, FLIPPED)
    return tl.where(along_codes(codes < codebook_size, FLIPPED), logits, -FAR)


@triton.jit
def less_normaliser(
    logits, normaliser_ptr, rows, num_rows, FLIPPED: tl.constexpr, T: tl.constexpr, LOGIT: tl.constexpr
):
    """Logits less the float64 log-normalisers of their rows."""
    normaliser = tl.load(normaliser_ptr + rows, mask=rows < num_rows, other=FAR)
    high = normaliser.to(LOGIT)
    low = (normaliser - high.to(tl.float64)).to(T)
    # in two steps: where logits are large, float32 would round away what distinguishes the normaliser from them
    return (logits - along_rows(high, FLIPPED)).to(T) - along_rows(low, FLIPPED)


@triton.jit
def tile_gradient(
    logits, products, seed_ptr, entropy_ptr, grad_entropy_ptr, delta, statistics_ptr,
    rows, codes, num_rows, inverse_temperature, FLIPPED: tl.constexpr, T: tl.constexpr, LOGIT: tl.constexpr,
):  # fmt: skip
    """Gradients of the logits, the relaxed sample w, its part w (<G, b> - <G, q>) of the gradient, and log p.

    ``products`` holds <G, b> and ``delta`` <G, q>, with G the gradient of the mixture q, codes and mixture centred
    alike. See :mod:`sqvae_speech.quantization.blocks` for the formula.
    """
    inside = rows < num_rows
    log_p = less_normaliser(logits, statistics_ptr, rows, num_rows, FLIPPED, T, LOGIT)
    entropy = along_rows(tl.load(entropy_ptr + rows, mask=inside, other=0.0), FLIPPED).to(T)
    grad_entropy = along_rows(tl.load(grad_entropy_ptr + rows, mask=inside, other=0.0), FLIPPED).to(T)
    first, second = row_keys(seed_ptr, rows)
    noise = gumbel(along_rows(first, FLIPPED), along_rows(second, FLIPPED), along_codes(codes, FLIPPED), T)
    noisy = (logits + noise.to(LOGIT)) * inverse_temperature
    sample = tl.exp(less_normaliser(noisy, statistics_ptr + num_rows, rows, num_rows, FLIPPED, T, LOGIT))
    pull = sample * (products - along_rows(delta, FLIPPED).to(LOGIT)).to(T)
    grad = pull * inverse_temperature.to(T) - grad_entropy * tl.exp(log_p) * (log_p + entropy)
    return grad, sample, pull, log_p


@triton.jit
def wide_kernel(
    z_ptr, weight_ptr, centre_ptr, radius_ptr, wide_ptr, num_rows, weight_stride,
    dim: tl.constexpr, GAUSSIAN: tl.constexpr, DIAGONAL: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Flags (N,) int8 of the rows whose logits need float64.

    A logit is the difference of terms that can be much larger than the differences between logits that matter: w z.b
    and w |b|^2 / 2 where the precision w is high. The largest norm of a code, ``radius``, bounds them.
    """
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    z, weight = load_queries(
        z_ptr, centre_ptr, weight_ptr, rows, num_rows, weight_stride, dim, BLOCK_D, DIAGONAL, tl.float32
    )
    radius = tl.load(radius_ptr)
    if DIAGONAL:
        z = z * weight
        largest = tl.max(weight, axis=1)
        magnitude = tl.sqrt(tl.sum(z * z, axis=1)) * radius
    else:
        largest = weight
        magnitude = tl.sqrt(tl.sum(z * z, axis=1)) * weight * radius
    if GAUSSIAN:
        magnitude += 0.5 * largest * radius * radius
    tl.store(wide_ptr + rows, (magnitude > MAX_MAGNITUDE).to(tl.int8), mask=rows < num_rows)
