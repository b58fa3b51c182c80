/* One pass over the memory each, for what a step of splitting does to whole tensors of float32.

   x, w, u, g hold n numbers. Every loop over them is written so that a compiler can make vectors of
   it: no branches, flags gathered in integers. What torch does with the same numbers, to the bit. */

#include <math.h>
#include <stdint.h>
#include <string.h>

enum { HARD, SOFT, BLOCK = 1024, WINDOW = 256 };

static inline int32_t bits_of(float x) {
    int32_t b;
    memcpy(&b, &x, sizeof b);
    return b;
}

/* 1 where x is infinite or NaN. */
static inline int32_t strange(float x) { return (bits_of(x) & 0x7f800000) == 0x7f800000; }

static inline float mapped(int kind, float x, float t) {
    if (kind == HARD) return fabsf(x) <= t ? 0.0f : x;
    return x > t ? x - t : x < -t ? x + t : x != x ? x : 0.0f;
}

#define BY_KIND(CALL) (kind == HARD ? CALL(HARD) : CALL(SOFT))

/* g + factor (w - u) with the u of w; whether one of them is not finite. */
static inline long pull_to(int kind, float *restrict g, const float *restrict w, long n, float t,
                           float factor) {
    int32_t bad = 0;
    for (long i = 0; i < n; i++) {
        float d = w[i] - mapped(kind, w[i], t);
        g[i] += factor * d;
        bad |= strange(g[i]);
    }
    return bad;
}
long pull(int kind, float *g, const float *w, long n, float t, float factor) {
#define PULL(K) pull_to(K, g, w, n, t, factor)
    return BY_KIND(PULL);
}

/* g + factor (u - w); whether one of them is not finite. */
long push(float *restrict g, const float *restrict u, const float *restrict w, long n,
          float factor) {
    int32_t bad = 0;
    for (long i = 0; i < n; i++) {
        float d = u[i] - w[i];
        g[i] += factor * d;
        bad |= strange(g[i]);
    }
    return bad;
}

/* The u of w in u, which may be w, without negative zeros. */
static inline long show_as(int kind, float *u, const float *w, long n, float t) {
    for (long begin = 0; begin < n; begin += BLOCK) {
        float kept[BLOCK];
        long m = n - begin < BLOCK ? n - begin : BLOCK;
        memcpy(kept, w + begin, m * sizeof *kept);
        for (long i = 0; i < m; i++) u[begin + i] = mapped(kind, kept[i], t) + 0.0f;
    }
    return 0;
}
void show(int kind, float *u, const float *w, long n, float t) {
#define SHOW(K) show_as(K, u, w, n, t)
    BY_KIND(SHOW);
}

/* Whether one of them is not finite. */
long any_strange(const float *x, long n) {
    int32_t bad = 0;
    for (long i = 0; i < n; i++) bad |= strange(x[i]);
    return bad;
}

/* How many magnitudes lie above t. */
long count_above(const float *x, long n, float t) {
    long above = 0;
    for (long i = 0; i < n; i++) above += fabsf(x[i]) > t;
    return above;
}

struct window { long below, inside; };

/* How many magnitudes of x are less than low and how many up to high, in `count`; those inside in
   `inside` while there is room, the least above in `above` if it is less than what that holds. Few
   are inside: whole blocks are passed over. Of numbers >= 0 the bits are in order. */
static void look_at(const float *x, long n, float low, float high, float *inside, long room,
                    struct window *count, int32_t *above) {
    const int32_t from = bits_of(low), to = bits_of(high);
    int32_t least = *above;
    count->below = count->inside = 0;
    for (long begin = 0; begin < n; begin += WINDOW) {
        long m = n - begin < WINDOW ? n - begin : WINDOW;
        const float *y = x + begin;
        int32_t under = 0, up_to = 0;
        for (long i = 0; i < m; i++) {
            int32_t a = bits_of(y[i]) & 0x7fffffff;
            int32_t beyond = a > to ? a : bits_of(INFINITY);
            under += a < from;
            up_to += a <= to;
            least = beyond < least ? beyond : least;
        }
        count->below += under;
        if (up_to > under)
            for (long i = 0; i < m; i++) {
                float a = fabsf(y[i]);
                if (a >= low && a <= high && count->inside++ < room) inside[count->inside - 1] = a;
            }
    }
    *above = least;
}

/* The same of m tensors together, counts one by one; how many are inside in all. */
long look(const float *const *xs, const long *ns, long m, float low, float high, float *inside,
          long room, struct window *counts, float *above) {
    int32_t least = bits_of(INFINITY);
    long found = 0;
    for (long j = 0; j < m; j++) {
        long left = room > found ? room - found : 0;
        look_at(xs[j], ns[j], low, high, inside + (room - left), left, counts + j, &least);
        found += counts[j].inside;
    }
    memcpy(above, &least, sizeof *above);
    return found;
}

/* Where p is zero; and x with zeros there. */
void mark(const float *restrict p, uint8_t *restrict zero, long n) {
    for (long i = 0; i < n; i++) zero[i] = p[i] == 0.0f;
}
void clear(float *restrict x, const uint8_t *restrict zero, long n) {
    for (long i = 0; i < n; i++) x[i] = zero[i] ? 0.0f : x[i];
}
