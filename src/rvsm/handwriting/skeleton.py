"""From the ink of a glyph or word to the paths a pen would take: skeleton, traced and merged."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Pixel = tuple[int, int]

_NEIGHBOURS = [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]
_STRAIGHT_ON_RAD = 0.9


def pen_paths(ink: NDArray[np.bool_], min_spur: float) -> list[Array]:
    """Trace the skeleton of a binary image into pen paths.

    Edges of the skeleton graph that meet at a junction are joined where they go straight on;
    free-ended spurs shorter than `min_spur` pixels, which thinning leaves at corners, are cut.

    Parameters
    ----------
    ink : (height, width) true where there is ink.
    min_spur : pixels.

    Returns
    -------
    List of (n, 2) arrays of (x, y) pixel positions, ordered from left to right by where the
    path begins, each path starting at its left end, or at its low row if it is upright.
    """
    from skimage.morphology import skeletonize

    thin = skeletonize(ink)  # type: ignore[no-untyped-call]
    pixels = {(int(r), int(c)) for r, c in zip(*np.nonzero(thin), strict=True)}
    edges = _prune(_edges(pixels), min_spur)
    paths = [_oriented(_smoothed(np.array(path, dtype=float)[:, ::-1])) for path in _merged(edges)]
    return sorted(paths, key=lambda p: (p[:, 0].min(), p[0, 1]))


def _adjacent(pixel: Pixel, pixels: set[Pixel]) -> list[Pixel]:
    """Neighbours in 8-connectivity, leaving out diagonals that a 4-neighbour already links."""
    r, c = pixel
    found = [(r + dr, c + dc) for dr, dc in _NEIGHBOURS if (r + dr, c + dc) in pixels]
    return [
        (a, b)
        for a, b in found
        if a == r or b == c or ((a, c) not in pixels and (r, b) not in pixels)
    ]


def _edges(pixels: set[Pixel]) -> list[list[Pixel]]:
    near = {p: _adjacent(p, pixels) for p in pixels}
    nodes = sorted(p for p in pixels if len(near[p]) != 2)
    seen: set[tuple[Pixel, Pixel]] = set()
    edges = [
        _walk(node, step, near, seen)
        for node in nodes
        for step in near[node]
        if (node, step) not in seen
    ]
    edges += [[node, node] for node in nodes if not near[node]]
    on_edges = {p for edge in edges for p in edge}
    for start in sorted(pixels - on_edges):
        if start not in on_edges:
            loop = _walk(start, near[start][0], near, seen)
            edges.append(loop)
            on_edges.update(loop)
    return edges


def _walk(
    start: Pixel,
    step: Pixel,
    near: dict[Pixel, list[Pixel]],
    seen: set[tuple[Pixel, Pixel]],
) -> list[Pixel]:
    path = [start, step]
    while len(near[path[-1]]) == 2 and path[-1] != start:
        a, b = near[path[-1]]
        path.append(b if a == path[-2] else a)
    seen.add((path[0], path[1]))
    seen.add((path[-1], path[-2]))
    return path


def _prune(edges: list[list[Pixel]], min_spur: float) -> list[list[Pixel]]:
    ends: dict[Pixel, int] = defaultdict(int)
    for edge in edges:
        ends[edge[0]] += 1
        ends[edge[-1]] += 1

    def is_spur(edge: list[Pixel]) -> bool:
        free = (ends[edge[0]] == 1) != (ends[edge[-1]] == 1)
        return free and len(edge) < min_spur

    return [edge for edge in edges if not is_spur(edge)]


def _merged(edges: list[list[Pixel]]) -> list[list[Pixel]]:
    """Join edges at junctions where they go straight on, best continuation first."""
    at: dict[Pixel, list[tuple[int, int]]] = defaultdict(list)
    for i, edge in enumerate(edges):
        at[edge[0]].append((i, 0))
        at[edge[-1]].append((i, -1))
    joins = []
    for node, meeting in at.items():
        for m, (i, side_i) in enumerate(meeting):
            for j, side_j in meeting[m + 1 :]:
                if i != j:
                    bend = _bend(edges[i], side_i, edges[j], side_j)
                    if bend < _STRAIGHT_ON_RAD or len(meeting) == 2:
                        joins.append((bend, node, i, side_i, j, side_j))
    partner: dict[tuple[int, int], tuple[int, int]] = {}
    for _, _, i, side_i, j, side_j in sorted(joins):
        if (i, side_i) not in partner and (j, side_j) not in partner:
            partner[i, side_i] = (j, side_j)
            partner[j, side_j] = (i, side_i)
    return _chains(edges, partner)


def _chains(
    edges: list[list[Pixel]], partner: dict[tuple[int, int], tuple[int, int]]
) -> list[list[Pixel]]:
    used: set[int] = set()
    chains = []
    starts = [(i, side) for i in range(len(edges)) for side in (0, -1) if (i, side) not in partner]
    for i, side in starts + [(i, 0) for i in range(len(edges))]:
        if i in used:
            continue
        chain: list[Pixel] = []
        at: tuple[int, int] | None = (i, side)
        while at is not None and at[0] not in used:
            used.add(at[0])
            edge = edges[at[0]] if at[1] == 0 else edges[at[0]][::-1]
            chain += edge if not chain else edge[1:]
            at = partner.get((at[0], -1 if at[1] == 0 else 0))
        chains.append(chain)
    return chains


def _bend(a: list[Pixel], side_a: int, b: list[Pixel], side_b: int) -> float:
    """Angle between leaving the node along b and having arrived along a, in radians."""

    def outward(edge: list[Pixel], side: int) -> Array:
        path = edge if side == 0 else edge[::-1]
        far = path[min(6, len(path) - 1)]
        return np.array([far[0] - path[0][0], far[1] - path[0][1]], dtype=float)

    u, v = -outward(a, side_a), outward(b, side_b)
    size = float(np.hypot(*u) * np.hypot(*v))
    return float(np.arccos(np.clip(u @ v / size, -1, 1))) if size > 0 else np.pi


def _smoothed(path: Array) -> Array:
    """Average over five points, ends kept: takes the staircase out of pixel paths."""
    if len(path) < 5:
        return path
    padded = np.concatenate([path[:1], path[:1], path, path[-1:], path[-1:]])
    out = np.zeros_like(path)
    for k in range(5):
        out += padded[k : k + len(path)]
    out /= 5.0
    out[0], out[-1] = path[0], path[-1]
    return out


def _oriented(path: Array) -> Array:
    first, last = path[0], path[-1]
    upright = abs(first[0] - last[0]) < 0.5 * abs(first[1] - last[1])
    backwards = first[1] > last[1] if upright else first[0] > last[0]
    return path[::-1] if backwards else path
