// What the sources that compiler.py compiles have in common. They need no header of torch: matrix products are the
// BLAS's that torch carries, handed in as pointers.

#pragma once

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef void (*Sgemm)(const char*, const char*, const int*, const int*, const int*, const float*, const float*,
                      const int*, const float*, const int*, const float*, float*, const int*);
typedef void (*Dgemm)(const char*, const char*, const int*, const int*, const int*, const double*, const double*,
                      const int*, const double*, const int*, const double*, double*, const int*);

namespace {

inline float as_float(int32_t bits) { float x; memcpy(&x, &bits, 4); return x; }
inline int32_t as_bits(float x) { int32_t bits; memcpy(&bits, &x, 4); return bits; }

// exp(x) for x < 88: 2^n by its bits times a Taylor polynomial on |r| <= ln(2)/2, relative error 1e-7
inline float exp_negative(float x) {
    x = x < -87.0f ? -87.0f : x;
    const float n = __builtin_rintf(x * 1.44269504f);
    const float r = (x - n * 0.693145752f) - n * 1.42860677e-6f;  // ln(2) in two parts, the first of few digits
    float p = 1.0f / 5040;
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    return p * as_float(((int32_t)n + 127) << 23);
}

}  // namespace
