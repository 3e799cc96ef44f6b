// The fused operator on a CPU: one parallel region a pass, each thread taking blocks of rows that stay in its cache.
// Matrix products are the BLAS's that torch carries (handed in as pointers), everything between them is one pass here.
// The maths is that of blocks.py, the noise that of noise.py. Compiled by native.py.

#include "native_math.h"

// Field for field the ctypes structure of native.py. Arrays are contiguous, row by row.
struct Problem {
    int64_t num_rows, size, dim, width;  // N, K, D, E: logits are scale * (rows (N, E) @ columns (K, E)^T + bias)
    int64_t block, threads, scale_stride;
    uint64_t seed;
    float inverse_temperature;
    const float *rows, *columns, *bias, *scale, *codebook;
    // for the rows that need float64, or null: what the logits are made from, and what `columns` would hold of the
    // mixtures, (N, E); `precise` (N,) says which rows those are, their whole block follows
    const double *rows64, *columns64, *bias64, *mixtures64;
    const uint8_t* precise;
    const uint8_t* mask;  // (N,) or null
    float *quantized, *entropy;
    int64_t *indices;
    double *statistics;  // (2, N) log-normalisers of the posterior and of the sample
    float *posterior_sum;
    const float *grad_quantized, *grad_entropy;
    float *grad_rows, *grad_scale, *grad_codebook, *grad_columns, *grad_bias;
    double* grad_rows64;  // (N, E), in place of grad_rows where there is float64
    Sgemm sgemm;
    Dgemm dgemm;
};

namespace {

// log(x) for normal x > 0: exponent plus 2 artanh((m - 1) / (m + 1)) with m in [1/sqrt(2), sqrt(2))
inline float log_positive(float x) {
    const int32_t bits = as_bits(x) - 0x3f3504f3;
    const float n = (float)(bits >> 23);
    const float m = as_float((bits & 0x7fffff) + 0x3f3504f3);
    const float s = (m - 1.0f) / (m + 1.0f), t = s * s;
    const float p = ((t * (1.0f / 9) + 1.0f / 7) * t + 1.0f / 5) * t + 1.0f / 3;
    return n * 0.693147181f + (2.0f * s + 2.0f * s * t * p);
}

const uint32_t WEYL = 0x9E3779B9u, M1 = 0x7FEB352Du, M2 = 0x846CA68Bu;

uint32_t mix(uint32_t x) {
    x = (x ^ x >> 16) * M1;
    x = (x ^ x >> 15) * M2;
    return x ^ x >> 16;
}

struct Keys {
    uint32_t first, second;
    Keys(uint64_t seed, int64_t row) {
        const uint32_t low = (uint32_t)seed, high = (uint32_t)(seed >> 32), r = (uint32_t)row;
        first = mix(mix(r + low) ^ high);
        second = mix(mix(r + high + WEYL) ^ low);
    }
};

// The loops below are kept short on purpose: of a long one a processor holds too few rounds in flight, and waits.

// out_k = E_k, exponential noise: -log(E) is Gumbel noise
void draw(Keys keys, int32_t size, float* out) {
    for (int32_t k = 0; k < size; k++) {
        uint32_t x = (uint32_t)k * WEYL + keys.first;
        x = (x ^ x >> 16) * M1;
        x = x ^ keys.second;
        x = (x ^ x >> 15) * M2;
        const float u = ((float)(int32_t)(x >> 9) + 0.5f) * 1.1920929e-7f;
        out[k] = -log_positive(u);
    }
}

// noise_k = (logits_k + gumbel noise) / temperature - offset, from the exponential noise; returns the largest
float add_noise(int32_t size, const float* logits, float inverse_temperature, float offset, float* noise) {
    float top = -1e30f;
    for (int32_t k = 0; k < size; k++) {
        noise[k] = (logits[k] - log_positive(noise[k])) * inverse_temperature - offset;
        top = noise[k] > top ? noise[k] : top;
    }
    return top;
}

// x_k = exp(x_k - offset), for arguments that are not positive but by rounding; returns their sum
float exponentiate(int32_t size, float offset, float* x) {
    float total = 0;
    for (int32_t k = 0; k < size; k++) {
        x[k] = exp_negative(x[k] - offset);
        total += x[k];
    }
    return total;
}

// Row-major products; the BLAS is column-major, hence the order of the arguments.
// c (n, m) = a (n, k) b (m, k)^T
void times_transposed(const Problem& p, int n, int m, int k, const float* a, const float* b, float* c) {
    const float one = 1, zero = 0;
    p.sgemm("T", "N", &m, &n, &k, &one, b, &k, a, &k, &zero, c, &m);
}
void times_transposed(const Problem& p, int n, int m, int k, const double* a, const double* b, double* c) {
    const double one = 1, zero = 0;
    p.dgemm("T", "N", &m, &n, &k, &one, b, &k, a, &k, &zero, c, &m);
}
// c (n, m) = a (n, k) b (k, m)
void times(const Problem& p, int n, int m, int k, const double* a, const double* b, double* c) {
    const double one = 1, zero = 0;
    p.dgemm("N", "N", &m, &n, &k, &one, b, &m, a, &k, &zero, c, &m);
}
void times(const Problem& p, int n, int m, int k, const float* a, const float* b, float* c) {
    const float one = 1, zero = 0;
    p.sgemm("N", "N", &m, &n, &k, &one, b, &m, a, &k, &zero, c, &m);
}
// c (n, m) += a (k, n)^T b (k, m)
void add_transposed_times(const Problem& p, int n, int m, int k, const float* a, const float* b, float* c) {
    const float one = 1;
    p.sgemm("N", "T", &m, &n, &k, &one, b, &m, a, &n, &one, c, &m);
}

// c (n, m) += a (m, n)^T, a cache line of `a` at a time
void add_transposed(int64_t n, int64_t m, const float* a, float* c) {
    for (int64_t first = 0; first < n; first += 16) {
        const int64_t last = first + 16 < n ? first + 16 : n;
        for (int64_t j = 0; j < m; j++)
            for (int64_t i = first; i < last; i++) c[i * m + j] += a[j * n + i];
    }
}

// out_k = scale (products_k + bias_k) - offset, the offset being the largest of them if none is given
template <typename T>
double shifted(int64_t size, T* products, const T* bias, float scale, const double* given, float* out) {
    T top = -1e30;
    for (int64_t k = 0; k < size; k++) {
        products[k] = scale * (products[k] + bias[k]);
        top = products[k] > top ? products[k] : top;
    }
    const double offset = given ? *given : (double)top;
    const T shift = (T)offset;
    // what a float loses of the offset would be lost in every posterior of the row
    const float rest = (float)(offset - (double)shift);
    for (int64_t k = 0; k < size; k++) out[k] = (float)(products[k] - shift) - rest;
    return offset;
}

struct Block {
    const Problem& p;
    float* logits;
    double* products64;
    bool precise;

    // `extra`: floats for every row of the block, and for one more, that the caller wants behind the logits
    Block(const Problem& problem, int64_t extra) : p(problem), products64(0), precise(false) {
        logits = (float*)malloc(sizeof(float) * (p.block * (p.size + extra) + extra));
        if (p.rows64) products64 = (double*)malloc(sizeof(double) * p.block * p.size);
    }
    ~Block() { free(logits); free(products64); }

    float scale(int64_t row) const { return p.scale[row * p.scale_stride]; }

    // whether the block has rows that need float64; to be asked before anything else
    bool begin(int64_t start, int n) {
        precise = false;
        for (int i = 0; i < n && p.rows64; i++) precise = precise || p.precise[start + i];
        return precise;
    }
    void multiply(int64_t start, int n) {
        const int64_t first = start * p.width;
        if (precise) times_transposed(p, n, (int)p.size, (int)p.width, p.rows64 + first, p.columns64, products64);
        else times_transposed(p, n, (int)p.size, (int)p.width, p.rows + first, p.columns, logits);
    }
    // makes row i of `logits` logits less an offset, and returns the offset
    double shift(int64_t start, int i, const double* given) {
        float* out = logits + i * p.size;
        if (!precise) return shifted(p.size, out, p.bias, scale(start + i), given, out);
        return shifted(p.size, products64 + i * p.size, p.bias64, scale(start + i), given, out);
    }
    // grad_rows = logits @ columns, `logits` being the gradient of the products now
    void differentiate(int64_t start, int n) {
        const int width = (int)p.width, size = (int)p.size;
        const int64_t first = start * width;
        if (!precise) {
            times(p, n, width, size, logits, p.columns, p.grad_rows + first);
            for (int64_t i = first; p.grad_rows64 && i < first + n * width; i++) p.grad_rows64[i] = p.grad_rows[i];
            return;
        }
        for (int64_t i = 0; i < (int64_t)n * size; i++) products64[i] = logits[i];
        times(p, n, width, size, products64, p.columns64, p.grad_rows64 + first);
        // A row of `logits` sums to zero but for its rounding. Codes that compete are near each other and to their
        // mixture, so that rounding is felt unless it is taken at the mixture.
        for (int i = 0; i < n; i++) {
            double rest = 0;
            for (int k = 0; k < size; k++) rest += products64[(int64_t)i * size + k];
            for (int64_t e = first + i * width; e < first + (i + 1) * width; e++)
                p.grad_rows64[e] -= rest * p.mixtures64[e];
        }
    }
};

// `logits`, the largest of them 0, become the posterior times its normaliser; returns the normaliser of `sample` likewise
float forward_row(const Problem& p, int64_t row, double offset, float* logits, float* sample, float* posterior_sum) {
    const int32_t size = (int32_t)p.size;
    int32_t best = 0;
    while (best < size - 1 && logits[best] < 0) best++;
    draw(Keys(p.seed, row), size, sample);
    const float top = add_noise(size, logits, p.inverse_temperature, 0, sample);
    const float sample_total = exponentiate(size, top, sample);
    // the sum less its largest term, which is 1: of a posterior all but certain nothing else would be left
    float others = 0, weighted = 0;
    logits[best] = -100;
    for (int32_t k = 0; k < size; k++) {
        const float e = exp_negative(logits[k]);
        others += e;
        weighted += e * logits[k];
        logits[k] = e;
    }
    logits[best] = 1;
    const float total = 1 + others;
    const float share = !p.mask || p.mask[row] ? 1 / total : 0;
    for (int32_t k = 0; k < size; k++) posterior_sum[k] += share * logits[k];
    const double log_total = __builtin_log1p((double)others);
    p.indices[row] = best;  // the first of equals
    p.entropy[row] = (float)(log_total - weighted / total);
    p.statistics[row] = offset + log_total;
    // of the noisy logits less log p: small, whatever the logits are
    p.statistics[p.num_rows + row] = (double)top + log_positive(sample_total) - log_total * p.inverse_temperature;
    return sample_total;
}

// `logits`, here log p, become the gradient of the products, and `grads`, that of the sample, the sample itself
void backward_row(const Problem& p, int64_t row, float scale, float* logits, float* grads, float* sample,
                  float* grad_bias) {
    const int32_t size = (int32_t)p.size;
    const float entropy = p.entropy[row], grad_entropy = p.grad_entropy[row], it = p.inverse_temperature;
    draw(Keys(p.seed, row), size, sample);
    const float top = add_noise(size, logits, it, (float)p.statistics[p.num_rows + row], sample);
    int32_t chosen = 0;
    while (chosen < size - 1 && sample[chosen] < top) chosen++;
    exponentiate(size, 0, sample);
    // gradients less that of the chosen code: of a sample all but one-hot, what is left is small and has its digits
    const float reference = grads[chosen];
    float inner = 0, grad_scale = 0;
    for (int32_t k = 0; k < size; k++) inner += sample[k] * (grads[k] - reference);
    for (int32_t k = 0; k < size; k++) {
        const float information = exp_negative(logits[k]) * (logits[k] + entropy);
        const float grad = sample[k] * ((grads[k] - reference) - inner) * it - grad_entropy * information;
        grad_scale += grad * logits[k];
        grads[k] = sample[k];
        logits[k] = grad * scale;
        grad_bias[k] += grad * scale;
    }
    p.grad_scale[row] = grad_scale / scale;
}

}  // namespace

extern "C" void stochastic_forward(const Problem* problem) {
    const Problem& p = *problem;
    float* sums = (float*)calloc(p.threads * p.size, sizeof(float));
    const int64_t blocks = (p.num_rows + p.block - 1) / p.block;
#pragma omp parallel for num_threads(p.threads) schedule(static)
    for (int64_t thread = 0; thread < p.threads; thread++) {
        Block block(p, 0);
        float *sample = (float*)malloc(sizeof(float) * p.block * (p.size + 1)), *totals = sample + p.block * p.size;
        for (int64_t b = thread; b < blocks; b += p.threads) {
            const int64_t start = b * p.block;
            const int n = (int)(start + p.block < p.num_rows ? p.block : p.num_rows - start);
            block.begin(start, n);
            block.multiply(start, n);
            for (int i = 0; i < n; i++) {
                const double offset = block.shift(start, i, 0);
                totals[i] = forward_row(p, start + i, offset, block.logits + i * p.size, sample + i * p.size,
                                        sums + thread * p.size);
            }
            float* quantized = p.quantized + start * p.dim;
            times(p, n, (int)p.dim, (int)p.size, sample, p.codebook, quantized);
            for (int i = 0; i < n; i++)
                for (int64_t d = 0; d < p.dim; d++) quantized[i * p.dim + d] /= totals[i];
        }
        free(sample);
    }
    for (int64_t thread = 0; thread < p.threads; thread++)
        for (int64_t k = 0; k < p.size; k++) p.posterior_sum[k] += sums[thread * p.size + k];
    free(sums);
}

extern "C" void stochastic_backward(const Problem* problem) {
    const Problem& p = *problem;
    const int size = (int)p.size, dim = (int)p.dim, width = (int)p.width;
    const int64_t blocks = (p.num_rows + p.block - 1) / p.block;
    // A thread's own sums: grad_codebook (D, K), grad_bias (K), grad_columns (E, K) where they are not the codebook's.
    // Transposed, since a product of few long rows is a quarter faster than one of many short ones.
    const bool shared = p.columns == p.codebook;
    const int64_t own = p.size * (dim + (shared ? 0 : width) + 1);
    float* sums = (float*)calloc(p.threads * own, sizeof(float));
    // Where latents and gradients are multiplied with the same codes, theirs is one product: half the work of a small
    // one is the packing of what they would share.
#pragma omp parallel for num_threads(p.threads) schedule(static)
    for (int64_t thread = 0; thread < p.threads; thread++) {
        Block block(p, p.size);
        float *sample = block.logits + 2 * p.block * p.size, *stacked = (float*)malloc(sizeof(float) * 2 * p.block * dim);
        float *grad_codebook = sums + thread * own, *bias = grad_codebook + p.size * dim;
        float* grad_columns = shared ? grad_codebook : bias + p.size;
        for (int64_t b = thread; b < blocks; b += p.threads) {
            const int64_t start = b * p.block;
            const int n = (int)(start + p.block < p.num_rows ? p.block : p.num_rows - start);
            const float *rows = p.rows + start * width, *outer = p.grad_quantized + start * dim;
            float* grads = block.logits + (int64_t)n * p.size;
            if (shared) {
                memcpy(stacked, rows, sizeof(float) * n * dim);
                memcpy(stacked + n * dim, outer, sizeof(float) * n * dim);
            }
            if (!block.begin(start, n) && shared) {
                times_transposed(p, 2 * n, size, dim, stacked, p.codebook, block.logits);
            } else {
                block.multiply(start, n);
                times_transposed(p, n, size, dim, outer, p.codebook, grads);
            }
            for (int i = 0; i < n; i++) {
                block.shift(start, i, p.statistics + start + i);
                backward_row(p, start + i, block.scale(start + i), block.logits + i * p.size, grads + i * p.size,
                             sample, bias);
            }
            if (shared) {
                add_transposed_times(p, dim, size, 2 * n, stacked, block.logits, grad_codebook);
            } else {
                add_transposed_times(p, dim, size, n, outer, grads, grad_codebook);
                add_transposed_times(p, width, size, n, rows, block.logits, grad_columns);
            }
            block.differentiate(start, n);
        }
        free(stacked);
    }
    // in the order of the threads, so that a run can be repeated to the last bit
    for (int64_t thread = 0; thread < p.threads; thread++) {
        const float* part = sums + thread * own;
        add_transposed(p.size, dim, part, p.grad_codebook);
        for (int64_t k = 0; k < p.size; k++) p.grad_bias[k] += part[p.size * dim + k];
        if (!shared) add_transposed(p.size, width, part + p.size * (dim + 1), p.grad_columns);
    }
    free(sums);
}
