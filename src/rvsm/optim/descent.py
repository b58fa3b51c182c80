"""A step of torch's SGD in one pass of C, with what a rule does to gradients in the same pass.

To the bit what torch computes, in fewer passes: with momentum SGD alone makes three over the
weights, and coupling one more.
"""

from __future__ import annotations

import ctypes
import functools
import inspect
import operator
import platform
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.graph import increment_version
from torch.optim import Optimizer
from torch.optim import optimizer as torch_optimizer

from rvsm.optim import passes

ALONE, STORED, MAPPED_HARD, MAPPED_SOFT, HELD = range(5)
"""What happens to a gradient first, as in passes.c."""
_MAPPED = {passes.HARD: MAPPED_HARD, passes.SOFT: MAPPED_SOFT}
_STEP = inspect.unwrap(torch.optim.SGD.step)
_LARGEST_FACTOR = 2.0**59
_LARGEST = float(torch.finfo(torch.float32).max)


class Move(NamedTuple):
    """What the gradient of a parameter p takes before the base steps on w, p or a stored tensor.

    Attributes
    ----------
    kind : int
        Nothing; ``factor (p - w)``; ``factor (w - u)`` with the u of a threshold; or nothing where
        w is 0, which stays so.
    t, factor : float
        Threshold and factor.
    """

    kind: int
    t: float = 0.0
    factor: float = 0.0

    @staticmethod
    def mapped(threshold: passes.Threshold, factor: float) -> Move:
        """Return the move of a parameter that holds w."""
        return Move(_MAPPED[threshold.kind], threshold.t, factor)


Moves = Mapping[int, Move]
"""By the id of a parameter; to the gradients of others nothing happens."""


def takes(base: Optimizer) -> bool:
    """Say whether a base steps as `Plan` does: torch's SGD, with nobody listening to it."""
    return (
        type(base) is torch.optim.SGD
        and "step" not in vars(base)  # a scheduler counts its calls
        and inspect.unwrap(type(base).step) is _STEP
        and not (base._optimizer_step_pre_hooks or base._optimizer_step_post_hooks)
        and not (
            torch_optimizer._global_optimizer_pre_hooks
            or torch_optimizer._global_optimizer_post_hooks
        )
        and getattr(base, "grad_scale", None) is None
        and getattr(base, "found_inf", None) is None
        and all(map(_plain_group, base.param_groups))
        and _rounds_alike()
    )


def _plain_group(group: dict[str, Any]) -> bool:
    numbers = (group["lr"], group["momentum"], group["dampening"], group["weight_decay"])
    return not (
        group["maximize"]
        or group["differentiable"]
        or group["fused"]
        or (group["foreach"] and group["nesterov"])  # which writes into the gradient
        or any(isinstance(number, Tensor) for number in numbers)
    )


@functools.cache
def _rounds_alike() -> bool:
    """Say whether torch adds products in one rounding, as C compiled for this processor does."""
    other = torch.backends.cpu.get_cpu_capability() == "DEFAULT"
    return not (other and platform.machine() in ("x86_64", "AMD64"))


class Plan:
    """The step of a base on tensors that stay the same, whatever happens to gradients first.

    Parameters
    ----------
    base : torch.optim.SGD
        One that `takes` admits.
    stored : mapping of int to Tensor
        What it steps on in place of a parameter, by the id of the parameter.
    key : str
        Of those tensors in the state of a parameter.

    Raises
    ------
    LookupError
        If C cannot take the step: a tensor is laid out otherwise or stands twice, or a state is
        missing, which the base's own first step makes.
    """

    def __init__(self, base: Optimizer, stored: Mapping[int, Tensor], key: str) -> None:
        self._groups = [_Group(base, group, stored, key) for group in base.param_groups]
        rows = [row for group in self._groups for row in group.rows if row.p.numel()]
        places = [place for row in rows for place in {*row.places} if place]
        if len({*places}) < len(places):
            raise LookupError

    def holds(self, base: Optimizer) -> bool:
        """Say whether this is still a plan for the tensors of a base and their gradients."""
        groups = base.param_groups
        return len(groups) == len(self._groups) and all(
            own.holds(base, group) for own, group in zip(self._groups, groups, strict=True)
        )

    def prepare(self, moves: Moves) -> None:
        """Take what happens to gradients first, in this step and those that follow."""
        for group in self._groups:
            group.prepare(moves)

    def step(self) -> bool:
        """Take the step, or change nothing where a gradient is not finite or near that.

        Raises
        ------
        OverflowError
            If a coupling is infinite, with the parameter: the step has been taken. No network
            computes with such weights, and to look at all of them first would cost as much again.
        """
        sound = [group.sound() for group in self._groups]
        grads = [grad for group in self._groups for grad in group.grads if grad.numel()]
        alone = len({grad.data_ptr() for grad in grads}) == len(grads)
        took = alone and all(sound)
        bad = [group.descend() for group in self._groups if took]
        for group in self._groups:
            group.grads = []
        for p in bad:
            if p is not None:
                raise OverflowError(p)
        return took


class _Row(NamedTuple):
    """A parameter with what a step reads of it, and where that lay."""

    p: Tensor
    state: dict[str, Any]
    w: Tensor
    buffer: Tensor | None
    shape: torch.Size
    strides: tuple[int, ...]
    places: tuple[int, int, int]

    @staticmethod
    def of(base: Optimizer, p: Tensor, w: Tensor, *, momentum: bool) -> _Row:
        """Return the row of a parameter that has a gradient."""
        state = base.state.get(p, {})
        buffer = state["momentum_buffer"] if momentum else None
        if momentum and buffer is None:
            raise LookupError
        tensors = [x for x in (p, p.grad, w, buffer) if x is not None]
        if not passes.covers(*tensors) or type(p.grad) is not Tensor:
            raise LookupError
        return _Row(p, state, w, buffer, p.shape, p.stride(), _places(p, w, buffer))

    def holds(self, states: Mapping[Tensor, Any], key: str) -> bool:
        """Say whether all of it is as it was."""
        p, grad, w, buffer, shape = self.p, self.p.grad, self.w, self.buffer, self.shape
        if grad is None or type(grad) is not Tensor or grad.dtype != torch.float32:
            return False
        if not grad.is_cpu or grad.is_neg() or grad.shape != shape or p.shape != shape:
            return False
        if w.shape != shape or (buffer is not None and buffer.shape != shape):
            return False
        if p.stride() != self.strides or _places(p, w, buffer) != self.places:
            return False
        if grad.stride() != self.strides and not passes.alike(grad, p):
            return False
        if w is p and buffer is None:
            return True
        state = states.get(p)
        return (
            state is self.state
            and (w is p or state.get(key) is w)
            and (buffer is None or state.get("momentum_buffer") is buffer)
        )


def _places(p: Tensor, w: Tensor, buffer: Tensor | None) -> tuple[int, int, int]:
    return p.data_ptr(), w.data_ptr(), 0 if buffer is None else buffer.data_ptr()


class _Group:
    """A param_group: its tensors by their addresses."""

    def __init__(
        self, base: Optimizer, group: dict[str, Any], stored: Mapping[int, Tensor], key: str
    ) -> None:
        self._group, self._key, self._momentum = group, key, group["momentum"] != 0
        self._params = list(group["params"])
        self._idle = [p for p in self._params if p.grad is None]
        self.rows = [
            _Row.of(base, p, stored.get(id(p), p), momentum=self._momentum)
            for p in self._params
            if p.grad is not None
        ]
        self.grads: list[Tensor] = []
        self._count = len(self.rows)
        self._pointers = ctypes.c_void_p * self._count
        self._us, self._ws, self._buffers = (
            self._pointers(*[row.places[i] or None for row in self.rows]) for i in range(3)
        )
        self._sizes = (ctypes.c_long * self._count)(*[row.p.numel() for row in self.rows])
        self._stepped = [x for row in self.rows for x in (row.w, row.buffer) if x is not None]
        self.prepare({})

    def prepare(self, moves: Moves) -> None:
        """Take what happens to gradients first."""
        own = [moves.get(id(row.p)) or Move(ALONE) for row in self.rows]
        self._kinds = (ctypes.c_long * self._count)(*[move.kind for move in own])
        numbers = [number for move in own for number in (move.t, move.factor)]
        self._numbers = (ctypes.c_float * len(numbers))(*numbers)
        self._changes = [move.kind != ALONE for move in own]
        self._small = all(abs(move.factor) < _LARGEST_FACTOR for move in own)

    def holds(self, base: Optimizer, group: dict[str, Any]) -> bool:
        """Say whether the tensors are still these, and lie where they lay."""
        states, key, params = base.state, self._key, group["params"]
        return (
            group is self._group
            and len(params) == len(self._params)
            and all(map(operator.is_, params, self._params))
            and self._momentum == (group["momentum"] != 0)
            and all(p.grad is None for p in self._idle)
            and all(row.holds(states, key) for row in self.rows)
        )

    def sound(self) -> bool:
        """Say whether all numbers are finite, and far from not being it."""
        group, count = self._group, self._count
        self.grads = [cast(Tensor, row.p.grad) for row in self.rows]
        self._rates = [
            float(group["lr"]), float(group["momentum"]), float(1 - group["dampening"]),
            float(group["weight_decay"]), float(group["nesterov"]),
        ]  # fmt: skip
        self._grads = self._pointers(*[grad.data_ptr() for grad in self.grads])
        return (
            self._small
            and all(abs(rate) <= _LARGEST for rate in self._rates)
            and passes.call("sound", self._grads, self._sizes, count) == 1
        )

    def descend(self) -> Tensor | None:
        """Take the step; return the first parameter whose coupling was infinite."""
        first = passes.call(
            "descend", self._kinds, self._grads, self._us, self._ws, self._buffers, self._sizes,
            self._numbers, self._count, *self._rates,
        )  # fmt: skip
        changed = [g for g, changes in zip(self.grads, self._changes, strict=True) if changes]
        increment_version([*self._stepped, *changed])
        return self.rows[first].p if first < self._count else None
