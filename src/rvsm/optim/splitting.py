"""The relaxed variable splitting method as a torch optimizer around any other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rvsm.errors import RuleError
from rvsm.optim import distributed
from rvsm.optim.budget import Budget, check_choice, check_reachable, choose
from rvsm.optim.level import Level, compiled_map, distance_squared
from rvsm.optim.recalibration import Batches, recalibrated
from rvsm.optim.recalibration import recalibrate as estimate
from rvsm.optim.rule import Rule
from rvsm.optim.ruled import RuledOptimizer
from rvsm.optim.strength import check_subgradient, check_target, critical, mu_just_below
from rvsm.optim.units import Ruled, Unit
from rvsm.penalties.base import Penalty

_STORED_W = "rvsm_w"
"""Key in ``state[p]`` of the one tensor that ``grad_at="u"`` stores."""


class RVSM(RuledOptimizer):
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
        smallest. A `Budget` also compares layers by scale, fixes their shares or keeps a floor.
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

    _own = (*RuledOptimizer._own, "grad_at", "coupling", "warmup", "heal_from", "budget")
    _ties = True

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
        if warmup < 0:
            raise RuleError(f"warmup must be a number of steps >= 0, not {warmup!r}.")
        if heal_from is not None and heal_from <= warmup:
            raise RuleError(f"heal_from must be a step after warmup={warmup}, not {heal_from!r}.")
        if isinstance(base, torch.optim.LBFGS) and (grad_at, coupling) != ("w", "gradient"):
            raise RuleError('LBFGS works with grad_at="w" and coupling="gradient" only.')
        if coupling == "decoupled" and isinstance(base, Optimizer) and "lr" not in base.defaults:
            raise RuleError('coupling="decoupled" needs a base optimizer with a rate lr.')
        self.grad_at, self.coupling, self.model = grad_at, coupling, model
        self.budget = budget if isinstance(budget, Budget) else Budget(budget)
        self.warmup, self.heal_from = warmup, heal_from
        self._held: dict[Ruled, Tensor] = {}
        self._inside: list[None] = []
        self._compiled: Callable[..., None] | None = None
        if named_parameters is None and model is not None and isinstance(base, Optimizer):
            named = all("param_names" in group for group in base.param_groups)
            named_parameters = None if named else model.named_parameters()
        super().__init__(base, rules, named_parameters)

    def __setstate__(self, state: dict[str, object]) -> None:
        super().__setstate__(
            {**state, "_held": {}, "_inside": [], "_compiled": None, "model": None}
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
        self._compiled = torch.compile(compiled_map, **options)

    # Traced whole, it would be compiled again for every value of a strength.
    @torch._disable_dynamo  # type: ignore[attr-defined]
    @torch.no_grad()
    def step(  # type: ignore[override]
        self, closure: Callable[[], float] | None = None
    ) -> float | None:
        """Take one step of the base optimizer on the relaxed problem.

        Afterwards the gradients of ruled parameters include coupling and subgradients.

        Parameters
        ----------
        closure : callable, optional
            Recomputes the loss and its gradients; called by the base as often as it likes.

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
        if closure is None and self._only_makes_state():
            self.base.step()
            if self.grad_at == "u":
                for _, p in self._split():
                    self.state[p][_STORED_W] = p.clone()
            return None
        frozen = self.frozen
        dead = [(p, p == 0) for _, p in self._split()] if frozen else []
        losses: list[float] = []

        @torch.no_grad()  # the base evaluates its closure with gradients enabled
        def prepare() -> None:
            self._check_gradients()
            if not frozen:
                self._couple()
            for p, zero in dead:  # a base that mixes entries must not see what cannot move
                if p.grad is not None:
                    p.grad.masked_fill_(zero, 0)

        def evaluate() -> float:
            with torch.enable_grad():
                loss = cast(Callable[[], float], closure)()
            losses.append(loss)
            prepare()
            # A line search must see the function whose gradient it is given.
            searches = isinstance(self.base, torch.optim.LBFGS)
            return float(self.lagrangian(loss)) if searches else loss

        if closure is None:
            prepare()
            self.base.step()
        else:
            self.base.step(evaluate)
        for p, zero in dead:
            p.masked_fill_(zero, 0)
        self._count_step()
        if not frozen:
            if self.grad_at == "u":
                self._show_u()
            if self.heal_from is not None and self.steps >= self.heal_from:
                self.finalize()
        return losses[0] if losses else None

    def _only_makes_state(self) -> bool:
        """Say whether this is the step with which distributed checkpoints look at the state.

        They take it on a fresh optimizer, with every rate and gradient zero, to learn what a
        checkpoint holds. It must change no weight: the model may have been loaded before.
        """
        return (
            self.steps == 0
            and not self.state
            and all(not group.get("lr", 1.0) for group in self.param_groups)
            and all(
                p.grad is not None and not distributed.whole(torch.count_nonzero(p.grad))
                for group in self.param_groups
                for p in group["params"]
                if p.requires_grad
            )
        )

    def _couple(self) -> None:
        """Add the subgradients and ``beta (w - u)``, and let the parameters hold w."""
        levels = self._levels()  # first: what it refuses must find everything as it was
        shown = self._hide_u() if self.grad_at == "u" else {}
        for unit in self._units:
            self._add_subgradient(unit)
            for r in unit.members:
                # Without a level u = w: not a single operation, so the base's step bit for bit.
                if r in levels and self._parameter(r).grad is not None:
                    self._add_coupling(r, levels[r], shown.get(r))

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

    def _add_coupling(self, r: Ruled, level: Level, shown: Tensor | None) -> None:
        """Add ``beta (w - u)``, with the u that was shown if there is one."""
        p = self._parameter(r)
        target, factor = cast(Tensor, p.grad), self._sign(r) * self._beta(r)
        if self.coupling == "decoupled":
            target, factor = p, -self.param_groups[r.group]["lr"] * self._beta(r)
        if shown is not None:
            target.add_((p - shown).mul_(factor))
        else:
            self._map(level, target, p, factor)

    def _lam2(self, unit: Unit) -> float:
        """Return the strength of the second penalty in force after the steps taken."""
        return self._numbers(unit.lead).get("lam2", 0.0) * self._share(unit.lead)

    def _sign(self, r: Ruled) -> float:
        return -1.0 if self.param_groups[r.group].get("maximize") else 1.0

    def _hide_u(self) -> dict[Ruled, Tensor]:
        """Let the parameters hold the stored w again; return the u they held."""
        shown = {}
        for r, p in self._split():
            w = self._w(r)
            if w is not p:
                shown[r] = p.clone()
                p.copy_(w)
        return shown

    def _show_u(self) -> None:
        """Store w, which the parameters hold after the base's step, and let them hold u."""
        for r, p in self._split():
            w = self._w(r)
            if w is not p:
                w.copy_(p)
        levels = self._levels()
        for r, p in self._split():
            w = self._w(r)
            # A state the base has not filled yet must stay empty: Adam takes any entry for its
            # own. It fills it in the first step that has a gradient.
            if w is p and r in levels and p.grad is not None:
                w = self.state[p][_STORED_W] = p.clone()
            if w is not p and r in levels:
                self._map(levels[r], p, w, None)

    def _map(self, level: Level, target: Tensor, w: Tensor, factor: float | None) -> None:
        """Add ``factor (w - u)`` to `target`, or write u into it; compiled where asked for."""
        if self._compiled is None or distributed.is_sharded(w):
            if factor is None:
                level.show(target, w)
            else:
                level.add_distance(target, w, factor)
            return
        zero = None if level.zero is None else level.groups.spread(level.zero, w)
        plain = w.detach()  # a parameter would be compiled for by its identity
        self._compiled(
            plain if target is w else target.detach(),
            plain,
            Level(level.penalty, level.groups, 0.0),
            zero,
            _scalar(level.mu, w),
            None if factor is None else _scalar(factor, w),
        )

    def _split(self) -> Iterator[tuple[Ruled, Tensor]]:
        """Yield every parameter with a split penalty."""
        for r in self._ruled:
            if self.rules[r.rule].penalty is not None:
                yield r, self._parameter(r)

    def _w(self, r: Ruled) -> Tensor:
        """Return the tensor that holds w of a parameter; the parameter itself where it does."""
        p = self._parameter(r)
        if r in self._held:
            return self._held[r]
        if self.grad_at == "w" or p not in self.state:
            return p
        return cast(Tensor, self.state[p].get(_STORED_W, p))

    def _u(self, r: Ruled, levels: dict[Ruled, Level]) -> Tensor:
        w = self._w(r)
        return levels[r].u(w) if r in levels else w

    def _nonzeros(self, r: Ruled, levels: dict[Ruled, Level]) -> int:
        return int(distributed.whole(torch.count_nonzero(self._u(r, levels))))

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

    def _levels(self) -> dict[Ruled, Level]:
        """Return the level of every parameter whose u is not simply its w."""
        levels: dict[Ruled, Level] = {}
        if self.frozen:
            return levels
        for unit in self._units:
            numbers = self._numbers(unit.lead)
            if "lam" in numbers and (lam := numbers["lam"] * self._share(unit.lead)) != 0:
                penalty = cast(Penalty, self.rules[unit.lead.rule].penalty)
                mu = lam / self._beta(unit.lead)
                levels.update(unit.levels(penalty, self._ws(unit), mu))
        for pool in self._pools(self._units):
            levels.update(self._exact_levels(pool))
        return {r: distributed.level_of(level, self._w(r)) for r, level in levels.items()}

    def _pools(self, units: Sequence[Unit]) -> list[list[Unit]]:
        """Return the units that meet a target together."""
        pools: dict[int, list[Unit]] = {}
        for i, unit in enumerate(units):
            if self.rules[unit.lead.rule].sparsity is not None:
                key = {"rule": unit.lead.rule, "global": -1, "parameter": i}[self.budget.scope]
                pools.setdefault(key, []).append(unit)
        return list(pools.values())

    def _exact_levels(self, pool: list[Unit]) -> dict[Ruled, Level]:
        """Return the levels at which `pool` together has exactly its target of zeros."""
        k = round(sum(
            self._numbers(unit.lead)["sparsity"] * self._share(unit.lead) * unit.count
            for unit in pool
        ))  # fmt: skip
        if k == 0:
            return {}
        ws = [self._ws(unit) for unit in pool]
        norms = [unit.norms(w) for unit, w in zip(pool, ws, strict=True)]
        levels: dict[Ruled, Level] = {}
        for unit, w, chosen in zip(pool, ws, choose(self.budget, pool, norms, k), strict=True):
            if chosen is not None:
                zero, t = chosen
                penalty = cast(Penalty, self.rules[unit.lead.rule].penalty)
                levels.update(unit.levels(penalty, w, mu_just_below(penalty, t), zero))
        return levels

    def _ws(self, unit: Unit) -> list[Tensor]:
        return [self._w(r) for r in unit.members]

    def _check_units(self, units: Sequence[Unit]) -> None:
        for unit in units:
            self._check_sharded(unit)
            if self.rules[unit.lead.rule].subgradient is not None:
                check_subgradient(self.rules[unit.lead.rule], unit)
        for pool in self._pools(units):
            for unit in pool:
                check_target(self.rules[unit.lead.rule])
            targets = [(self.rules[unit.lead.rule].sparsity or 0) * unit.count for unit in pool]
            check_reachable(self.budget, pool, round(sum(targets)))

    def _check_sharded(self, unit: Unit) -> None:
        """Raise RuleError where groups or a budget need more of a unit than a rank holds."""
        if not any(distributed.is_sharded(self._parameter(r)) for r in unit.members):
            return
        if len(unit.members) > 1:
            raise RuleError(
                f"{unit} are sharded, and tied groups need them whole; give each its own rule."
            )
        if self.budget.scale != "none" or self.budget.floor:
            raise RuleError(
                f"{unit} is sharded, where a budget knows neither scale nor floor; leave them out."
            )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state_dict saved under the same rules, or one of the bare base optimizer.

        The model may be loaded before or after: nothing is computed from its weights here.

        Raises
        ------
        RuleError
            If it was saved under other rules; nothing is loaded then.
        """
        super().load_state_dict(state_dict)
        if self.frozen or self.steps < self.warmup:
            # Left from the look at a fresh optimizer's state: in these phases w is in the model.
            for _, p in self._split():
                self.state.get(p, {}).pop(_STORED_W, None)

    @contextmanager
    def sparse_weights(self, *, recalibrate: Batches | None = None) -> Iterator[None]:
        """Hold u in the parameters, w again afterwards, exceptions included; may be nested.

        The parameters hold u already, and do not change, with ``grad_at="u"`` from the first
        step on, and once the support is frozen.

        Parameters
        ----------
        recalibrate : iterable of batches, optional
            Inputs, such as a loader of training data, from which the running statistics of batch
            norm are estimated at u; the old ones come back afterwards. See
            `rvsm.optim.recalibrate`.

        Raises
        ------
        RuleError
            If `recalibrate` is given and the optimizer was not given its `model`.
        """
        model = self._model_for(recalibrate)
        statistics = nullcontext() if model is None else recalibrated(model, recalibrate or ())
        with self._showing_u(), statistics:
            yield

    @contextmanager
    def _showing_u(self) -> Iterator[None]:
        if self._inside:
            yield
            return
        self._inside.append(None)
        try:
            with torch.no_grad():
                levels = self._levels()
                for r, p in self._split():
                    if r in levels and self._w(r) is p:
                        self._held[r] = w = p.clone()
                        levels[r].show(p, w)
            distributed.reshard()
            yield
        finally:
            with torch.no_grad():
                for r, w in self._held.items():
                    self._parameter(r).copy_(w)
            distributed.reshard()
            self._held.clear()
            self._inside.clear()

    def _model_for(self, batches: Batches | None) -> nn.Module | None:
        """Return the model to recalibrate, None where there is nothing to do."""
        if batches is None:
            return None
        if self.model is None:
            raise RuleError(
                "recalibrate= needs the model; pass model= to RVSM, or set optimizer.model after "
                "a copy or a pickle."
            )
        return self.model

    @torch.no_grad()
    def finalize(self, *, recalibrate: Batches | None = None) -> None:
        """Set w to u for good; later steps train the survivors and leave the zeros zero.

        Parameters
        ----------
        recalibrate : iterable of batches, optional
            As for ``sparse_weights()``; the statistics of batch norm stay.

        Raises
        ------
        RuleError
            Inside ``sparse_weights()``, or if `recalibrate` is given without a `model`.
        """
        if self._inside:
            raise RuleError("finalize() inside sparse_weights() would be undone; leave it first.")
        model = self._model_for(recalibrate)
        if model is not None and recalibrate is not None:
            with self._showing_u():  # before anything is final: batches may fail
                estimate(model, recalibrate)
        levels = self._levels()
        for r, p in self._split():
            w = self._w(r)
            if r in levels:
                levels[r].show(p, w)
            if w is not p:
                del self.state[p][_STORED_W]
        distributed.reshard()
        self._freeze()

    @torch.no_grad()
    def zeros(self) -> dict[str, tuple[int, int]]:
        """Return for every split parameter how many of its u are exactly zero, and its size."""
        levels = self._levels()
        return {
            r.name: (p.numel() - self._nonzeros(r, levels), p.numel()) for r, p in self._split()
        }

    @torch.no_grad()
    def gap(self) -> Tensor:
        """Return ``|w - u|``, the Euclidean distance over all split parameters, as a 0-d tensor."""
        levels = self._levels()
        squares = [
            distributed.whole(distance_squared(self._w(r), self._u(r, levels))) for r in levels
        ]
        return torch.stack(squares).sum().sqrt() if squares else torch.zeros(())

    @torch.no_grad()
    def critical(self) -> dict[str, float]:
        """Return for every split parameter the lam at which its u would be all zero now.

        ``beta mu``, with the mu whose threshold is the largest norm of its groups; inf where the
        groups never let all be zero. Under a schedule lam times its share must reach it. Waits
        for the device.
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
        levels = self._levels()
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


def _scalar(number: float | Tensor, like: Tensor) -> Tensor:
    if isinstance(number, Tensor):
        return number
    return torch.full((), number, dtype=torch.float64, device=like.device)
