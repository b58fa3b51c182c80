"""What every optimizer with a sparse result shares: its step, its phases, the result on show."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from rvsm.errors import RuleError
from rvsm.optim.rule import Rule
from rvsm.optim.ruled import Ruled, RuledOptimizer

OWN = "rvsm_"
"""How every key that is not the base's begins in ``state[p]``."""

Writer = Callable[[Tensor], object]
"""Writes the sparse result of a parameter into a tensor, which may be the parameter."""


class SparseOptimizer(RuledOptimizer):
    """A ruled optimizer whose result is sparse, in three phases: warm-up, sparsify, heal.

    A subclass says what happens before and after a step of the base (`_prepare`, `_conclude`),
    which entries must stay zero (`_dead`) and what the sparse result is (`_sparse`).

    Parameters
    ----------
    base, rules, named_parameters
        As in RuledOptimizer.
    warmup : int
        Steps of the bare base optimizer before the rules begin.
    heal_from : int, optional
        After this many steps the sparse result is taken for good, as by ``finalize()``.
    """

    _own = (*RuledOptimizer._own, "warmup", "heal_from")

    def __init__(
        self,
        base: Optimizer,
        rules: Sequence[Rule],
        *,
        warmup: int = 0,
        heal_from: int | None = None,
        named_parameters: Iterable[tuple[str, Tensor]] | None = None,
    ) -> None:
        if warmup < 0:
            raise RuleError(f"warmup must be a number of steps >= 0, not {warmup!r}.")
        if heal_from is not None and heal_from <= warmup:
            raise RuleError(f"heal_from must be a step after warmup={warmup}, not {heal_from!r}.")
        self.warmup, self.heal_from = warmup, heal_from
        self._held: dict[Ruled, Tensor] = {}
        self._inside: list[None] = []
        super().__init__(base, rules, named_parameters)

    def __setstate__(self, state: dict[str, object]) -> None:
        super().__setstate__({**state, "_held": {}, "_inside": []})

    @torch.no_grad()
    def step(  # type: ignore[override]
        self, closure: Callable[[], float] | None = None
    ) -> float | None:
        """Take one step of the base optimizer under the rules.

        Afterwards the gradients of ruled parameters are those the base was given.

        Parameters
        ----------
        closure : callable, optional
            Recomputes the loss and its gradients.

        Returns
        -------
        float or None
            The closure's loss where the base first called it.

        Raises
        ------
        RunError
            If a ruled parameter's gradient is not finite; weights and state are as before.
            Looked at on the CPU only: elsewhere it would wait for the device.
        RuleError
            Inside ``sparse_weights()``, or if a ruled parameter's gradient is a sparse tensor.
        """
        if self._inside:
            raise RuleError("step() inside sparse_weights() would be undone; leave it first.")
        frozen = self.frozen
        dead = list(self._dead())
        losses: list[float] = []

        @torch.no_grad()  # the base evaluates its closure with gradients enabled
        def prepare() -> None:
            self._check_gradients()
            if not frozen:
                self._prepare()
            for p, zero in dead:  # a base that mixes entries must not see what cannot move
                if p.grad is not None:
                    p.grad.masked_fill_(zero, 0)

        def evaluate() -> float:
            with torch.enable_grad():
                loss = cast(Callable[[], float], closure)()
            losses.append(loss)
            prepare()
            return self._searched(loss)

        if closure is None:
            prepare()
            self.base.step()
        else:
            self.base.step(evaluate)
        for p, zero in dead:
            p.masked_fill_(zero, 0)
        self._count_step()
        if not frozen:
            self._conclude()
            if self.heal_from is not None and self.steps >= self.heal_from:
                self.finalize()
        return losses[0] if losses else None

    def _prepare(self) -> None:
        """Change gradients and parameters before the base's step; called once per closure."""

    def _conclude(self) -> None:
        """Do what follows the base's step, which is counted by now."""

    def _searched(self, loss: float) -> float:
        """Return what a base with a line search shall take for the loss."""
        return loss

    def _dead(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield parameters with a mask of the entries that this step must leave zero."""
        if self.frozen:
            for _, p in self._split():
                yield p, p == 0

    def _sparse(self) -> dict[Ruled, Writer]:
        """Return how to write the result of every parameter that does not hold it already."""
        raise NotImplementedError

    def _split(self) -> Iterator[tuple[Ruled, Tensor]]:
        """Yield every parameter with a split penalty."""
        for r in self._ruled:
            if self.rules[r.rule].penalty is not None:
                yield r, self._parameter(r)

    def _share(self, r: Ruled) -> float:
        """Return the share of full strength in force after the steps taken."""
        if self.steps < self.warmup:
            return 0.0
        rule = self.rules[r.rule]
        share = 1.0 if rule.schedule is None else float(rule.schedule(self.steps))
        if not 0 <= share <= 1:
            raise RuleError(
                f"Rule({rule.pattern!r}): the schedule gave {share!r} at step {self.steps}; let "
                "it return a share between 0 and 1."
            )
        return share

    @contextmanager
    def sparse_weights(self) -> Iterator[None]:
        """Hold the sparse result in the parameters, what they held before afterwards.

        Exceptions included; may be nested. Changes nothing where they hold it already.
        """
        if self._inside:
            yield
            return
        self._inside.append(None)
        try:
            with torch.no_grad():
                for r, write in ({} if self.frozen else self._sparse()).items():
                    p = self._parameter(r)
                    self._held[r] = p.clone()
                    write(p)
            yield
        finally:
            with torch.no_grad():
                for r, held in self._held.items():
                    self._parameter(r).copy_(held)
            self._held.clear()
            self._inside.clear()

    @torch.no_grad()
    def finalize(self) -> None:
        """Take the sparse result for good; later steps train the survivors, zeros stay zero.

        Raises
        ------
        RuleError
            Inside ``sparse_weights()``.
        """
        if self._inside:
            raise RuleError("finalize() inside sparse_weights() would be undone; leave it first.")
        if not self.frozen:
            for r, write in self._sparse().items():
                write(self._parameter(r))
        for _, p in self._split():
            for key in [key for key in self.state.get(p, {}) if str(key).startswith(OWN)]:
                del self.state[p][key]
        self._freeze()

    @torch.no_grad()
    def zeros(self) -> dict[str, tuple[int, int]]:
        """Return for every parameter how many entries of its result are zero, and its size."""
        with self.sparse_weights():
            return {
                r.name: (p.numel() - int(torch.count_nonzero(p)), p.numel())
                for r, p in self._split()
            }
