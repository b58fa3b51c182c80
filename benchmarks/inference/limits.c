/* Billions of multiply-adds a second of this machine: in registers, and with one operand from
   aligned and misaligned memory of the nearest cache and the next. Needs the kernels' prelude. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define JOIN2(a, b) a##b
#define JOIN(a, b) JOIN2(a, b)
#define VEC JOIN(rvsm_v, RVSM_V)
#define LOAD JOIN(rvsm_load, RVSM_V)
#define STORE JOIN(rvsm_store, RVSM_V)
#define SET JOIN(rvsm_set, RVSM_V)
#define ADD JOIN(rvsm_add, RVSM_V)
#define FMA JOIN(rvsm_fma, RVSM_V)
#define SUMS 8

static volatile float sink;

static double seconds(void) { return (double)clock() / CLOCKS_PER_SEC; }

static void keep(VEC *sums)
{
    float t[RVSM_V];
    for (int k = 1; k < SUMS; k++) sums[0] = ADD(sums[0], sums[k]);
    STORE(t, sums[0]);
    sink = t[0];
}

static double loads(const float *data, long floats, long times)
{
    VEC sums[SUMS];
    const VEC w = SET(0.5f);
    for (int k = 0; k < SUMS; k++) sums[k] = SET((float)k);
    const double start = seconds();
    for (long t = 0; t < times; t++)
        for (const float *p = data; p < data + floats; p += SUMS * RVSM_V)
            for (int k = 0; k < SUMS; k++) sums[k] = FMA(w, LOAD(p + k * RVSM_V), sums[k]);
    const double took = seconds() - start;
    keep(sums);
    return (double)floats * (double)times / took / 1e9;
}

static double registers(long times)
{
    VEC sums[SUMS];
    VEC w = SET(0.5f), x = SET(1.0f);
    for (int k = 0; k < SUMS; k++) sums[k] = SET((float)k);
    const double start = seconds();
    for (long t = 0; t < times; t++) {
        for (int k = 0; k < SUMS; k++) sums[k] = FMA(w, x, sums[k]);
        __asm__ volatile("" ::: "memory");
    }
    const double took = seconds() - start;
    keep(sums);
    return (double)SUMS * RVSM_V * (double)times / took / 1e9;
}

int main(void)
{
    const long near = 4096, far = 131072;
    float *data = aligned_alloc(64, (size_t)(far + 64) * sizeof(float));
    for (long i = 0; i < far + 64; i++) data[i] = 1.0f;
    double best[5] = {0};
    for (int round = 0; round < 20; round++) {
        const double found[5] = {registers(4000000), loads(data, near, 8000), loads(data + 3, near, 8000),
                                 loads(data, far, 200), loads(data + 3, far, 200)};
        for (int k = 0; k < 5; k++) best[k] = found[k] > best[k] ? found[k] : best[k];
    }
    printf("{\"registers\": %.1f, \"l1_aligned\": %.1f, \"l1_misaligned\": %.1f, "
           "\"l2_aligned\": %.1f, \"l2_misaligned\": %.1f}\n",
           best[0], best[1], best[2], best[3], best[4]);
    free(data);
    return 0;
}
