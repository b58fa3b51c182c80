/* One pass over the memory each, for what a step of splitting does to whole tensors of float32.

   x, w, u, g hold n numbers. Every loop over them is written so that a compiler can make vectors of
   it: no branches, flags gathered in integers. What torch does with the same numbers, to the bit. */

#include <math.h>
#include <stdint.h>
#include <string.h>

enum { HARD, SOFT, BLOCK = 1024, WINDOW = 128, PART = 16 };

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

/* The same of m tensors, each by its own map. */
void show_all(const long *kinds, float *const *us, const float *const *ws, const long *ns,
              const float *ts, long m) {
    for (long j = 0; j < m; j++) show(kinds[j], us[j], ws[j], ns[j], ts[j]);
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
   are inside: whole blocks are passed over, then parts of blocks. Of numbers >= 0 the bits are in
   order. */
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
        for (long at = 0; up_to > under && at < m; at += PART) {
            int32_t hits = m - at < PART;
            if (!hits)
                for (long i = 0; i < PART; i++) {
                    int32_t a = bits_of(y[at + i]) & 0x7fffffff;
                    hits |= (a >= from) & (a <= to);
                }
            for (long i = at; hits && i < m && i < at + PART; i++) {
                float a = fabsf(y[i]);
                if (a >= low && a <= high && count->inside++ < room) inside[count->inside - 1] = a;
            }
        }
    }
    *above = least;
}

/* The same of m tensors together, counts one by one; how many are inside in all. */
static long look(const float *const *xs, const long *ns, long m, float low, float high,
                 float *inside, long room, struct window *counts, float *above) {
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

/* The k-th smallest of n numbers, from 1, which are put in order so far that none before it is
   larger and none after it smaller. */
static float select_from(float *x, long n, long k) {
    long low = 0, high = n - 1;
    while (low < high) {
        float pivot = x[low + (high - low) / 2];
        long i = low, j = high;
        while (i <= j) {
            while (x[i] < pivot) i++;
            while (x[j] > pivot) j--;
            if (i <= j) {
                float other = x[i];
                x[i++] = x[j];
                x[j--] = other;
            }
        }
        if (k - 1 <= j) high = j;
        else if (k - 1 >= i) low = i;
        else break;
    }
    return x[k - 1];
}

/* The k-th smallest magnitude of m tensors and the next in `found`, and how many of each tensor
   are larger, where the first lies between low and high; whether it does. `space` is for twice
   `room` numbers: more inside are too many. */
long between(const float *const *xs, const long *ns, long m, float low, float high, long k,
             float *space, long room, struct window *counts, float *found, long *larger) {
    float above, *chosen = space + room;
    long inside = look(xs, ns, m, low, high, space, room, counts, &above);
    for (long j = 0; j < m; j++) k -= counts[j].below;
    if (inside > room || k <= 0 || k > inside) return 0;
    memcpy(chosen, space, inside * sizeof *chosen);
    found[0] = select_from(chosen, inside, k);
    found[1] = above;
    for (long i = k; i < inside; i++) found[1] = chosen[i] < found[1] ? chosen[i] : found[1];
    for (long j = 0; j < m; space += counts[j++].inside) {
        larger[j] = ns[j] - counts[j].below;
        for (long i = 0; i < counts[j].inside; i++) larger[j] -= space[i] <= found[0];
    }
    return 1;
}

/* What happens to the gradient g of p before SGD takes it: nothing; g + factor (u - p), or
   g + factor (p - u) with the u of p; or it is 0 where p is, which stays 0. */
enum { ALONE, STORED, MAPPED_HARD, MAPPED_SOFT, HELD };

struct rates { float lr, momentum, fresh, decay, nesterov; };

/* Whether all of m gradients are finite, and so far from infinite that no coupling of numbers that
   a network can compute with makes them so. */
long sound(const float *const *gs, const long *ns, long m) {
    const int32_t huge = bits_of(0x1p120f);
    for (long j = 0; j < m; j++) {
        int32_t bad = 0;
        for (long i = 0; i < ns[j]; i++) bad |= (bits_of(gs[j][i]) & 0x7fffffff) >= huge;
        if (bad) return 0;
    }
    return 1;
}

static inline __attribute__((always_inline)) int32_t descend_as(
    int kind, float *restrict g, const float *restrict u, float *restrict p, float *restrict b,
    long n, float t, float factor, struct rates r) {
    int32_t bad = 0;
    for (long begin = 0; begin < n; begin += BLOCK, g += BLOCK, p += BLOCK) {
        long m = n - begin < BLOCK ? n - begin : BLOCK;
        float d[BLOCK], kept[BLOCK];
        for (long i = 0; i < m; i++) {
            float x = g[i];
            if (kind == STORED) x += factor * (u[begin + i] - p[i]);
            if (kind == MAPPED_HARD) x += factor * (p[i] - mapped(HARD, p[i], t));
            if (kind == MAPPED_SOFT) x += factor * (p[i] - mapped(SOFT, p[i], t));
            if (kind == HELD) x = p[i] == 0.0f ? 0.0f : x;
            if (kind != ALONE) g[i] = x;
            bad |= strange(x);
            d[i] = x;
        }
        if (r.decay != 0.0f)
            for (long i = 0; i < m; i++) d[i] += r.decay * p[i];
        if (b) {
            float *c = b + begin;
            /* In a loop of its own, since torch rounds the product. */
            for (long i = 0; i < m; i++) kept[i] = c[i] * r.momentum;
            for (long i = 0; i < m; i++) c[i] = kept[i] + r.fresh * d[i];
            if (r.nesterov != 0.0f)
                for (long i = 0; i < m; i++) d[i] += r.momentum * c[i];
            else
                for (long i = 0; i < m; i++) d[i] = c[i];
        }
        for (long i = 0; i < m; i++) {
            float next = p[i] - r.lr * d[i];
            p[i] = kind == HELD && p[i] == 0.0f ? 0.0f : next;
        }
    }
    return bad;
}

/* A step of torch's SGD on m tensors, with momentum where there are b; `numbers` are t and factor
   of each. The place of the first that a coupling made a gradient infinite of, m for none. */
long descend(const long *kinds, float *const *gs, const float *const *us, float *const *ps,
             float *const *bs, const long *ns, const float *numbers, long m, float lr,
             float momentum, float fresh, float decay, float nesterov) {
    const struct rates r = {lr, momentum, fresh, decay, nesterov};
    long first = m;
    for (long j = 0; j < m; j++) {
        int32_t bad = 0;
#define DESCEND(K) \
    case K: \
        bad = descend_as(K, gs[j], us[j], ps[j], bs[j], ns[j], numbers[2 * j], \
                         numbers[2 * j + 1], r); \
        break;
        switch (kinds[j]) {
            DESCEND(ALONE)
            DESCEND(STORED)
            DESCEND(MAPPED_HARD)
            DESCEND(MAPPED_SOFT)
            DESCEND(HELD)
        }
        if (bad && first == m) first = j;
    }
    return first;
}

/* Where p is zero; and x with zeros there. */
void mark(const float *restrict p, uint8_t *restrict zero, long n) {
    for (long i = 0; i < n; i++) zero[i] = p[i] == 0.0f;
}
void clear(float *restrict x, const uint8_t *restrict zero, long n) {
    for (long i = 0; i < n; i++) x[i] = zero[i] ? 0.0f : x[i];
}
