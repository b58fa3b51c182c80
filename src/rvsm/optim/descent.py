"""A step of torch's SGD in one pass of C, with what a rule does to gradients in the same pass.

To the bit what torch computes, in fewer passes: with momentum SGD alone makes three over the
weights, and coupling one more.
"""

from __future__ import annotations

import ctypes
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


class Move(NamedTuple):
    """What the base steps on for a parameter p, and what its gradient takes first.

    Attributes
    ----------
    w : Tensor
        What the base steps on: p or a stored tensor of its shape.
    kind : int
        Nothing; ``factor (p - w)``; ``factor (w - u)`` with the u of a threshold; or nothing where
        w is 0, which stays so.
    t, factor : float
        Threshold and factor.
    """

    w: Tensor
    kind: int = ALONE
    t: float = 0.0
    factor: float = 0.0

    @staticmethod
    def mapped(w: Tensor, threshold: passes.Threshold, factor: float) -> Move:
        """Return the move of a parameter that holds w."""
        return Move(w, _MAPPED[threshold.kind], threshold.t, factor)


Moves = Mapping[int, Move]
"""By the id of a parameter; the others have none but the base's step."""


def takes(base: Optimizer) -> bool:
    """Say whether a base steps as `Plan` does: torch's SGD, with nobody listening to it."""
    return (
        type(base) is torch.optim.SGD
        and "step" not in vars(base)  # a scheduler counts its calls
        and not (base._optimizer_step_pre_hooks or base._optimizer_step_post_hooks)
        and not (
            torch_optimizer._global_optimizer_pre_hooks
            or torch_optimizer._global_optimizer_post_hooks
        )
        and getattr(base, "grad_scale", None) is None
        and getattr(base, "found_inf", None) is None
        and all(map(_plain_group, base.param_groups))
    )


def _plain_group(group: dict[str, Any]) -> bool:
    numbers = (group["lr"], group["momentum"], group["dampening"], group["weight_decay"])
    return not (
        group["maximize"]
        or group["differentiable"]
        or group["fused"]
        or any(isinstance(number, Tensor) for number in numbers)
    )


class Plan:
    """The step of a base with some moves, good for as long as its tensors stay the same.

    Parameters
    ----------
    base : torch.optim.SGD
        One that `takes` admits.
    moves : Moves
        What happens first.
    key : str
        Of stored tensors in the state of a parameter.

    Raises
    ------
    LookupError
        If C cannot take the step: a tensor is laid out otherwise, or a state is missing, which the
        base's own first step makes.
    """

    def __init__(self, base: Optimizer, moves: Moves, key: str) -> None:
        self._groups = [_Group(base, group, moves, key) for group in base.param_groups]

    def holds(self, base: Optimizer) -> bool:
        """Say whether this is still a plan for the tensors of a base and their gradients."""
        groups = base.param_groups
        return len(groups) == len(self._groups) and all(
            own.holds(base, group) for own, group in zip(self._groups, groups, strict=True)
        )

    def change(self, moves: Moves) -> None:
        """Take other moves on the same tensors."""
        for group in self._groups:
            group.change(moves)

    def step(self) -> bool:
        """Take the step, or change nothing where a gradient is not finite or near that.

        Raises
        ------
        OverflowError
            If a coupling makes a gradient that is not finite, with the parameter. Weights have
            changed by then.
        """
        if not all(group.sound() for group in self._groups):
            return False
        for group in self._groups:
            group.descend()
        return True


class _Row(NamedTuple):
    """A parameter with what a step reads of it, and where that lay."""

    p: Tensor
    state: dict[str, Any]
    w: Tensor
    buffer: Tensor | None
    strides: tuple[int, ...]
    places: tuple[int, int, int]

    @staticmethod
    def of(base: Optimizer, p: Tensor, w: Tensor, *, momentum: bool) -> _Row:
        state = base.state.get(p, {})
        buffer = state["momentum_buffer"] if momentum else None
        if momentum and buffer is None:
            raise LookupError
        tensors = [x for x in (p, p.grad, w, buffer) if x is not None]
        if not passes.covers(*tensors):
            raise LookupError
        places = (p.data_ptr(), w.data_ptr(), 0 if buffer is None else buffer.data_ptr())
        return _Row(p, state, w, buffer, p.stride(), places)

    def holds(self, states: Mapping[Tensor, Any], key: str) -> bool:
        """Say whether all of it is as it was."""
        p, grad, buffer = self.p, self.p.grad, self.buffer
        if grad is None or type(grad) is not Tensor or grad.dtype != torch.float32:
            return False
        if p.stride() != self.strides or not grad.is_cpu:
            return False
        if grad.stride() != self.strides and not passes.alike(grad, p):
            return False
        here = (p.data_ptr(), self.w.data_ptr(), 0 if buffer is None else buffer.data_ptr())
        if here != self.places:
            return False
        state = self.state
        return not state or (
            states.get(p) is state
            and (self.w is p or state.get(key) is self.w)
            and (buffer is None or state.get("momentum_buffer") is buffer)
        )


class _Group:
    """A param_group: its tensors by their addresses."""

    def __init__(self, base: Optimizer, group: dict[str, Any], moves: Moves, key: str) -> None:
        self._group, self._key, self._momentum = group, key, group["momentum"] != 0
        ps = [p for p in group["params"] if p.grad is not None]
        self._idle = [p for p in group["params"] if p.grad is None]
        self._rows = [
            _Row.of(base, p, moves[id(p)].w if id(p) in moves else p, momentum=self._momentum)
            for p in ps
        ]
        self._ps, self._count = ps, len(ps)
        self._places = ctypes.c_void_p * self._count
        self._us, self._ws, self._buffers = (
            self._places(*[row.places[i] or None for row in self._rows]) for i in range(3)
        )
        self._sizes = (ctypes.c_long * self._count)(*[p.numel() for p in ps])
        self._written = [x for row in self._rows for x in (row.w, row.buffer) if x is not None]
        self.change(moves)

    def change(self, moves: Moves) -> None:
        """Take other moves on the same tensors."""
        own = [moves.get(id(row.p)) or Move(row.p) for row in self._rows]
        self._kinds = (ctypes.c_long * self._count)(*[move.kind for move in own])
        numbers = [number for move in own for number in (move.t, move.factor)]
        self._numbers = (ctypes.c_float * len(numbers))(*numbers)

    def holds(self, base: Optimizer, group: dict[str, Any]) -> bool:
        """Say whether the tensors are still these, and lie where they lay."""
        states, key = base.state, self._key
        return (
            group is self._group
            and len(group["params"]) == self._count + len(self._idle)
            and self._momentum == (group["momentum"] != 0)
            and all(p.grad is None for p in self._idle)
            and all(row.holds(states, key) for row in self._rows)
        )

    def sound(self) -> bool:
        """Say whether all gradients are finite, and far from not being it."""
        count = self._count
        self._now = [cast(Tensor, p.grad) for p in self._ps]
        self._grads = self._places(*[grad.data_ptr() for grad in self._now])
        return passes.call("first_strange", self._grads, self._sizes, count) == count

    def descend(self) -> None:
        """Take the step."""
        group = self._group
        first = passes.call(
            "descend", self._kinds, self._grads, self._us, self._ws, self._buffers, self._sizes,
            self._numbers, self._count, float(group["lr"]), float(group["momentum"]),
            1.0 - group["dampening"], float(group["weight_decay"]), float(group["nesterov"]),
        )  # fmt: skip
        increment_version([*self._written, *self._now])
        self._now = []
        if first < self._count:
            raise OverflowError(self._ps[first])
