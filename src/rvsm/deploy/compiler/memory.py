"""Where every value lies: all of a network's memory is planned before it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rvsm.deploy.compiler import steps
from rvsm.deploy.compiler.steps import Shape, Step
from rvsm.deploy.kernels import Plane

FLOATS_APART = 16
"""Buffers start at multiples of this many floats (64 bytes), and may be read as far beyond."""


@dataclass(frozen=True)
class Place:
    """Where a value starts, in floats from the start of the workspace, and how it lies there."""

    start: int
    plane: Plane


@dataclass(frozen=True)
class Memory:
    """Where values lie, and the floats all of them take together."""

    places: Mapping[str, Place]
    floats: int


def planes_of(shapes: Mapping[str, Shape], todo: Sequence[Step], lanes: int) -> dict[str, Plane]:
    """Return how each value lies: maps with the borders of zeros their convolutions read.

    A sum that a convolution adds on lies as its result does. Of several images the channels of a
    place lie together, so that a block of outputs reads few pages; what is only flattened lies as
    the vector does.
    """
    flat = _only_flattened(todo)
    planes = {
        name: Plane(
            *shape, order="channels" if lanes == 1 or name in flat else "places", lanes=lanes
        )
        if len(shape) == 3
        else Plane(shape[0], 1, 1, lanes=lanes)
        for name, shape in shapes.items()
    }
    for step in todo:
        if isinstance(step, steps.Conv):
            name = step.inputs[0]
            planes[name] = _bordered(planes[name], step.padding)
    changed = True
    while changed:
        changed = False
        for step in todo:
            if not isinstance(step, steps.Conv) or len(step.inputs) < 2:
                continue
            pair = (step.inputs[1], step.output)
            borders = [_border(planes[name]) for name in pair]
            widest = tuple(max(sizes) for sizes in zip(*borders, strict=True))
            for name, border in zip(pair, borders, strict=True):
                if border != widest:
                    planes[name] = _bordered(planes[name], widest)
                    changed = True
    return planes


def _only_flattened(todo: Sequence[Step]) -> set[str]:
    """Return the values that nothing but flattening reads, and no sum goes into."""
    flattened = {name for step in todo if isinstance(step, steps.Flatten) for name in step.inputs}
    for step in todo:
        if not isinstance(step, steps.Flatten):
            flattened -= set(step.inputs)
        if len(step.inputs) > 1:
            flattened.discard(step.output)
    return flattened


def _border(plane: Plane) -> tuple[int, ...]:
    return plane.top, plane.bottom, plane.left, plane.right


def _bordered(plane: Plane, border: Sequence[int]) -> Plane:
    sides = [max(pair) for pair in zip(_border(plane), border, strict=True)]
    top, bottom, left, right = sides
    return replace(plane, top=top, bottom=bottom, left=left, right=right, pitch=0)


def plan(given: str, todo: Sequence[Step], kept: str, planes: Mapping[str, Plane]) -> Memory:
    """Give each value a place; places of values nobody reads any more are used again.

    Parameters
    ----------
    given
        The value that is there before the first step.
    todo
        Steps in order.
    kept
        The value that is read after the last step.
    planes
        How each value lies.

    Notes
    -----
    Borders stay zero without being written again: a place with a border is only ever used by
    maps that lie alike. A vector takes the place of a map that lies as it does.
    """
    last = {name: place for place, step in enumerate(todo) for name in step.inputs}
    last[kept] = len(todo)
    free: list[tuple[int, Plane, int]] = []
    places: dict[str, Place] = {}
    rooms: dict[str, int] = {}
    end = 0

    def settle(name: str) -> None:
        nonlocal end
        plane = planes[name]
        room = _room(plane)
        fits = [
            entry
            for entry in free
            if entry[1] == plane
            or (not any(_border(plane) + _border(entry[1])) and entry[2] >= room)
        ]
        if fits:
            entry = min(fits, key=lambda entry: entry[2])
            free.remove(entry)
            start, rooms[name] = entry[0], entry[2]
        else:
            start, rooms[name] = end, room
            end += room
        places[name] = Place(start, plane)

    settle(given)
    for place, step in enumerate(todo):
        source = step.inputs[0]
        if isinstance(step, steps.Flatten) and last[source] == place and is_flat(planes[source]):
            places[step.output] = Place(places[source].start, planes[step.output])
            rooms[step.output] = rooms[source]
            continue
        settle(step.output)
        for name in {*step.inputs, step.output}:
            if last.get(name, place) == place and name in places:
                free.append((places[name].start, places[name].plane, rooms[name]))
    return Memory(places, end)


def is_flat(plane: Plane) -> bool:
    """Say whether a map lies as a vector of its elements does."""
    return plane.order == "channels" and not any(_border(plane)) and plane.pitch == plane.width


def _room(plane: Plane) -> int:
    return -(-plane.size // FLOATS_APART) * FLOATS_APART + FLOATS_APART
