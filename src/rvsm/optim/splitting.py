"""The relaxed variable splitting method as a torch optimizer around any other."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rvsm.errors import RuleError
from rvsm.groups import Elements
from rvsm.optim import distributed, passes
from rvsm.optim.budget import Budget, check_choice
from rvsm.optim.compiled import Mapper
from rvsm.optim.descent import STORED, Move, Moves
from rvsm.optim.level import Level, distance_squared, pieces
from rvsm.optim.rule import Rule
from rvsm.optim.ruled import NUMBERS
from rvsm.optim.schedules import Continuation
from rvsm.optim.sparse import SparseOptimizer, Writer
from rvsm.optim.strength import check_subgradient, critical
from rvsm.optim.units import Ruled, Unit


class RVSM(SparseOptimizer):
    r"""Relaxed variable splitting around a base optimizer: exact zeros while training.

    Minimises ``L(w, u) = f(w) + sum_rules lam P(u) + (beta/2) |w - u|^2``. Each step adds the
    coupling ``beta (w - u)`` to the gradient of f, with ``u = prox_{lam/beta P}(w)`` of the
    current w, and lets the base optimizer step. The result is u, never w: evaluate inside
    ``sparse_weights()`` and end with ``finalize()``.

    Between steps the parameters hold w with ``grad_at="w"`` (u is computed when needed, nothing is
    stored), and u with ``grad_at="u"`` (w is one stored tensor per ruled parameter in
    ``state[p]["rvsm_w"]``, from the first step that is not warm-up). After ``finalize()`` or
    `heal_from` they hold u = w, whose zeros are the support that later steps keep.

    Parameters
    ----------
    base : torch.optim.Optimizer
        Does the descent. Its `state`, `param_groups` and `defaults` are shared, so schedulers,
        gradient scalers and checkpoints see one optimizer.
    rules : sequence of Rule
        What is penalised; where several match a parameter, the last one holds.
    grad_at : {"w", "u"}
        Where the gradient of f is taken: at w (the paper) or at the sparse u.
    coupling : {"gradient", "decoupled"}
        Add ``beta (w - u)`` to the gradient, or take ``lr beta (w - u)`` from the weights beside
        the base's step, as AdamW does with weight decay. The same thing under plain SGD.
    warmup : int
        Steps of the bare base optimizer before the rules begin (u = w until then).
    heal_from : int, optional
        After this many steps w becomes u for good and the base trains the survivors alone, as
        if ``finalize()`` had been called.
    budget : {"rule", "global", "parameter"} or Budget
        Who meets a ``sparsity=`` together: the parameters of a rule, those of all rules
        (``round(sum of s n)`` zeros), or each by itself; zeros go where the magnitudes are
        smallest, and every parameter keeps one. A `Budget` also compares layers by scale, fixes
        their shares or sets another floor.
    model : nn.Module, optional
        For ``recalibrate=``, and for names where the base has none. It is no part of the
        optimizer's state, copies or pickles: set ``optimizer.model`` again after those.
    named_parameters : iterable of (str, Tensor), optional
        Names for a base that was not built from ``model.named_parameters()``.

    Raises
    ------
    RuleError
        If an option is out of range, a rule matches nothing or the base cannot be used.

    Notes
    -----
    The strengths (`lam`, `sparsity`, `beta`, `lam2`) and the step count are plain numbers in
    ``param_groups[i]["rvsm"]``, saved and loaded with the rest and free to be changed.

    References
    ----------
    Dinh and Xin, arXiv 1812.05719; Xue and Xin, arXiv 1902.07419.

    Examples
    --------
    >>> model = torch.nn.Linear(8, 2)
    >>> base = torch.optim.SGD(model.named_parameters(), lr=0.05, momentum=0.9)
    >>> optimizer = RVSM(base, [Rule("weight", L0(), lam=1e-4, beta=0.1)])
    """

    _own = (*SparseOptimizer._own, "grad_at", "coupling")
    _ties = True
    _mode = ("grad_at", "coupling")

    def __init__(
        self,
        base: Optimizer,
        rules: Sequence[Rule],
        *,
        grad_at: Literal["w", "u"] = "w",
        coupling: Literal["gradient", "decoupled"] = "gradient",
        warmup: int = 0,
        heal_from: int | None = None,
        budget: Literal["rule", "global", "parameter"] | Budget = "rule",
        model: nn.Module | None = None,
        named_parameters: Iterable[tuple[str, Tensor]] | None = None,
    ) -> None:
        check_choice("grad_at", grad_at, ("w", "u"))
        check_choice("coupling", coupling, ("gradient", "decoupled"))
        if isinstance(base, torch.optim.LBFGS) and (grad_at, coupling) != ("w", "gradient"):
            raise RuleError('LBFGS works with grad_at="w" and coupling="gradient" only.')
        groups = base.param_groups if isinstance(base, Optimizer) else []
        if coupling == "decoupled" and not all("lr" in group for group in groups):
            raise RuleError('coupling="decoupled" needs a base optimizer with a rate lr.')
        self.grad_at, self.coupling, self._map = grad_at, coupling, Mapper()
        self._borrows: set[Ruled] = set()
        self._lent: dict[Ruled, Tensor] = {}
        self._met: list[Any] = []
        self._ready: dict[Ruled, Level] | None = None
        super().__init__(
            base,
            rules,
            warmup=warmup,
            heal_from=heal_from,
            budget=budget,
            model=model,
            named_parameters=named_parameters,
        )

    def __setstate__(self, state: dict[str, object]) -> None:
        super().__setstate__(
            {**state, "_map": Mapper(), "_lent": {}, "_borrows": set(), "_met": [], "_ready": None}
        )

    def compile(self, **options: Any) -> None:
        """Compile what a step does beside the base's: one kernel for each kind of rule.

        Strengths and rates reach it as tensors, so schedules do not make it compile again. Sharded
        parameters stay uncompiled, and so do copies until they ask for it. The base's own step is
        compiled apart, and ``torch.compile(optimizer.step)`` compiles nothing.

        Parameters
        ----------
        **options
            For `torch.compile`.
        """
        self._map.compile(**options)

    def _make_state(self) -> None:
        self.base.step()
        if self.grad_at == "u":
            for _, p in self._split():
                self.state[p][self._hidden] = p.clone()

    def _check_gradients(self) -> None:
        self._borrows = {r for r in self._ruled if self._may_lend(r)}
        super()._check_gradients()

    def _summed(self, r: Ruled) -> bool:
        """Whether a gradient is found finite while the coupling is added to it.

        Only where nothing but gradients has changed by then, or what has can be taken back.
        """
        return r in self._borrows or (
            self.grad_at == "w" and self.coupling == "gradient" and not self.frozen
        )

    def _may_lend(self, r: Ruled) -> bool:
        """Whether the base can step on the memory of the stored w, which the parameter is lent.

        Then nothing has to be copied to and fro. Not under a closure, which would compute its loss
        at w, nor for bases that may have references to the memory they were built with.
        """
        lends = self.grad_at == "u" and self.coupling == "gradient"
        own = type(self.base).__module__.startswith("torch.optim")
        if not (lends and own) or self._closed or self.frozen:
            return False
        p, w = self._parameter(r), self._kept(r, self._hidden)
        return p.grad is not None and w is not None and passes.covers(p.grad, p, w)

    def _stored(self) -> dict[int, Tensor] | None:
        if self.frozen:
            return super()._stored()
        split = list(self._split())
        if (
            self.coupling != "gradient"
            or any(rule.subgradient for rule in self.rules)
            or any(p.grad is None for _, p in split)
        ):
            return None
        if self.grad_at == "w":
            rules = [self.rules[r.rule] for r, _ in split]
            return {} if all(map(_maps_in_c, rules)) else None
        kept = {id(p): self._kept(r, self._hidden) for r, p in split}
        found = {place: w for place, w in kept.items() if w is not None}
        return found if len(found) == len(kept) else None

    def _moves(self) -> Moves | None:
        """Return the coupling of every parameter; None where it needs a mask."""
        if self.frozen:
            return super()._moves()
        if self.grad_at == "u":
            self._check_strengths()
            return {id(p): Move(STORED, factor=-self._factor(r)) for r, p in self._split()}
        self._ready = self._current()
        moves: dict[int, Move] = {}
        for r, level in self._ready.items():
            p = self._parameter(r)
            threshold = level.threshold_in_c(p, p, adds=False)
            if threshold is None:
                return None
            moves[id(p)] = Move.mapped(threshold, self._factor(r))
        return moves

    def _steady(self) -> bool:
        if self.frozen:
            return super()._steady()
        grows = any(isinstance(rule.beta, Continuation) for rule in self.rules)
        return self.grad_at == "u" and not grows and self._strengths() == self._met

    def _strengths(self) -> list[Any]:
        """Return a copy of every strength, with what else a coupling depends on."""
        groups = [group[NUMBERS] for group in self.param_groups]
        numbers = [(own["step"], {k: dict(v) for k, v in own["rules"].items()}) for own in groups]
        return [self.rules, self.budget, self.coupling, *numbers]

    def _arrive(self) -> None:
        """Let the parameters hold the u of the stored w."""
        self._ready = None
        if self.grad_at == "u":
            self._show(self._current(), {r: self._w(r) for r, _ in self._split()})
            self._met = self._strengths()

    def _show(self, levels: Mapping[Ruled, Level], stored: Mapping[Ruled, Tensor]) -> None:
        """Let parameters hold the u of these w."""
        together: list[tuple[Tensor, Tensor, passes.Threshold]] = []
        for r, w in stored.items():
            p, level = self._parameter(r), levels.get(r)
            map_ = None if level is None else level.threshold_in_c(p, w, adds=False)
            if map_ is not None:
                together.append((p, w, map_))
            elif level is not None:
                self._map(level, p, w, None)
            else:
                p.copy_(w)
        if together:
            passes.show_all(together)

    def _prepare(self) -> None:
        """Add the subgradients and ``beta (w - u)``, and let the parameters hold w."""
        # First: what it refuses must find everything as it was.
        levels: dict[Ruled, Level] = {}
        if not self._all_shown():
            levels = self._current() if self._ready is None else self._ready
        if self.grad_at == "u":
            for r in [r for r in levels if self._shown(r)]:
                del levels[r]  # their coupling comes from the u they show
            self._hide_u()
        totals: dict[Ruled, float | None] = {}
        for unit in self._units:
            self._add_subgradient(unit)
            for r in unit.members:
                # Without a level u = w: not a single operation, so the base's step bit for bit.
                if r in levels and self._parameter(r).grad is not None:
                    totals[r] = self._add_coupling(r, levels[r])
        for r in self._ruled:
            if self._summed(r) and r not in self._borrows:
                self._check_finite(r, totals.get(r))

    def _add_subgradient(self, unit: Unit) -> None:
        """Add lam2 times the second penalty's subgradient to the gradients of a unit."""
        rule = self.rules[unit.lead.rule]
        lam2 = self._lam2(unit)
        if rule.subgradient is None or lam2 == 0:
            return
        ps = [self._parameter(r) for r in unit.members]
        slopes = unit.subgradient(rule.subgradient[0], ps)
        for r, p, slope in zip(unit.members, ps, slopes, strict=True):
            if p.grad is not None:
                p.grad.add_(slope, alpha=self._sign(r) * lam2)

    def _all_shown(self) -> bool:
        """Say whether every parameter shows its u, so that none has to be computed for a step.

        Raises
        ------
        RuleError
            If the strengths in force cannot be met.
        """
        if self.grad_at == "w" or not all(self._shown(r) for r, _ in self._split()):
            return False
        self._check_strengths()
        return True

    def _factor(self, r: Ruled) -> float:
        """Return what ``w - u`` is multiplied by before the gradient or the weights take it."""
        if self.coupling == "decoupled":
            return -float(self.param_groups[r.group]["lr"]) * self._beta(r)
        return self._sign(r) * self._beta(r)

    def _add_coupling(self, r: Ruled, level: Level) -> float | None:
        """Add ``beta (w - u)`` where the parameter holds w.

        Returns the sum of the gradient with it, where that comes at no cost.
        """
        p, factor = self._parameter(r), self._factor(r)
        target = p if self.coupling == "decoupled" else cast(Tensor, p.grad)
        summed = self._summed(r) and p.device.type == "cpu" and not distributed.is_sharded(p)
        total = self._map(level, target, p, factor, summed=summed)
        return total if summed else None

    def _lam2(self, unit: Unit) -> float:
        """Return the strength of the second penalty in force after the steps taken."""
        return self._numbers(unit.lead).get("lam2", 0.0) * self._share(unit.lead)

    def _hide_u(self) -> None:
        """Let the parameters hold the stored w again, and add the coupling to the u they held."""
        kept = [(r, p, self._kept(r, self._hidden)) for r, p in self._split()]
        hidden = [(r, p, w) for r, p, w in kept if w is not None]
        for r, p, w in hidden:  # first: what they are lent can be taken back
            if r in self._borrows:
                finite = passes.push(cast(Tensor, p.grad), p, w, -self._factor(r))
                self._check_finite(r, 0.0 if finite else math.nan)
                self._lent[r] = p.data
                p.data = w
        for r, p, w in hidden:
            if r in self._borrows:
                continue
            factor = -self._factor(r)
            if p.grad is None:
                p.copy_(w)
            elif self.coupling == "decoupled":
                p.sub_(w).mul_(factor).add_(w)
            else:  # in memory that is there, since fresh one would cost page faults, and in pieces
                for grad, u, piece in pieces(p.grad, p, w):
                    grad.add_(u.sub_(piece), alpha=factor)
                    u.copy_(piece)

    def _take_back(self) -> None:
        """Let the parameters hold their own memory again."""
        for r, own in self._lent.items():
            self._parameter(r).data = own
        self._lent.clear()
        self._ready = None

    def _conclude(self) -> None:
        """Store w, which the parameters hold after the base's step, and let them hold u."""
        if self.grad_at == "w":
            return
        levels = self._levels(dict(self._split()))
        stored = self._veil(levels)
        self._take_back()
        self._show(levels, stored)

    def _searched(self, loss: float) -> float:
        # A line search must see the function whose gradient it is given.
        searches = isinstance(self.base, torch.optim.LBFGS)
        return float(self.lagrangian(loss)) if searches else loss

    def _w(self, r: Ruled) -> Tensor:
        """Return the tensor that holds w of a parameter; the parameter itself where it does."""
        if r in self._held:
            return self._held[r]
        stored = None if self.grad_at == "w" else self._kept(r, self._hidden)
        return self._parameter(r) if stored is None else stored

    def _ws(self, unit: Unit) -> list[Tensor]:
        return [self._w(r) for r in unit.members]

    def _mu(self, r: Ruled, lam: float) -> float:
        return lam / self._beta(r)

    def _current(self) -> dict[Ruled, Level]:
        """Return the level of every parameter whose u is not simply its w."""
        return self._levels({r: self._w(r) for r, _ in self._split()})

    def _sparse(self) -> dict[Ruled, Writer]:
        return {r: partial(level.show, w=self._w(r)) for r, level in self._current().items()}

    def _shown(self, r: Ruled) -> bool:
        return self._w(r) is not self._parameter(r)

    def _check_units(self, units: Sequence[Unit]) -> None:
        super()._check_units(units)
        for unit in units:
            if self.rules[unit.lead.rule].subgradient is not None:
                check_subgradient(self.rules[unit.lead.rule], unit)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state_dict saved under the same rules, or one of the bare base optimizer.

        The strengths of the state_dict hold from now on, not those of the rules. The model may be
        loaded before or after: nothing is computed from its weights here.

        Raises
        ------
        RuleError
            If it was saved under other patterns, penalties, groups or modes, or inside
            ``sparse_weights()``; nothing is loaded then.
        """
        super().load_state_dict(state_dict)
        if self.frozen or self.steps < self.warmup:
            # Left from the look at a fresh optimizer's state: in these phases w is in the model.
            for _, p in self._split():
                self.state.get(p, {}).pop(self._hidden, None)

    @torch.no_grad()
    def gap(self) -> Tensor:
        """Return ``|w - u|``, the Euclidean distance over all split parameters, as a 0-d tensor."""
        levels = self._current()
        squares = [
            distributed.whole(distance_squared(self._w(r), level.u(self._w(r))))
            for r, level in levels.items()
        ]
        return torch.stack(squares).sum().sqrt() if squares else torch.zeros(())

    @torch.no_grad()
    def critical(self) -> dict[str, float]:
        """Return for every split parameter the lam at which its u would be all zero now.

        ``beta critical_mu``; inf where groups or penalty never let all be zero. Under a schedule
        lam times its share must reach it. Waits for the device.
        """
        found = {}
        for unit in self._units:
            penalty = self.rules[unit.lead.rule].penalty
            if penalty is not None:
                lam = critical(unit, penalty, self._ws(unit), self._beta(unit.lead))
                found.update({r.name: lam for r in unit.members})
        return found

    @torch.no_grad()
    def lagrangian(self, loss: Tensor | float | None = None) -> Tensor:
        """Return the relaxed Lagrangian at the current weights as a 0-d tensor, detached.

        ``loss + sum lam P(u) + sum (beta/2) |w - u|^2 + sum lam2 P2(w)``, with the strengths in
        force now; under an exact target lam is what it implies. Once the support is frozen it
        is the loss alone.

        Parameters
        ----------
        loss : Tensor or float, optional
            f at the current weights (at u with ``grad_at="u"``); 0 where it is left out.
        """
        total = torch.as_tensor(0.0 if loss is None else loss).detach().clone()
        if self.frozen:
            return total
        levels = self._current()
        for unit in self._units:
            rule = self.rules[unit.lead.rule]
            ws = [distributed.whole(w) for w in self._ws(unit)]
            if rule.subgradient is not None:
                total = total + self._lam2(unit) * unit.value(rule.subgradient[0], ws)
            if unit.lead in levels:
                us = [distributed.whole(levels[r].u(self._w(r))) for r in unit.members]
                level, beta = levels[unit.lead], self._beta(unit.lead)
                total = total + level.mu * beta * unit.value(level.penalty, us)
                for r, w, u in zip(unit.members, ws, us, strict=True):
                    total = total + self._beta(r) / 2 * distance_squared(w, u)
        return total


def _maps_in_c(rule: Rule) -> bool:
    """Say whether the map of a rule is a threshold of single weights."""
    penalty = rule.penalty
    known = penalty is not None and passes.Threshold.of(penalty, 0.0) is not None
    return known and isinstance(rule.groups, Elements)
