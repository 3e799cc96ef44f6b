// The fused operator on a CPU: one parallel region a pass, each thread taking blocks of rows that stay in its cache.
// Matrix products are the BLAS's that torch carries (handed in as pointers), everything between them is one pass here.
// The maths is that of blocks.py, the noise that of noise.py. Compiled by native.py.

#include "native_math.h"

#include <sys/mman.h>

// Field for field the ctypes structure of native.py. Arrays are contiguous, row by row.
struct Problem {
    // N, K, D, E: logits are scale * (rows (N, E) @ columns (K, E)^T + bias), and `rows` are made here, block by block
    int64_t num_rows, size, dim, width;
    int64_t block, threads, weight_stride, kept_rows, gaussian;
    uint64_t seed;
    float inverse_temperature, max_magnitude;
    const float *z, *centre, *weight, *columns, *bias, *codebook;
    // (E,) and (1,): the largest magnitudes of `columns` and of `bias`, over the codes
    const float *column_peaks, *bias_peak;
    uint8_t* precise;  // (N,) the rows that need float64: their whole block follows
    // for those, or null if there are none
    const double *centre64, *columns64, *bias64;
    const uint8_t* mask;  // (N,) or null
    float *quantized, *divergence, *entropy;
    int64_t *indices;
    double *statistics;  // (2, N) log-normalisers of the posterior and of the sample
    float *posterior_sum;
    float *kept_log_posterior, *kept_sample;  // (kept_rows, K), of the first rows
    const float *grad_quantized, *grad_divergence, *grad_entropy;
    float *grad_z, *grad_weight, *grad_codebook, *grad_columns, *grad_bias;
    Sgemm sgemm;
    Dgemm dgemm;
};

namespace {

// log(x) for normal x > 0: its exponent, and f + f^2 Q(f) for its mantissa 1 + f in [1/sqrt(2), sqrt(2)). Q has the
// least relative error of its degree, 3e-8; without a division, for which a processor would wait.
inline float log_positive(float x) {
    const int32_t bits = as_bits(x) - 0x3f3504f3;
    const float n = (float)(bits >> 23);
    const float f = as_float((bits & 0x7fffff) + 0x3f3504f3) - 1.0f;
    float q = 0.0873475075f;
    q = q * f - 0.143074825f;
    q = q * f + 0.149179891f;
    q = q * f - 0.165705144f;
    q = q * f + 0.199620709f;
    q = q * f - 0.250017554f;
    q = q * f + 0.333339512f;
    q = q * f - 0.499999911f;
    return n * 0.693147181f + (f * f * q + f);
}

const uint32_t WEYL = 0x9E3779B9u, M1 = 0x7FEB352Du, M2 = 0x846CA68Bu;

uint32_t mix(uint32_t x) {
    x = (x ^ x >> 16) * M1;
    x = (x ^ x >> 15) * M2;
    return x ^ x >> 16;
}

// Asks for huge pages. Arrays from 32 MB on malloc has from the system, fresh for every step unless it is told to keep
// what is freed: in pages of 4 KB that would cost more than what is kept saves.
void advise(float* array, int64_t bytes) {
#ifdef MADV_HUGEPAGE
    const uintptr_t page = 4096, first = ((uintptr_t)array + page - 1) / page * page, end = (uintptr_t)array + bytes;
    if (bytes >= (int64_t)32 << 20) madvise((void*)first, end - first, MADV_HUGEPAGE);
#endif
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

// the first k for which x_k reaches `bound`, the last one if none does
int32_t first_reaching(int32_t size, float bound, const float* x) {
    const int32_t chunk = 64;  // without a way out of the loop over it, the compiler makes vectors of it
    int32_t k = 0;
    for (int32_t found = 0; k + chunk <= size; k += chunk) {
        for (int32_t i = k; i < k + chunk; i++) found += x[i] >= bound;
        if (found) break;
    }
    while (k < size - 1 && x[k] < bound) k++;
    return k < size ? k : size - 1;
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

bool diagonal(const Problem& p) { return p.width > p.dim; }

// z - centre, or for a diagonal covariance [w (z - centre), w]: what `columns` are multiplied with
template <typename T>
void make_row(const Problem& p, int64_t row, const T* centre, T* out) {
    const float *z = p.z + row * p.dim, *weight = p.weight + row * p.weight_stride;
    for (int64_t d = 0; d < p.dim; d++) out[d] = z[d] - centre[d];
    for (int64_t d = 0; d < p.dim && diagonal(p); d++) {
        out[d] *= weight[d];
        out[p.dim + d] = weight[d];
    }
}

// grad_z and, for a diagonal covariance, grad_weight from the gradient of what make_row made
template <typename T>
void split_gradient(const Problem& p, int64_t row, const T* centre, const T* grad) {
    const float *z = p.z + row * p.dim, *weight = p.weight + row * p.weight_stride;
    float *grad_z = p.grad_z + row * p.dim, *grad_weight = p.grad_weight + row * p.weight_stride;
    if (!diagonal(p)) {
        for (int64_t d = 0; d < p.dim; d++) grad_z[d] = (float)grad[d];
        return;
    }
    for (int64_t d = 0; d < p.dim; d++) {
        grad_z[d] = (float)(grad[d] * weight[d]);
        grad_weight[d] = (float)(grad[p.dim + d] + grad[d] * (z[d] - centre[d]));
    }
}

// The divergence of a row from its mixture: the sum over d of weight(d) * term(d).
struct Divergence {
    const bool gaussian, diagonal;
    const float *z, *centre, *mixture, *weights;
    Divergence(const Problem& p, int64_t row)
        : gaussian(p.gaussian), diagonal(p.width > p.dim), z(p.z + row * p.dim), centre(p.centre),
          mixture(p.quantized + row * p.dim), weights(p.weight + row * p.weight_stride) {}
    float weight(int64_t d) const { return diagonal ? weights[d] : *weights; }
    float difference(int64_t d) const { return z[d] - centre[d] - mixture[d]; }
    float term(int64_t d) const { return (gaussian ? 0.5f * difference(d) : z[d]) * difference(d); }
    // derivatives of the term by z, and by the mixture with the sign turned
    float by_z(int64_t d) const { return gaussian ? difference(d) : z[d] + difference(d); }
    float by_mixture(int64_t d) const { return gaussian ? difference(d) : z[d]; }
};

// the whole gradient of the mixture, (D,)
void mixture_gradient(const Problem& p, int64_t row, float* out) {
    const Divergence divergence(p, row);
    const float grad = p.grad_divergence[row], *given = p.grad_quantized + row * p.dim;
    for (int64_t d = 0; d < p.dim; d++) out[d] = given[d] - grad * divergence.weight(d) * divergence.by_mixture(d);
}

// adds what the divergence gives z and weight directly
void add_divergence_gradient(const Problem& p, int64_t row) {
    const Divergence divergence(p, row);
    const float grad = p.grad_divergence[row];
    float *grad_z = p.grad_z + row * p.dim, sum = 0;
    for (int64_t d = 0; d < p.dim; d++) grad_z[d] += grad * divergence.weight(d) * divergence.by_z(d);
    if (diagonal(p)) {
        for (int64_t d = 0; d < p.dim; d++) p.grad_weight[row * p.dim + d] += grad * divergence.term(d);
        return;
    }
    for (int64_t d = 0; d < p.dim; d++) sum += divergence.term(d);
    p.grad_weight[row] += grad * sum;
}

// A block of rows, and the memory that a thread works in.
struct Block {
    const Problem& p;
    int64_t start;
    int n;
    bool precise, kept;
    float *log_posterior, *sample, *grads;  // (n, K), the first two in what is kept if the block is
    float *rows, *grad_rows;                // (n, E)
    float *grad_mixtures;                   // (n, D)

    explicit Block(const Problem& problem) : p(problem), cells(p.block * p.size), edges(p.block * p.width) {
        memory = (float*)malloc(sizeof(float) * ((p.kept_rows < p.num_rows ? 3 : 1) * cells + 3 * edges));
        memory64 = p.columns64 ? (double*)malloc(sizeof(double) * (cells + 2 * edges)) : 0;
        rows = memory;
        grad_rows = rows + edges;
        grad_mixtures = grad_rows + edges;
        grads = grad_mixtures + edges;
    }
    ~Block() { free(memory); free(memory64); }
    Block(const Block&) = delete;

    void move(int64_t number) {
        start = number * p.block;
        n = (int)(start + p.block < p.num_rows ? p.block : p.num_rows - start);
        precise = false;
        for (int i = 0; i < n && p.columns64; i++) precise = precise || p.precise[start + i];
        kept = start + n <= p.kept_rows;
        log_posterior = kept ? p.kept_log_posterior + start * p.size : grads + cells;
        sample = kept ? p.kept_sample + start * p.size : grads + 2 * cells;
        for (int i = 0; i < n; i++) make_row(p, start + i, p.centre, rows + i * p.width);
    }
    float scale(int i) const { return diagonal(p) ? 1 : p.weight[(start + i) * p.weight_stride]; }

    // the products, from which `shift` makes logits
    void multiply() {
        if (!precise) return times_transposed(p, n, (int)p.size, (int)p.width, rows, p.columns, log_posterior);
        for (int i = 0; i < n; i++) make_row(p, start + i, p.centre64, rows64() + i * p.width);
        times_transposed(p, n, (int)p.size, (int)p.width, rows64(), p.columns64, memory64);
    }
    // makes row i of `log_posterior` logits less an offset, and returns the offset
    double shift(int i, const double* given) {
        float* out = log_posterior + i * p.size;
        if (!precise) return shifted(p.size, out, p.bias, scale(i), given, out);
        return shifted(p.size, memory64 + i * p.size, p.bias64, scale(i), given, out);
    }
    // the gradients of z and weight, `grads` being that of the products
    void differentiate() {
        const int width = (int)p.width, size = (int)p.size;
        if (!precise) {
            times(p, n, width, size, grads, p.columns, grad_rows);
            for (int i = 0; i < n; i++) split_gradient(p, start + i, p.centre, grad_rows + i * width);
            return;
        }
        double *products = memory64, *grad_rows64 = rows64() + edges;
        for (int64_t i = 0; i < (int64_t)n * size; i++) products[i] = grads[i];
        times(p, n, width, size, products, p.columns64, grad_rows64);
        for (int i = 0; i < n; i++) {
            double* grad = grad_rows64 + i * width;
            // A row of `grads` sums to zero but for its rounding. Codes that compete are near each other and to their
            // mixture, so that rounding is felt unless it is taken at the mixture.
            double rest = 0;
            for (int k = 0; k < size; k++) rest += products[(int64_t)i * size + k];
            const float* mixture = p.quantized + (start + i) * p.dim;
            for (int64_t d = 0; d < p.dim; d++) {
                grad[d] -= rest * mixture[d];
                if (diagonal(p)) grad[p.dim + d] += rest * 0.5 * mixture[d] * mixture[d];
            }
            split_gradient(p, start + i, p.centre64, grad);
        }
    }

   private:
    const int64_t cells, edges;
    float* memory;
    double* memory64;  // (n, K) products, and behind them (n, E) rows and their gradient
    double* rows64() { return memory64 + cells; }
};

// `logits`, the largest of them 0, become the log-posterior; `sample` is drawn
void forward_row(const Problem& p, int64_t row, double offset, float* logits, float* sample, float* posterior,
                 float* posterior_sum) {
    const int32_t size = (int32_t)p.size, best = first_reaching(size, 0, logits);
    draw(Keys(p.seed, row), size, sample);
    const float top = add_noise(size, logits, p.inverse_temperature, 0, sample);
    const float sample_total = exponentiate(size, top, sample);
    // the sum less its largest term, which is 1: of a posterior all but certain nothing else would be left
    float others = 0, weighted = 0;
    logits[best] = -100;
    for (int32_t k = 0; k < size; k++) {
        posterior[k] = exp_negative(logits[k]);
        others += posterior[k];
        weighted += posterior[k] * logits[k];
    }
    logits[best] = 0;
    posterior[best] = 1;
    const double log_total = __builtin_log1p((double)others);
    const float total = 1 + others, share = !p.mask || p.mask[row] ? 1 / total : 0;
    const float normaliser = (float)log_total, sample_share = 1 / sample_total;
    for (int32_t k = 0; k < size; k++) {
        posterior_sum[k] += share * posterior[k];
        logits[k] -= normaliser;
        sample[k] *= sample_share;
    }
    p.indices[row] = best;  // the first of equals
    p.entropy[row] = (float)(log_total - weighted / total);
    p.statistics[row] = offset + log_total;
    // of the noisy logits less log p: small, whatever the logits are
    p.statistics[p.num_rows + row] = (double)top + log_positive(sample_total) - log_total * p.inverse_temperature;
}

// `sample` as in the forward pass, from the log-posterior
void sample_again(const Problem& p, int64_t row, const float* log_posterior, float* sample) {
    const int32_t size = (int32_t)p.size;
    draw(Keys(p.seed, row), size, sample);
    add_noise(size, log_posterior, p.inverse_temperature, (float)p.statistics[p.num_rows + row], sample);
    exponentiate(size, 0, sample);
}

// `grads`, that of the sample, become the gradient of the products; returns the gradient of their scale
float backward_row(const Problem& p, int64_t row, float scale, const float* log_posterior, const float* sample,
                   float* grads, float* grad_bias) {
    const int32_t size = (int32_t)p.size;
    const float entropy = p.entropy[row], grad_entropy = p.grad_entropy[row];
    float largest = 0;
    for (int32_t k = 0; k < size; k++) largest = sample[k] > largest ? sample[k] : largest;
    // gradients less that of the chosen code: of a sample all but one-hot, what is left is small and has its digits
    const float reference = grads[first_reaching(size, largest, sample)];
    float inner = 0, grad_scale = 0;
    for (int32_t k = 0; k < size; k++) inner += sample[k] * (grads[k] - reference);
    for (int32_t k = 0; k < size; k++) {
        const float information = exp_negative(log_posterior[k]) * (log_posterior[k] + entropy);
        const float grad =
            sample[k] * ((grads[k] - reference) - inner) * p.inverse_temperature - grad_entropy * information;
        grad_scale += grad * log_posterior[k];
        grads[k] = grad * scale;
        grad_bias[k] += grad * scale;
    }
    return grad_scale;
}

}  // namespace

// Marks the rows whose float32 logits could be wrong by more than the posterior may feel.
extern "C" void stochastic_precise(const Problem* problem) {
    const Problem& p = *problem;
#pragma omp parallel for num_threads(p.threads) schedule(static)
    for (int64_t row = 0; row < p.num_rows; row++) {
        const float *z = p.z + row * p.dim, *weight = p.weight + row * p.weight_stride;
        float magnitude = 0;
        if (diagonal(p)) {
            for (int64_t d = 0; d < p.dim; d++)
                magnitude += weight[d] * (__builtin_fabsf(z[d] - p.centre[d]) * p.column_peaks[d] + p.column_peaks[p.dim + d]);
        } else {
            for (int64_t d = 0; d < p.dim; d++) magnitude += __builtin_fabsf(z[d] - p.centre[d]) * p.column_peaks[d];
            magnitude = (magnitude + *p.bias_peak) * *weight;
        }
        p.precise[row] = magnitude > p.max_magnitude;
    }
}

extern "C" void stochastic_forward(const Problem* problem) {
    const Problem& p = *problem;
    const int64_t blocks = (p.num_rows + p.block - 1) / p.block;
    float* sums = (float*)calloc(p.threads * p.size, sizeof(float));
    advise(p.kept_log_posterior, p.kept_rows * p.size * sizeof(float));
    advise(p.kept_sample, p.kept_rows * p.size * sizeof(float));
#pragma omp parallel for num_threads(p.threads) schedule(static)
    for (int64_t thread = 0; thread < p.threads; thread++) {
        Block block(p);
        for (int64_t b = thread; b < blocks; b += p.threads) {
            block.move(b);
            block.multiply();
            for (int i = 0; i < block.n; i++) {
                const double offset = block.shift(i, 0);
                forward_row(p, block.start + i, offset, block.log_posterior + i * p.size, block.sample + i * p.size,
                            block.grads, sums + thread * p.size);
            }
            times(p, block.n, (int)p.dim, (int)p.size, block.sample, p.codebook, p.quantized + block.start * p.dim);
            for (int64_t row = block.start; row < block.start + block.n; row++) {
                const Divergence divergence(p, row);
                float sum = 0;
                for (int64_t d = 0; d < p.dim; d++) sum += divergence.weight(d) * divergence.term(d);
                p.divergence[row] = sum;
            }
        }
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
#pragma omp parallel for num_threads(p.threads) schedule(static)
    for (int64_t thread = 0; thread < p.threads; thread++) {
        Block block(p);
        float *grad_codebook = sums + thread * own, *bias = grad_codebook + p.size * dim;
        float* grad_columns = shared ? grad_codebook : bias + p.size;
        for (int64_t b = thread; b < blocks; b += p.threads) {
            block.move(b);
            if (!block.kept) block.multiply();
            const int n = block.n;
            for (int i = 0; i < n; i++) mixture_gradient(p, block.start + i, block.grad_mixtures + i * dim);
            times_transposed(p, n, size, dim, block.grad_mixtures, p.codebook, block.grads);
            for (int i = 0; i < n; i++) {
                const int64_t row = block.start + i;
                float *log_posterior = block.log_posterior + i * p.size, *sample = block.sample + i * p.size;
                if (!block.kept) {
                    block.shift(i, p.statistics + row);
                    sample_again(p, row, log_posterior, sample);
                }
                const float grad_scale = backward_row(p, row, block.scale(i), log_posterior, sample,
                                                      block.grads + i * p.size, bias);
                if (!diagonal(p)) p.grad_weight[row] = grad_scale / block.scale(i);
            }
            add_transposed_times(p, dim, size, n, block.grad_mixtures, block.sample, grad_codebook);
            add_transposed_times(p, width, size, n, block.rows, block.grads, grad_columns);
            block.differentiate();
            for (int i = 0; i < n; i++) add_divergence_gradient(p, block.start + i);
        }
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
