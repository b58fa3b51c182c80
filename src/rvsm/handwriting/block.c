/* Max pooling in blocks of 1 or 2 by 1 or 2, normalisation over the batch and ReLU, and back.

   Maps are (n, h, w, c), c innermost. MOST bounds c. A loop over channels takes LANES at once and
   the rest one by one. What a convolution in bfloat16 puts out, and what goes back into it, is in
   bfloat16, and so is what the next one reads; all that is computed is in float32. Of such maps the
   largest entries are kept as they are, in half the memory. */

#include <stdint.h>
#include <string.h>

#define MOST 2048
#define LANES 8

#define TYPES(L)                                                                                   \
    typedef float f##L __attribute__((vector_size(4 * L), aligned(4), may_alias));                 \
    typedef int32_t i##L __attribute__((vector_size(4 * L), aligned(4), may_alias));               \
    typedef uint32_t u##L __attribute__((vector_size(4 * L), aligned(4), may_alias));              \
    typedef uint16_t h##L __attribute__((vector_size(2 * L), aligned(2), may_alias));              \
    typedef int8_t b##L __attribute__((vector_size(L), aligned(1), may_alias));
TYPES(8)
TYPES(1)

#define AT(T, p) (*(T *)(p))
#define OF(T, p) (*(const T *)(p))
#define CHOOSE(L, mask, yes, no) ((f##L)(((mask) & (i##L)(yes)) | (~(mask) & (i##L)(no))))
typedef float f32;
typedef uint16_t bf16;
#define LOAD_f32(L, p) OF(f##L, p)
#define LOAD_bf16(L, p) ((f##L)(__builtin_convertvector(OF(h##L, p), i##L) << 16))
#define STORE_f32(L, p, v) AT(f##L, p) = (f##L)(v);
/* To the nearest, of two equally near to the even one; a NaN stays one. */
#define STORE_bf16(L, p, v)                                                                        \
    {                                                                                              \
        f##L given = (f##L)(v);                                                                    \
        u##L bits = (u##L)given, none = (u##L)(given != given);                                    \
        u##L whole = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;                                     \
        AT(h##L, p) = __builtin_convertvector((none & 0x7fc0) | (~none & whole), h##L);            \
    }

#define OVER_CHANNELS(BODY, ...)                                                                   \
    do {                                                                                           \
        long k = 0;                                                                                \
        for (; k + LANES <= c; k += LANES) BODY(8, __VA_ARGS__)                                    \
        for (; k < c; k++) BODY(1, __VA_ARGS__)                                                    \
    } while (0)
/* The function of a type of maps and a block of 1 or 2 by 1 or 2. */
#define BY_BLOCK(NAME, T, ...)                                                                     \
    (rows == 2 ? (columns == 2 ? NAME##_##T##_22 : NAME##_##T##_21)                                \
               : (columns == 2 ? NAME##_##T##_12 : NAME##_##T##_11))(__VA_ARGS__)

/* Sums of float32 go on in double after each row: of millions of places they would lose digits. */
static void into(double *sums, const float *row, long c) {
    for (long k = 0; k < c; k++) sums[k] += row[k];
}

/* A NaN is larger than everything, as torch has it. */
#define TAKE(L, T, from, place)                                                                    \
    {                                                                                              \
        f##L z = LOAD_##T(L, (from) + k);                                                          \
        i##L more = (z > m) | (z != z);                                                            \
        m = CHOOSE(L, more, z, m);                                                                 \
        which = (more & (place)) | (~more & which);                                                \
    }

#define POOL(T, ROWS, COLUMNS)                                                                     \
    static void pool_##T##_##ROWS##COLUMNS(const T *restrict x, T *restrict y,                     \
                                           int8_t *restrict at, double *restrict sums,             \
                                           double *restrict squares, long n, long h, long w,       \
                                           long c) {                                               \
        float s[MOST], q[MOST];                                                                    \
        for (long r = 0; r < n * (h / ROWS); r++) {                                                \
            memset(s, 0, c * sizeof *s);                                                           \
            memset(q, 0, c * sizeof *q);                                                           \
            for (long j = 0; j < w / COLUMNS; j++, y += c, at += c) {                              \
                const T *p = x + (r * ROWS * w + j * COLUMNS) * c;                                 \
                OVER_CHANNELS(POOL_##ROWS##COLUMNS, T);                                            \
            }                                                                                      \
            into(sums, s, c);                                                                      \
            into(squares, q, c);                                                                   \
        }                                                                                          \
    }
#define POOL_BEGIN(L, T)                                                                           \
    f##L m = LOAD_##T(L, p + k);                                                                   \
    i##L which = {0};
#define POOL_END(L, T)                                                                             \
    STORE_##T(L, y + k, m)                                                                         \
    AT(b##L, at + k) = __builtin_convertvector(which, b##L);                                       \
    AT(f##L, s + k) += m;                                                                          \
    AT(f##L, q + k) += m * m;
#define POOL_11(L, T) { POOL_BEGIN(L, T) POOL_END(L, T) }
#define POOL_12(L, T) { POOL_BEGIN(L, T) TAKE(L, T, p + c, 1) POOL_END(L, T) }
#define POOL_21(L, T) { POOL_BEGIN(L, T) TAKE(L, T, p + w * c, 1) POOL_END(L, T) }
#define POOL_22(L, T)                                                                              \
    {                                                                                              \
        POOL_BEGIN(L, T)                                                                           \
        TAKE(L, T, p + c, 1) TAKE(L, T, p + w * c, 2) TAKE(L, T, p + w * c + c, 3) POOL_END(L, T)  \
    }
#define OF_ALL_BLOCKS(BODY, T) BODY(T, 1, 1) BODY(T, 1, 2) BODY(T, 2, 1) BODY(T, 2, 2)
OF_ALL_BLOCKS(POOL, f32)
OF_ALL_BLOCKS(POOL, bf16)

/* The largest of each block, which of its entries that is, and the sums over all blocks. */
#define POOL_OF(T)                                                                                 \
    void pool_##T(const T *x, T *y, int8_t *at, double *sums, double *squares, long n, long h,     \
                  long w, long c, long rows, long columns) {                                       \
        memset(sums, 0, c * sizeof *sums);                                                         \
        memset(squares, 0, c * sizeof *squares);                                                   \
        BY_BLOCK(pool, T, x, y, at, sums, squares, n, h, w, c);                                    \
    }
POOL_OF(f32)
POOL_OF(bf16)

/* max(a y + b, 0) of m places; Y is the type of pooled maps, Z that of what is made of them. */
#define RECTIFY(L, Y, Z)                                                                           \
    {                                                                                              \
        f##L v = LOAD_##Y(L, y + k) * OF(f##L, a + k) + OF(f##L, b + k);                           \
        STORE_##Z(L, z + k, CHOOSE(L, v <= 0, (f##L){0}, v))                                       \
    }
#define RECTIFY_OF(Y, Z)                                                                           \
    void rectify_##Y##_##Z(const Y *restrict y, Z *restrict z, const float *restrict a,            \
                           const float *restrict b, long m, long c) {                              \
        for (long r = 0; r < m; r++, y += c, z += c) OVER_CHANNELS(RECTIFY, Y, Z);                 \
    }

/* The gradient g where a y + b > 0, else 0. */
#define PASSED(L, Y, Z)                                                                            \
    f##L v = LOAD_##Y(L, y + k);                                                                   \
    f##L d = CHOOSE(L, v * OF(f##L, a + k) + OF(f##L, b + k) > 0, LOAD_##Z(L, g + k), (f##L){0});

/* Sums of what passes the ReLU, and of its products with y. */
#define ADD_UP(L, Y, Z)                                                                            \
    {                                                                                              \
        PASSED(L, Y, Z)                                                                            \
        AT(f##L, s + k) += d;                                                                      \
        AT(f##L, q + k) += d * v;                                                                  \
    }
#define ADD_UP_OF(Y, Z)                                                                            \
    void add_up_##Y##_##Z(const Z *restrict g, const Y *restrict y, const float *restrict a,       \
                          const float *restrict b, double *restrict sums,                          \
                          double *restrict products, long m, long c) {                             \
        float s[MOST], q[MOST];                                                                    \
        memset(sums, 0, c * sizeof *sums);                                                         \
        memset(products, 0, c * sizeof *products);                                                 \
        for (long r = 0; r < m;) {                                                                 \
            memset(s, 0, c * sizeof *s);                                                           \
            memset(q, 0, c * sizeof *q);                                                           \
            for (long t = 0; t < 64 && r < m; t++, r++, g += c, y += c)                            \
                OVER_CHANNELS(ADD_UP, Y, Z);                                                       \
            into(sums, s, c);                                                                      \
            into(products, q, c);                                                                  \
        }                                                                                          \
    }
/* The first layer's maps are in float32, and may go on in bfloat16. */
#define OF_ALL_TYPES(BODY) BODY(f32, f32) BODY(f32, bf16) BODY(bf16, bf16)
OF_ALL_TYPES(RECTIFY_OF)
OF_ALL_TYPES(ADD_UP_OF)

/* e passed + f y + o, to the largest entry of each block; 0 to the others. */
#define SPREAD(T, ROWS, COLUMNS)                                                                   \
    static void spread_##T##_##ROWS##COLUMNS(                                                      \
        const T *restrict g, const T *restrict y, const int8_t *restrict at,                       \
        const float *restrict a, const float *restrict b, const float *restrict e,                 \
        const float *restrict f, const float *restrict o, T *restrict x, long n, long h, long w,   \
        long c) {                                                                                  \
        for (long r = 0; r < n * (h / ROWS); r++)                                                  \
            for (long j = 0; j < w / COLUMNS; j++, g += c, y += c, at += c) {                      \
                T *p = x + (r * ROWS * w + j * COLUMNS) * c;                                       \
                OVER_CHANNELS(SPREAD_##ROWS##COLUMNS, T);                                          \
            }                                                                                      \
    }
#define SPREAD_BEGIN(L, Y, Z)                                                                      \
    PASSED(L, Y, Z)                                                                                \
    d = OF(f##L, e + k) * d + OF(f##L, f + k) * v + OF(f##L, o + k);                               \
    i##L which = __builtin_convertvector(OF(b##L, at + k), i##L);
#define GIVE(L, T, to, place) STORE_##T(L, (to) + k, (which == (place)) & (i##L)d)
#define SPREAD_11(L, T) { SPREAD_BEGIN(L, T, T) GIVE(L, T, p, 0) }
#define SPREAD_12(L, T) { SPREAD_BEGIN(L, T, T) GIVE(L, T, p, 0) GIVE(L, T, p + c, 1) }
#define SPREAD_21(L, T) { SPREAD_BEGIN(L, T, T) GIVE(L, T, p, 0) GIVE(L, T, p + w * c, 1) }
#define SPREAD_22(L, T)                                                                            \
    {                                                                                              \
        SPREAD_BEGIN(L, T, T)                                                                      \
        GIVE(L, T, p, 0) GIVE(L, T, p + c, 1)                                                      \
        GIVE(L, T, p + w * c, 2) GIVE(L, T, p + w * c + c, 3)                                      \
    }
OF_ALL_BLOCKS(SPREAD, f32)
OF_ALL_BLOCKS(SPREAD, bf16)

#define SPREAD_OF(T)                                                                               \
    void spread_##T(const T *g, const T *y, const int8_t *at, const float *a, const float *b,      \
                    const float *e, const float *f, const float *o, T *x, long n, long h, long w,  \
                    long c, long rows, long columns) {                                             \
        BY_BLOCK(spread, T, g, y, at, a, b, e, f, o, x, n, h, w, c);                               \
    }
SPREAD_OF(f32)
SPREAD_OF(bf16)

/* The first layer: a convolution of images of one channel with kernels of 3x3, pooling in blocks of
   2x2, and back. Its maps, four times as large as what is left of them, are never written. Weights
   are (9, c). Each image is copied into a frame of zeros first. */

#define TAPS 9
#define WIDE 16
TYPES(16)

static void frame(const float *x, float *framed, long h, long w) {
    for (long r = 0; r < h; r++) memcpy(framed + (r + 1) * (w + 2) + 1, x + r * w, w * sizeof *x);
}

#define KEEP_LARGER(L, z, place)                                                                   \
    {                                                                                              \
        i##L more = ((z) > m) | ((z) != (z));                                                      \
        m = CHOOSE(L, more, z, m);                                                                 \
        which = (more & (place)) | (~more & which);                                                \
    }

#define FIRST_LAYER(L)                                                                             \
    static void convolve_##L(const float *framed, const float *restrict weight, float *restrict y, \
                             int8_t *restrict at, double *restrict sums, double *restrict squares, \
                             long h, long w, long c) {                                             \
        const long stride = w + 2;                                                                 \
        f##L tap[TAPS];                                                                            \
        for (int t = 0; t < TAPS; t++) tap[t] = OF(f##L, weight + t * c);                          \
        for (long r = 0; r < h / 2; r++) {                                                         \
            f##L s = {0}, q = {0};                                                                 \
            for (long j = 0; j < w / 2; j++, y += c, at += c) {                                    \
                const float *p = framed + 2 * (r * stride + j);                                    \
                f##L m = {0}, z1 = {0}, z2 = {0}, z3 = {0};                                        \
                _Pragma("GCC unroll 3") for (int i = 0; i < 3; i++)                                \
                    _Pragma("GCC unroll 3") for (int k = 0; k < 3; k++) {                          \
                        const float *v = p + i * stride + k;                                       \
                        m += v[0] * tap[3 * i + k];                                                \
                        z1 += v[1] * tap[3 * i + k];                                               \
                        z2 += v[stride] * tap[3 * i + k];                                          \
                        z3 += v[stride + 1] * tap[3 * i + k];                                      \
                    }                                                                              \
                i##L which = {0};                                                                  \
                KEEP_LARGER(L, z1, 1)                                                              \
                KEEP_LARGER(L, z2, 2)                                                              \
                KEEP_LARGER(L, z3, 3)                                                              \
                AT(f##L, y) = m;                                                                   \
                AT(b##L, at) = __builtin_convertvector(which, b##L);                               \
                s += m;                                                                            \
                q += m * m;                                                                        \
            }                                                                                      \
            for (int l = 0; l < L; l++) {                                                          \
                sums[l] += ((const float *)&s)[l];                                                 \
                squares[l] += ((const float *)&q)[l];                                              \
            }                                                                                      \
        }                                                                                          \
    }
#define FIRST_BACK(L, Z)                                                                           \
    static void correlate_##Z##_##L(const float *framed, const Z *restrict g,                      \
                              const float *restrict y, const int8_t *restrict at,                  \
                              const float *restrict a, const float *restrict b,                    \
                              const float *restrict e, const float *restrict f,                    \
                              const float *restrict o, double *restrict slopes, long h, long w,    \
                              long c) {                                                            \
        const long stride = w + 2, k = 0;                                                          \
        f##L total[TAPS] = {0};                                                                    \
        for (long r = 0; r < h / 2; r++)                                                           \
            for (long j = 0; j < w / 2; j++, g += c, y += c, at += c) {                            \
                const float *p = framed + 2 * (r * stride + j);                                    \
                SPREAD_BEGIN(L, f32, Z)                                                            \
                const f##L d0 = (f##L)((which == 0) & (i##L)d), d1 = (f##L)((which == 1) & (i##L)d);\
                const f##L d2 = (f##L)((which == 2) & (i##L)d), d3 = (f##L)((which == 3) & (i##L)d);\
                _Pragma("GCC unroll 3") for (int i = 0; i < 3; i++)                                \
                    _Pragma("GCC unroll 3") for (int t = 0; t < 3; t++) {                          \
                        const float *u = p + i * stride + t;                                       \
                        total[3 * i + t] += u[0] * d0;                                             \
                        total[3 * i + t] += u[1] * d1;                                             \
                        total[3 * i + t] += u[stride] * d2;                                        \
                        total[3 * i + t] += u[stride + 1] * d3;                                    \
                    }                                                                              \
            }                                                                                      \
        for (int t = 0; t < TAPS; t++)                                                             \
            for (int l = 0; l < L; l++) slopes[t * c + l] += ((const float *)&total[t])[l];        \
    }
FIRST_LAYER(16)
FIRST_LAYER(8)
FIRST_LAYER(1)
FIRST_BACK(16, f32)
FIRST_BACK(8, f32)
FIRST_BACK(1, f32)
FIRST_BACK(16, bf16)
FIRST_BACK(8, bf16)
FIRST_BACK(1, bf16)

#define BY_LANES(CALL, ...)                                                                        \
    do {                                                                                           \
        long k = 0;                                                                                \
        for (; k + WIDE <= c; k += WIDE) CALL(16, ##__VA_ARGS__);                                  \
        for (; k + LANES <= c; k += LANES) CALL(8, ##__VA_ARGS__);                                 \
        for (; k < c; k++) CALL(1, ##__VA_ARGS__);                                                 \
    } while (0)

/* As `pool` of the maps of n images x. `framed` has room for (h + 2)(w + 2) numbers, all zero. */
void convolve(const float *x, const float *weight, float *framed, float *y, int8_t *at,
              double *sums, double *squares, long n, long h, long w, long c) {
    memset(sums, 0, c * sizeof *sums);
    memset(squares, 0, c * sizeof *squares);
    for (long i = 0; i < n; i++, x += h * w, y += h / 2 * (w / 2) * c, at += h / 2 * (w / 2) * c) {
        frame(x, framed, h, w);
#define CONVOLVE(L) convolve_##L(framed, weight + k, y + k, at + k, sums + k, squares + k, h, w, c)
        BY_LANES(CONVOLVE);
    }
}

/* The gradient of the weights (9, c) from that of what is left of the maps, as `spread` has it. */
#define CORRELATE(L, Z)                                                                            \
    correlate_##Z##_##L(framed, g + k, y + k, at + k, a + k, b + k, e + k, f + k, o + k,           \
                        slopes + k, h, w, c)
#define CORRELATE_OF(Z)                                                                            \
    void correlate_##Z(const float *x, float *framed, const Z *g, const float *y,                  \
                       const int8_t *at, const float *a, const float *b, const float *e,           \
                       const float *f, const float *o, double *slopes, long n, long h, long w,     \
                       long c) {                                                                   \
        const long size = h / 2 * (w / 2) * c;                                                     \
        memset(slopes, 0, TAPS * c * sizeof *slopes);                                              \
        for (long i = 0; i < n; i++, x += h * w, g += size, y += size, at += size) {               \
            frame(x, framed, h, w);                                                                \
            BY_LANES(CORRELATE, Z);                                                                \
        }                                                                                          \
    }
CORRELATE_OF(f32)
CORRELATE_OF(bf16)
