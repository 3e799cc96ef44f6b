// Layers of the speech network on a CPU: what winograd.py and recurrence.py do between their matrix products, and
// the products of the recurrence, which are too small to be called one by one. Compiled by quantization/compiler.py.

#include "native_math.h"

// Field for field the ctypes structure of winograd.py. Arrays are contiguous, row by row.
struct Transform {
    // Window j of tile i is position i * step + j * stack + h - offset of `sequence` (batch, length, channels), for
    // each h < stack; what lies outside is zero.
    int64_t batch, length, channels, tiles, step, offset, stack, window;
    int64_t planes, threads, wide, half;  // wide: float64; half: the planes are bfloat16
    const double* matrix;                 // (planes, window) to the planes, (window, planes) from them
    void *sequence, *transformed;         // transformed: (planes, batch * tiles, stack * channels)
};

// Field for field the ctypes structure of recurrence.py. Both directions: index d of an axis of 2 is the backward one.
struct Scan {
    int64_t steps, batch, hidden, threads, wide;
    const void *gates, *weight, *bias;  // (T, B, 2, 3H), (2, 3H, H), (2, 3H); gates in torch's order r, z, n
    void *output, *kept;                // (T, B, 2, H), (T, B, 2, 4H): r, z, n and the hidden half of n
    const void* grad_output;            // (T, B, 2, H)
    void *grad_gates, *grad_hidden;     // (T, B, 2, 3H), (T, B, 2, H): of the hidden half of n
    const int64_t* lengths;             // (B,) or null; beyond its length an example's state is zero
    Sgemm sgemm;
    Dgemm dgemm;
};

// Field for field the ctypes structure of normalization.py: batch normalisation and ReLU of `rows` positions.
struct Normalization {
    int64_t rows, channels, threads, wide;
    const void* x;                          // (N, C), as are y, grad and grad_x
    const uint8_t* mask;                    // (N,) or null; what is masked counts in nothing and comes out zero
    const void *scale, *shift;              // (C,): y = max(scale x + shift, 0)
    void* y;
    double *count, *mean, *squares;         // (1,), (C,), (C,): squares of deviations from the mean, summed
    const void* grad;                       // of y
    double *grad_sum, *grad_product;        // (C,): sums of the gradient, and of it times the deviation from the mean
    const void *grad_offset, *grad_factor;  // (C,): grad_x = scale grad - offset - factor (x - mean)
    void* grad_x;
};

namespace {

const int MAX = 8, LANES = 64;  // of windows and planes; channels that are combined at once

template <typename S> inline void load(const S* from, int n, S* to) {
    for (int i = 0; i < n; i++) to[i] = from[i];
}
inline void load(const uint16_t* from, int n, float* to) {
    for (int i = 0; i < n; i++) to[i] = as_float((int32_t)((uint32_t)from[i] << 16));
}
template <typename S> inline void store(const S* from, int n, S* to) {
    for (int i = 0; i < n; i++) to[i] = from[i];
}
inline void store(const float* from, int n, uint16_t* to) {
    for (int i = 0; i < n; i++) {
        const uint32_t bits = (uint32_t)as_bits(from[i]);
        to[i] = (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);  // to the nearest, ties to even
    }
}

// to_a = sum_k factor[a][k] from_k for n channels, added to what is there where `add` says so. COUNT, of the inputs, is
// known to the compiler, which keeps them in registers.
template <int COUNT, typename S, typename From, typename To>
inline void combine_lanes(const From* const* from, const S (*factor)[MAX], int outputs, To* const* to, const bool* add,
                          int64_t c, int n) {
    S x[COUNT][LANES];
    for (int k = 0; k < COUNT; k++) load(from[k] + c, n, x[k]);
    for (int a = 0; a < outputs; a++) {
        S sum[LANES];
        for (int i = 0; i < n; i++) sum[i] = factor[a][0] * x[0][i];
        for (int k = 1; k < COUNT; k++)
            for (int i = 0; i < n; i++) sum[i] += factor[a][k] * x[k][i];
        if (add && add[a]) {
            S before[LANES];
            load(to[a] + c, n, before);
            for (int i = 0; i < n; i++) sum[i] += before[i];
        }
        store(sum, n, to[a] + c);
    }
}
template <int COUNT, typename S, typename From, typename To>
void combine_rows(const From* const* from, const S (*factor)[MAX], int outputs, To* const* to, const bool* add,
                  int64_t channels) {
    int64_t c = 0;
    for (; c + LANES <= channels; c += LANES) combine_lanes<COUNT>(from, factor, outputs, to, add, c, LANES);
    if (c < channels) combine_lanes<COUNT>(from, factor, outputs, to, add, c, (int)(channels - c));
}
template <typename S, typename From, typename To>
void combine(int count, const From* const* from, const S (*factor)[MAX], int outputs, To* const* to, const bool* add,
             int64_t channels) {
    switch (count) {
        case 1: return combine_rows<1>(from, factor, outputs, to, add, channels);
        case 2: return combine_rows<2>(from, factor, outputs, to, add, channels);
        case 3: return combine_rows<3>(from, factor, outputs, to, add, channels);
        case 4: return combine_rows<4>(from, factor, outputs, to, add, channels);
        case 5: return combine_rows<5>(from, factor, outputs, to, add, channels);
        case 6: return combine_rows<6>(from, factor, outputs, to, add, channels);
        case 7: return combine_rows<7>(from, factor, outputs, to, add, channels);
        case 8: return combine_rows<8>(from, factor, outputs, to, add, channels);
    }
    for (int a = 0; a < outputs; a++) memset(to[a], 0, sizeof(To) * channels);  // a window that is all outside
}

template <typename S, typename T> void to_planes(const Transform& p) {
    const int64_t rows = p.batch * p.tiles, width = p.stack * p.channels;
#pragma omp parallel for num_threads(p.threads) schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        const int64_t first = row % p.tiles * p.step - p.offset;
        const S* sequence = (const S*)p.sequence + row / p.tiles * p.length * p.channels;
        for (int64_t h = 0; h < p.stack; h++) {
            const S* from[MAX];
            S factors[MAX][MAX];
            T* to[MAX];
            int count = 0;
            for (int64_t j = 0; j < p.window; j++) {
                const int64_t position = first + j * p.stack + h;
                if (position < 0 || position >= p.length) continue;
                for (int64_t a = 0; a < p.planes; a++) factors[a][count] = (S)p.matrix[a * p.window + j];
                from[count++] = sequence + position * p.channels;
            }
            for (int64_t a = 0; a < p.planes; a++)
                to[a] = (T*)p.transformed + (a * rows + row) * width + h * p.channels;
            combine(count, from, factors, (int)p.planes, to, 0, p.channels);
        }
    }
}

// The transpose: what several tiles have of a position is added up.
template <typename S, typename T> void from_planes(const Transform& p) {
    const int64_t rows = p.batch * p.tiles, width = p.stack * p.channels;
#pragma omp parallel for num_threads(p.threads) schedule(static)
    for (int64_t b = 0; b < p.batch; b++) {
        S* sequence = (S*)p.sequence + b * p.length * p.channels;
        for (int64_t tile = 0; tile < p.tiles; tile++)
            for (int64_t h = 0; h < p.stack; h++) {
                const int64_t first = tile * p.step + h - p.offset;
                const T* from[MAX];
                S factors[MAX][MAX];
                S* to[MAX];
                bool add[MAX];
                int count = 0;
                for (int64_t a = 0; a < p.planes; a++)
                    from[a] = (const T*)p.transformed + (a * rows + b * p.tiles + tile) * width + h * p.channels;
                for (int64_t j = 0; j < p.window; j++) {
                    const int64_t position = first + j * p.stack;
                    if (position < 0 || position >= p.length) continue;
                    for (int64_t a = 0; a < p.planes; a++) factors[count][a] = (S)p.matrix[j * p.planes + a];
                    // the tile before this one has written what lies before its end
                    add[count] = tile > 0 && j * p.stack + p.step < p.window * p.stack;
                    to[count++] = sequence + position * p.channels;
                }
                combine((int)p.planes, from, factors, count, to, add, p.channels);
            }
    }
}

inline float exponential(float x) { return exp_negative(x > 87.0f ? 87.0f : x); }
inline double exponential(double x) { return __builtin_exp(x); }
template <typename S> inline S sigmoid(S x) { return 1 / (1 + exponential(-x)); }
template <typename S> inline S hyperbolic_tangent(S x) { return 2 * sigmoid(2 * x) - 1; }

// c (n, m) = a (n, k; rows `stride` apart) b (m, k)^T, and c (n, m) += a (n, k) b (k, m)
inline void times_transposed(const Scan& p, int n, int m, int k, int stride, const float* a, const float* b, float* c) {
    const float one = 1, zero = 0;
    p.sgemm("T", "N", &m, &n, &k, &one, b, &k, a, &stride, &zero, c, &m);
}
inline void times_transposed(const Scan& p, int n, int m, int k, int stride, const double* a, const double* b,
                             double* c) {
    const double one = 1, zero = 0;
    p.dgemm("T", "N", &m, &n, &k, &one, b, &k, a, &stride, &zero, c, &m);
}
inline void add_times(const Scan& p, int n, int m, int k, const float* a, const float* b, float* c) {
    const float one = 1;
    p.sgemm("N", "N", &m, &n, &k, &one, b, &m, a, &k, &one, c, &m);
}
inline void add_times(const Scan& p, int n, int m, int k, const double* a, const double* b, double* c) {
    const double one = 1;
    p.dgemm("N", "N", &m, &n, &k, &one, b, &m, a, &k, &one, c, &m);
}

// Some examples in one direction, step after step.
template <typename S> struct Part {
    const Scan& p;
    const int64_t direction, first;
    const int hidden, count;
    S* scratch;

    Part(const Scan& scan, int64_t number, int64_t chunks)
        : p(scan), direction(number % 2), first(number / 2 * scan.batch / chunks), hidden((int)scan.hidden),
          count((int)((number / 2 + 1) * scan.batch / chunks - first)) {
        // aligned, so that products round alike each time
        const uint64_t bytes = sizeof(S) * 4 * count * hidden;
        scratch = (S*)aligned_alloc(64, (bytes + 64) / 64 * 64);
    }
    ~Part() { free(scratch); }

    const S* weight() const { return (const S*)p.weight + direction * 3 * hidden * hidden; }
    // row of (T, B, 2) arrays of the first example at the `step`-th step in this direction
    int64_t row(int64_t step) const {
        return ((direction ? p.steps - 1 - step : step) * p.batch + first) * 2 + direction;
    }
    bool beyond(int64_t step, int example) const {
        return p.lengths && (direction ? p.steps - 1 - step : step) >= p.lengths[first + example];
    }
    const S* state_before(int64_t step) const { return (const S*)p.output + row(step - 1) * hidden; }

    void forward() {
        const int64_t H = hidden;
        const S* bias = (const S*)p.bias + direction * 3 * H;
        for (int64_t step = 0; step < p.steps; step++) {
            if (step) times_transposed(p, count, 3 * hidden, hidden, 2 * hidden, state_before(step), weight(), scratch);
            else memset(scratch, 0, sizeof(S) * 3 * count * H);
            for (int64_t i = 0; i < count; i++) {
                const int64_t at = row(step) + 2 * i;
                const S *gates = (const S*)p.gates + at * 3 * H, *products = scratch + i * 3 * H;
                S *output = (S*)p.output + at * H, *kept = (S*)p.kept + at * 4 * H;
                if (beyond(step, (int)i)) {
                    memset(output, 0, sizeof(S) * H);
                    memset(kept, 0, sizeof(S) * 4 * H);
                    continue;
                }
                const S* before = state_before(step) + 2 * i * H;
#pragma omp simd
                for (int64_t k = 0; k < H; k++) {
                    const S r = sigmoid(gates[k] + products[k] + bias[k]);
                    const S z = sigmoid(gates[H + k] + products[H + k] + bias[H + k]);
                    const S inner = products[2 * H + k] + bias[2 * H + k];
                    const S n = hyperbolic_tangent(gates[2 * H + k] + r * inner);
                    const S state = step ? before[k] : 0;
                    output[k] = n + z * (state - n);
                    kept[k] = r;
                    kept[H + k] = z;
                    kept[2 * H + k] = n;
                    kept[3 * H + k] = inner;
                }
            }
        }
    }

    void backward() {
        const int64_t H = hidden;
        S* carried = scratch + 3 * count * H;  // the gradient of the state
        memset(carried, 0, sizeof(S) * count * H);
        for (int64_t step = p.steps - 1; step >= 0; step--) {
            for (int64_t i = 0; i < count; i++) {
                const int64_t at = row(step) + 2 * i;
                const S *kept = (const S*)p.kept + at * 4 * H, *grad_output = (const S*)p.grad_output + at * H;
                S *grads = (S*)p.grad_gates + at * 3 * H, *grad_inner = (S*)p.grad_hidden + at * H;
                S *products = scratch + i * 3 * H, *carry = carried + i * H;
                if (beyond(step, (int)i)) {
                    memset(grads, 0, sizeof(S) * 3 * H);
                    memset(grad_inner, 0, sizeof(S) * H);
                    memset(products, 0, sizeof(S) * 3 * H);
                    memset(carry, 0, sizeof(S) * H);
                    continue;
                }
                const S* before = state_before(step) + 2 * i * H;
#pragma omp simd
                for (int64_t k = 0; k < H; k++) {
                    const S r = kept[k], z = kept[H + k], n = kept[2 * H + k], inner = kept[3 * H + k];
                    const S grad = grad_output[k] + carry[k], state = step ? before[k] : 0;
                    const S grad_n = grad * (1 - z) * (1 - n * n);
                    const S grad_z = grad * (state - n) * z * (1 - z);
                    const S grad_r = grad_n * inner * r * (1 - r);
                    grads[k] = products[k] = grad_r;
                    grads[H + k] = products[H + k] = grad_z;
                    grads[2 * H + k] = grad_n;
                    grad_inner[k] = products[2 * H + k] = grad_n * r;
                    carry[k] = grad * z;
                }
            }
            if (step) add_times(p, count, hidden, 3 * hidden, scratch, weight(), carried);
        }
    }
};

template <typename S> void scan(const Scan& p, bool forward) {
    const int64_t wanted = (p.threads + 1) / 2, chunks = wanted < p.batch ? wanted : p.batch;
#pragma omp parallel for num_threads(p.threads) schedule(static)
    for (int64_t number = 0; number < 2 * chunks; number++) {
        Part<S> part(p, number, chunks);
        if (forward) part.forward();
        else part.backward();
    }
}

const int64_t BLOCK = 64;  // of rows that stay in a cache while they are looked at twice

// A block's number of real rows, mean and squares, added to those of the blocks before.
template <typename S> struct Moments {
    double count, *mean, *squares;
    S *sum, *deviation;

    void add(const Normalization& p, int64_t first, int64_t last) {
        const int64_t C = p.channels;
        const S* x = (const S*)p.x;
        double n = 0;
        memset(sum, 0, sizeof(S) * 2 * C);
        for (int64_t row = first; row < last; row++) {
            if (p.mask && !p.mask[row]) continue;
            n++;
#pragma omp simd
            for (int64_t c = 0; c < C; c++) sum[c] += x[row * C + c];
        }
        if (n == 0) return;
        const S share = (S)(1 / n);
        for (int64_t row = first; row < last; row++) {
            if (p.mask && !p.mask[row]) continue;
#pragma omp simd
            for (int64_t c = 0; c < C; c++) {
                const S difference = x[row * C + c] - sum[c] * share;
                deviation[c] += difference * difference;
            }
        }
        const double total = count + n, weight = n / total;
#pragma omp simd
        for (int64_t c = 0; c < C; c++) {
            const double difference = (double)(sum[c] * share) - mean[c];
            mean[c] += difference * weight;
            squares[c] += deviation[c] + difference * difference * count * weight;
        }
        count = total;
    }
};

template <typename S> void moments(const Normalization& p) {
    const int64_t C = p.channels, blocks = (p.rows + BLOCK - 1) / BLOCK;
    double* own = (double*)calloc(p.threads * (2 * C + 1), sizeof(double));
#pragma omp parallel for num_threads(p.threads) schedule(static)
    for (int64_t thread = 0; thread < p.threads; thread++) {
        double* mean = own + thread * (2 * C + 1);
        S* scratch = (S*)malloc(sizeof(S) * 2 * C);
        Moments<S> found = {0, mean, mean + C, scratch, scratch + C};
        for (int64_t b = blocks * thread / p.threads; b < blocks * (thread + 1) / p.threads; b++)
            found.add(p, b * BLOCK, (b + 1) * BLOCK < p.rows ? (b + 1) * BLOCK : p.rows);
        mean[2 * C] = found.count;
        free(scratch);
    }
    for (int64_t thread = 0; thread < p.threads; thread++) {
        const double *mean = own + thread * (2 * C + 1), n = mean[2 * C];
        if (n == 0) continue;
        const double total = *p.count + n, weight = n / total;
        for (int64_t c = 0; c < C; c++) {
            const double difference = mean[c] - p.mean[c];
            p.mean[c] += difference * weight;
            p.squares[c] += mean[C + c] + difference * difference * *p.count * weight;
        }
        *p.count = total;
    }
    free(own);
}

template <typename S> void normalize(const Normalization& p) {
    const int64_t C = p.channels;
    const S *scale = (const S*)p.scale, *shift = (const S*)p.shift;
#pragma omp parallel for num_threads(p.threads) schedule(static)
    for (int64_t row = 0; row < p.rows; row++) {
        const S* x = (const S*)p.x + row * C;
        S* y = (S*)p.y + row * C;
        if (p.mask && !p.mask[row]) {
            memset(y, 0, sizeof(S) * C);
            continue;
        }
#pragma omp simd
        for (int64_t c = 0; c < C; c++) {
            const S value = scale[c] * x[c] + shift[c];
            y[c] = value > 0 ? value : 0;
        }
    }
}

template <typename S> void gradient_sums(const Normalization& p) {
    const int64_t C = p.channels, blocks = (p.rows + BLOCK - 1) / BLOCK;
    const S *scale = (const S*)p.scale, *shift = (const S*)p.shift;
    double* own = (double*)calloc(p.threads * 2 * C, sizeof(double));
#pragma omp parallel for num_threads(p.threads) schedule(static)
    for (int64_t thread = 0; thread < p.threads; thread++) {
        double *sum = own + thread * 2 * C, *product = sum + C;
        S *block_sum = (S*)malloc(sizeof(S) * 3 * C), *block_product = block_sum + C, *mean = block_product + C;
        for (int64_t c = 0; c < C; c++) mean[c] = (S)p.mean[c];
        for (int64_t b = blocks * thread / p.threads; b < blocks * (thread + 1) / p.threads; b++) {
            memset(block_sum, 0, sizeof(S) * 2 * C);
            for (int64_t row = b * BLOCK; row < p.rows && row < (b + 1) * BLOCK; row++) {
                if (p.mask && !p.mask[row]) continue;
                const S *x = (const S*)p.x + row * C, *grad = (const S*)p.grad + row * C;
#pragma omp simd
                for (int64_t c = 0; c < C; c++) {
                    const S value = scale[c] * x[c] + shift[c] > 0 ? grad[c] : 0;
                    block_sum[c] += value;
                    block_product[c] += value * (x[c] - mean[c]);
                }
            }
            for (int64_t c = 0; c < C; c++) {
                sum[c] += block_sum[c];
                product[c] += block_product[c];
            }
        }
        free(block_sum);
    }
    for (int64_t thread = 0; thread < p.threads; thread++)
        for (int64_t c = 0; c < C; c++) {
            p.grad_sum[c] += own[thread * 2 * C + c];
            p.grad_product[c] += own[thread * 2 * C + C + c];
        }
    free(own);
}

template <typename S> void gradient(const Normalization& p) {
    const int64_t C = p.channels;
    const S *scale = (const S*)p.scale, *shift = (const S*)p.shift;
    const S *offset = (const S*)p.grad_offset, *factor = (const S*)p.grad_factor;
    S* mean = (S*)malloc(sizeof(S) * C);
    for (int64_t c = 0; c < C; c++) mean[c] = (S)p.mean[c];
#pragma omp parallel for num_threads(p.threads) schedule(static)
    for (int64_t row = 0; row < p.rows; row++) {
        const S *x = (const S*)p.x + row * C, *grad = (const S*)p.grad + row * C;
        S* grad_x = (S*)p.grad_x + row * C;
        if (p.mask && !p.mask[row]) {
            memset(grad_x, 0, sizeof(S) * C);
            continue;
        }
#pragma omp simd
        for (int64_t c = 0; c < C; c++) {
            const S value = scale[c] * x[c] + shift[c] > 0 ? grad[c] : 0;
            grad_x[c] = scale[c] * value - offset[c] - factor[c] * (x[c] - mean[c]);
        }
    }
    free(mean);
}

}  // namespace

extern "C" void transform_to_planes(const Transform* p) {
    if (p->wide) to_planes<double, double>(*p);
    else if (p->half) to_planes<float, uint16_t>(*p);
    else to_planes<float, float>(*p);
}

extern "C" void transform_from_planes(const Transform* p) {
    if (p->wide) from_planes<double, double>(*p);
    else if (p->half) from_planes<float, uint16_t>(*p);
    else from_planes<float, float>(*p);
}

extern "C" void scan_forward(const Scan* p) {
    if (p->wide) scan<double>(*p, true);
    else scan<float>(*p, true);
}

extern "C" void scan_backward(const Scan* p) {
    if (p->wide) scan<double>(*p, false);
    else scan<float>(*p, false);
}

extern "C" void normalization_moments(const Normalization* p) {
    if (p->wide) moments<double>(*p);
    else moments<float>(*p);
}

extern "C" void normalization_normalize(const Normalization* p) {
    if (p->wide) normalize<double>(*p);
    else normalize<float>(*p);
}

extern "C" void normalization_gradient_sums(const Normalization* p) {
    if (p->wide) gradient_sums<double>(*p);
    else gradient_sums<float>(*p);
}

extern "C" void normalization_gradient(const Normalization* p) {
    if (p->wide) gradient<double>(*p);
    else gradient<float>(*p);
}
