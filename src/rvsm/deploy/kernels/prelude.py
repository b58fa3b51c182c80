"""The C text every emitted function builds on: vectors of 16, 8, 4 or 1 floats, and activations."""

from __future__ import annotations

WIDTHS = (16, 8, 4, 1)

_HEAD = """\
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* RVSM_V: floats in the widest vector of the target; 1 is plain C, which RVSM_PLAIN asks for. */
#if defined(__GNUC__)
#define RVSM_INLINE static inline __attribute__((always_inline, unused))
#define RVSM_ALIGNED __attribute__((aligned(64)))
#else
#define RVSM_INLINE static inline
#define RVSM_ALIGNED
#endif
#if !defined(__GNUC__) || defined(RVSM_PLAIN)
#define RVSM_V 1
#elif defined(__AVX512F__)
#include <immintrin.h>
#define RVSM_V 16
#elif defined(__AVX__)
#include <immintrin.h>
#define RVSM_V 8
#else
#define RVSM_V 4
#endif

typedef struct { float value; int32_t offset; } rvsm_entry;

/* Four offsets; compilers make this one load. */
RVSM_INLINE uint64_t rvsm_four(const uint16_t *p)
{ return p[0] | (uint64_t)p[1] << 16 | (uint64_t)p[2] << 32 | (uint64_t)p[3] << 48; }
"""

_V16 = """
#if RVSM_V >= 16
typedef __m512 rvsm_v16;
RVSM_INLINE rvsm_v16 rvsm_load16(const float *p) { return _mm512_loadu_ps(p); }
RVSM_INLINE void rvsm_store16(float *p, rvsm_v16 a) { _mm512_storeu_ps(p, a); }
RVSM_INLINE rvsm_v16 rvsm_set16(float a) { return _mm512_set1_ps(a); }
RVSM_INLINE rvsm_v16 rvsm_add16(rvsm_v16 a, rvsm_v16 b) { return _mm512_add_ps(a, b); }
RVSM_INLINE rvsm_v16 rvsm_fma16(rvsm_v16 a, rvsm_v16 b, rvsm_v16 c)
{ return _mm512_fmadd_ps(a, b, c); }
RVSM_INLINE rvsm_v16 rvsm_max16(rvsm_v16 a, rvsm_v16 b) { return _mm512_max_ps(a, b); }
RVSM_INLINE rvsm_v16 rvsm_min16(rvsm_v16 a, rvsm_v16 b) { return _mm512_min_ps(a, b); }
RVSM_INLINE rvsm_v16 rvsm_gather16(const float *p, const int32_t *at)
{ return _mm512_i32gather_ps(_mm512_loadu_si512(at), p, 4); }
RVSM_INLINE void rvsm_part16(float *p, rvsm_v16 a, int lane, int count)
{ _mm512_mask_storeu_ps(p - lane, (__mmask16)(((1u << count) - 1u) << lane), a); }
#endif
"""

_V8 = """
#if RVSM_V >= 8
typedef __m256 rvsm_v8;
RVSM_INLINE rvsm_v8 rvsm_load8(const float *p) { return _mm256_loadu_ps(p); }
RVSM_INLINE void rvsm_store8(float *p, rvsm_v8 a) { _mm256_storeu_ps(p, a); }
RVSM_INLINE rvsm_v8 rvsm_set8(float a) { return _mm256_set1_ps(a); }
RVSM_INLINE rvsm_v8 rvsm_add8(rvsm_v8 a, rvsm_v8 b) { return _mm256_add_ps(a, b); }
RVSM_INLINE rvsm_v8 rvsm_fma8(rvsm_v8 a, rvsm_v8 b, rvsm_v8 c)
#if defined(__FMA__)
{ return _mm256_fmadd_ps(a, b, c); }
#else
{ return _mm256_add_ps(_mm256_mul_ps(a, b), c); }
#endif
RVSM_INLINE rvsm_v8 rvsm_max8(rvsm_v8 a, rvsm_v8 b) { return _mm256_max_ps(a, b); }
RVSM_INLINE rvsm_v8 rvsm_min8(rvsm_v8 a, rvsm_v8 b) { return _mm256_min_ps(a, b); }
RVSM_INLINE rvsm_v8 rvsm_gather8(const float *p, const int32_t *at)
#if defined(__AVX2__)
{ return _mm256_i32gather_ps(p, _mm256_loadu_si256((const __m256i *)at), 4); }
#else
{ return _mm256_set_ps(p[at[7]], p[at[6]], p[at[5]], p[at[4]], p[at[3]], p[at[2]], p[at[1]],
                       p[at[0]]); }
#endif
RVSM_INLINE void rvsm_part8(float *p, rvsm_v8 a, int lane, int count)
{ float t[8]; memcpy(t, &a, sizeof t); memcpy(p, t + lane, (size_t)count * sizeof(float)); }
#endif
"""

_V4 = """
#if RVSM_V >= 4
typedef float rvsm_v4 __attribute__((vector_size(16)));
typedef int32_t rvsm_i4 __attribute__((vector_size(16)));
RVSM_INLINE rvsm_v4 rvsm_load4(const float *p) { rvsm_v4 a; memcpy(&a, p, sizeof a); return a; }
RVSM_INLINE void rvsm_store4(float *p, rvsm_v4 a) { memcpy(p, &a, sizeof a); }
RVSM_INLINE rvsm_v4 rvsm_set4(float a) { return (rvsm_v4){a, a, a, a}; }
RVSM_INLINE rvsm_v4 rvsm_add4(rvsm_v4 a, rvsm_v4 b) { return a + b; }
RVSM_INLINE rvsm_v4 rvsm_fma4(rvsm_v4 a, rvsm_v4 b, rvsm_v4 c) { return a * b + c; }
RVSM_INLINE rvsm_v4 rvsm_max4(rvsm_v4 a, rvsm_v4 b)
{ rvsm_i4 m = a > b; return (rvsm_v4)((m & (rvsm_i4)a) | (~m & (rvsm_i4)b)); }
RVSM_INLINE rvsm_v4 rvsm_min4(rvsm_v4 a, rvsm_v4 b)
{ rvsm_i4 m = a < b; return (rvsm_v4)((m & (rvsm_i4)a) | (~m & (rvsm_i4)b)); }
RVSM_INLINE rvsm_v4 rvsm_gather4(const float *p, const int32_t *at)
{ return (rvsm_v4){p[at[0]], p[at[1]], p[at[2]], p[at[3]]}; }
RVSM_INLINE void rvsm_part4(float *p, rvsm_v4 a, int lane, int count)
{ float t[4]; memcpy(t, &a, sizeof t); memcpy(p, t + lane, (size_t)count * sizeof(float)); }
#else
typedef float rvsm_v1;
RVSM_INLINE rvsm_v1 rvsm_load1(const float *p) { return *p; }
RVSM_INLINE void rvsm_store1(float *p, rvsm_v1 a) { *p = a; }
RVSM_INLINE rvsm_v1 rvsm_set1(float a) { return a; }
RVSM_INLINE rvsm_v1 rvsm_add1(rvsm_v1 a, rvsm_v1 b) { return a + b; }
RVSM_INLINE rvsm_v1 rvsm_fma1(rvsm_v1 a, rvsm_v1 b, rvsm_v1 c) { return a * b + c; }
RVSM_INLINE rvsm_v1 rvsm_max1(rvsm_v1 a, rvsm_v1 b) { return a > b ? a : b; }
RVSM_INLINE rvsm_v1 rvsm_min1(rvsm_v1 a, rvsm_v1 b) { return a < b ? a : b; }
RVSM_INLINE rvsm_v1 rvsm_gather1(const float *p, const int32_t *at) { return p[*at]; }
RVSM_INLINE void rvsm_part1(float *p, rvsm_v1 a, int lane, int count)
{ (void)lane; (void)count; *p = a; }
#endif
"""

# max and min return their second operand where a comparison with NaN fails, so NaN goes through.
_ACTIVATIONS = """
#if RVSM_V >= {guard}
RVSM_INLINE rvsm_v{w} rvsm_relu{w}(rvsm_v{w} a) {{ return rvsm_max{w}(rvsm_set{w}(0.0f), a); }}
RVSM_INLINE rvsm_v{w} rvsm_relu6{w}(rvsm_v{w} a)
{{ return rvsm_min{w}(rvsm_set{w}(6.0f), rvsm_relu{w}(a)); }}
RVSM_INLINE rvsm_v{w} rvsm_leaky_relu{w}(rvsm_v{w} a, float slope)
{{ return rvsm_fma{w}(rvsm_min{w}(rvsm_set{w}(0.0f), a), rvsm_set{w}(slope), rvsm_relu{w}(a)); }}
RVSM_INLINE rvsm_v{w} rvsm_sigmoid{w}(rvsm_v{w} a)
{{
    float t[{w}];
    rvsm_store{w}(t, a);
    for (int i = 0; i < {w}; i++) t[i] = 1.0f / (1.0f + expf(-t[i]));
    return rvsm_load{w}(t);
}}
RVSM_INLINE rvsm_v{w} rvsm_tanh{w}(rvsm_v{w} a)
{{
    float t[{w}];
    rvsm_store{w}(t, a);
    for (int i = 0; i < {w}; i++) t[i] = tanhf(t[i]);
    return rvsm_load{w}(t);
}}
#endif
"""


def prelude() -> str:
    """Return the shared C text: include it once, before the code of any emitted function."""
    parts = [_HEAD, _V16, _V8, _V4]
    for width in WIDTHS:
        guard = f"{width}" if width > 1 else "1 && RVSM_V < 4"
        parts.append(_ACTIVATIONS.format(w=width, guard=guard))
    return "".join(parts)
