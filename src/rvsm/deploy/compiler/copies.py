"""C source of copies: images side by side or one after the other, maps with borders or without."""

from __future__ import annotations

from rvsm.deploy.compiler.text import at, each, function
from rvsm.deploy.kernels import Plane

HELPERS = """
/* Columns of a block of 8 x 8 floats, `step` apart, from its rows. */
RVSM_INLINE void rvsm_turn8(const float *const *row, ptrdiff_t at, float *out, ptrdiff_t step)
{
#if RVSM_V >= 8
    __m256 a[4], b[4];
    for (int k = 0; k < 2; k++) {
        for (int i = 0; i < 4; i++)
            a[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(row[i] + at + 4 * k)),
                                        _mm_loadu_ps(row[i + 4] + at + 4 * k), 1);
        b[0] = _mm256_unpacklo_ps(a[0], a[1]);
        b[1] = _mm256_unpackhi_ps(a[0], a[1]);
        b[2] = _mm256_unpacklo_ps(a[2], a[3]);
        b[3] = _mm256_unpackhi_ps(a[2], a[3]);
        _mm256_storeu_ps(out + (4 * k) * step, _mm256_shuffle_ps(b[0], b[2], 0x44));
        _mm256_storeu_ps(out + (4 * k + 1) * step, _mm256_shuffle_ps(b[0], b[2], 0xee));
        _mm256_storeu_ps(out + (4 * k + 2) * step, _mm256_shuffle_ps(b[1], b[3], 0x44));
        _mm256_storeu_ps(out + (4 * k + 3) * step, _mm256_shuffle_ps(b[1], b[3], 0xee));
    }
#else
    for (int i = 0; i < 8; i++)
        for (int k = 0; k < 8; k++) out[i * step + k] = row[k][at + i];
#endif
}
"""
"""Turning a block of floats."""


def copy(name: str, source: Plane, target: Plane) -> str:
    """Return a C function that copies a map to where it lies otherwise."""
    statement = f"out[{at(target, 'c', 'y', 'x')}] = in0[{at(source, 'c', 'y', 'x')}];"
    return function(name, 1, each(target, statement))


def side_by_side(name: str, target: Plane) -> str:
    """Return a C function that lays images side by side: lane l of each place is image l.

    It is ``static void name(const float *in, size_t count, float *out)``; where images are fewer
    than lanes the last one fills the rest.
    """
    lanes, size = target.lanes, target.channels * target.height * target.width
    vector = target.height == target.width == 1
    length, step = (size, target.plane) if vector else (target.width, target.column)
    run = "0" if vector else f"(c * {target.height} + y) * {target.width}"
    to = (
        f"{target.origin}"
        if vector
        else f"{target.origin} + c * {target.plane} + y * {target.line}"
    )
    if length >= 8:
        start = f"x < {length - 8} ? x : {length - 8}"
        lines = [
            f"for (int x = 0; x < {length}; x += 8) {{",
            f"    const int at = {start};",
            f"    for (int l = 0; l < {lanes}; l += 8)",
            f"        rvsm_turn8(row + l, {run} + at, out + {to} + at * {step} + l, {step});",
            "}",
        ]
    else:
        lines = [
            f"for (int x = 0; x < {length}; x++)",
            f"    for (int l = 0; l < {lanes}; l++)",
            f"        out[{to} + x * {step} + l] = row[l][{run} + x];",
        ]
    heads = [
        f"for (int c = 0; c < {target.channels}; c++)",
        f"for (int y = 0; y < {target.height}; y++) {{",
    ]
    heads, end = ([], []) if vector else (heads, ["}"])
    body = [
        f"const float *row[{lanes}];",
        f"for (size_t l = 0; l < {lanes}; l++)",
        f"    row[l] = in + (l < count ? l : count - 1) * {size};",
        *heads,
        *lines,
        *end,
    ]
    text = "".join(f"    {line}\n" for line in body)
    arguments = "const float *restrict in, size_t count, float *restrict out"
    return f"static void {name}({arguments})\n{{\n{text}}}\n\n"


def one_by_one(name: str, source: Plane) -> str:
    """Return a C function that lays images that are side by side one after the other.

    It is ``static void name(const float *in, size_t count, float *out)``.
    """
    size = source.channels * source.height * source.width
    place = f"l * {size} + (size_t)((c * {source.height} + y) * {source.width} + x)"
    statement = f"out[{place}] = in[{at(source, 'c', 'y', 'x')}];"
    missing = "".join(
        f"const int {index} = 0; "
        for index, count in (("y", source.height), ("x", source.width))
        if count == 1
    )
    loop = each(source, f"{missing}for (size_t l = 0; l < count; l++) {statement}", inner="l")
    arguments = "const float *restrict in, size_t count, float *restrict out"
    return f"static void {name}({arguments})\n{{\n{loop}}}\n\n"
