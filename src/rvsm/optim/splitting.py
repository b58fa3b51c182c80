"""The relaxed variable splitting method as a torch optimizer around any other."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from rvsm.errors import RuleError, RunError
from rvsm.optim.rule import Rule, assign, clean_name
from rvsm.optim.targets import smallest
from rvsm.penalties.base import Penalty, accumulator

_STORED_W = "rvsm_w"
"""Key in ``state[p]`` of the one tensor that ``grad_at="u"`` stores."""

_NUMBERS = "rvsm"
"""Key in every param_group of the numbers rvsm keeps there."""


@dataclass(frozen=True)
class _Ruled:
    """Where a ruled parameter stands in param_groups, and the index of its rule."""

    name: str
    rule: int
    group: int
    index: int


@dataclass(frozen=True)
class _Level:
    """What turns w into u: `mu`, and under an exact target which elements are zero."""

    mu: float | Tensor
    zero: Tensor | None = None


class RVSM(Optimizer):
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
    budget : {"rule", "global"}
        Whether each rule with ``sparsity=`` meets its own target, or all of them together theirs:
        ``round(sum of s n)`` zeros wherever the magnitudes are smallest.
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

    def __init__(
        self,
        base: Optimizer,
        rules: Sequence[Rule],
        *,
        grad_at: Literal["w", "u"] = "w",
        coupling: Literal["gradient", "decoupled"] = "gradient",
        warmup: int = 0,
        heal_from: int | None = None,
        budget: Literal["rule", "global"] = "rule",
        named_parameters: Iterable[tuple[str, Tensor]] | None = None,
    ) -> None:
        if not isinstance(base, Optimizer) or isinstance(base, RVSM):
            raise RuleError(f"RVSM needs a torch optimizer to stand on, not {type(base).__name__}.")
        _check_choice("grad_at", grad_at, ("w", "u"))
        _check_choice("coupling", coupling, ("gradient", "decoupled"))
        _check_choice("budget", budget, ("rule", "global"))
        if warmup < 0:
            raise RuleError(f"warmup must be a number of steps >= 0, not {warmup!r}.")
        if heal_from is not None and heal_from <= warmup:
            raise RuleError(f"heal_from must be a step after warmup ({warmup}), not {heal_from!r}.")
        if isinstance(base, torch.optim.LBFGS) and (grad_at, coupling) != ("w", "gradient"):
            raise RuleError('LBFGS works with grad_at="w" and coupling="gradient" only.')
        self.base = base
        self.rules = tuple(rules)
        if not self.rules or not all(isinstance(rule, Rule) for rule in self.rules):
            raise RuleError("RVSM needs a list of at least one rvsm.Rule.")
        self.grad_at, self.coupling, self.budget = grad_at, coupling, budget
        self.warmup, self.heal_from = warmup, heal_from
        self._ruled: list[_Ruled] = []
        self._held: list[tuple[Tensor, Tensor]] | None = None  # (p, its w) in sparse_weights()
        super().__setstate__({})  # the hooks that Optimizer.__init__ would make
        if named_parameters is not None:
            _name_groups(base, named_parameters)
        self._match_rules()

    # --- one optimizer with the base -------------------------------------------------------

    @property
    def state(self) -> Any:
        """The base optimizer's state."""
        return self.base.state

    @state.setter
    def state(self, state: Any) -> None:
        self.base.state = state

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The base optimizer's groups; rvsm's numbers are under the key ``"rvsm"``."""
        return self.base.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        self.base.param_groups = groups

    @property
    def defaults(self) -> dict[str, Any]:
        """The base optimizer's defaults."""
        return self.base.defaults

    @defaults.setter
    def defaults(self, defaults: dict[str, Any]) -> None:
        self.base.defaults = defaults

    def __getstate__(self) -> dict[str, Any]:
        own = ("base", "rules", "grad_at", "coupling", "budget", "warmup", "heal_from", "_ruled")
        return {**{key: self.__dict__[key] for key in own}, "_held": None}

    def state_dict(self) -> dict[str, Any]:
        """Return the base's state_dict; rvsm's numbers are in its param_groups."""
        for before in self._optimizer_state_dict_pre_hooks.values():
            before(self)
        state_dict = self.base.state_dict()
        for after in self._optimizer_state_dict_post_hooks.values():
            state_dict = after(self, state_dict) or state_dict
        return state_dict

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state_dict of an RVSM with as many rules, or of the bare base optimizer.

        Load the model first or afterwards, both are right: the parameters hold w (or u, see the
        class), and nothing here is computed from them before the next step.
        """
        state_dict = state_dict.copy()
        for before in self._optimizer_load_state_dict_pre_hooks.values():
            state_dict = before(self, state_dict) or state_dict
        numbers = [group[_NUMBERS] for group in self.param_groups]
        for saved, own in zip(state_dict["param_groups"], numbers, strict=False):
            if _NUMBERS in saved and saved[_NUMBERS]["rules"].keys() != own["rules"].keys():
                raise RuleError(
                    "The checkpoint was made with other rules than this optimizer's; build RVSM "
                    "with the rules it was saved with."
                )
        self.base.load_state_dict(state_dict)
        for group, own in zip(self.param_groups, numbers, strict=True):
            group.setdefault(_NUMBERS, own)
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the base; the rules apply to its parameters too."""
        self.base.add_param_group(param_group)
        self._match_rules()

    def _match_rules(self) -> None:
        names, places = [], []
        for g, group in enumerate(self.param_groups):
            if "param_names" not in group:
                raise RuleError(
                    "The base optimizer's parameters have no names; build it from "
                    "model.named_parameters() or pass named_parameters= to RVSM."
                )
            names += group["param_names"]
            places += [(g, i) for i in range(len(group["params"]))]
        self._ruled = [
            _Ruled(clean_name(name), rule, *place)
            for name, rule, place in zip(names, assign(names, self.rules), places, strict=True)
            if rule is not None
        ]
        for r in self._ruled:
            if not self._parameter(r).is_floating_point():
                raise RuleError(
                    f"Rule({self.rules[r.rule].pattern!r}) matches {r.name}, whose type "
                    f"{self._parameter(r).dtype} is not real; narrow the pattern."
                )
        first = self.param_groups[0].get(_NUMBERS, {"step": 0, "frozen": 0})
        for g, group in enumerate(self.param_groups):
            if self.coupling == "decoupled" and "lr" not in group:
                raise RuleError('coupling="decoupled" needs a base optimizer with a rate lr.')
            rules = sorted({r.rule for r in self._ruled if r.group == g})
            group.setdefault(
                _NUMBERS,
                {
                    "step": first["step"],
                    "frozen": first["frozen"],
                    "rules": {str(rule): self.rules[rule].numbers() for rule in rules},
                },
            )

    # --- the step --------------------------------------------------------------------------

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step of the base optimizer on the relaxed problem.

        Parameters
        ----------
        closure : callable, optional
            Recomputes the loss and its gradients; called by the base as often as it likes.

        Returns
        -------
        float or None
            What the base returns: the closure's loss.

        Raises
        ------
        RunError
            If a ruled parameter's gradient is not finite (looked at on the CPU only, where it
            costs no synchronisation); model and optimizer are as before.
        RuleError
            Inside ``sparse_weights()``, or if a ruled parameter's gradient is a sparse tensor.
        """
        if self._held is not None:
            raise RuleError("step() inside sparse_weights() would be undone; leave it first.")
        frozen = self.frozen
        dead = [(p, p == 0) for _, p in self._split()] if frozen else []

        def prepare() -> None:
            self._check_gradients()
            if not frozen:
                self._couple()

        def evaluate() -> float:
            with torch.enable_grad():
                value = cast(Callable[[], float], closure)()
            prepare()
            return value

        loss: float | None
        if closure is None:
            prepare()
            loss = self.base.step()
        else:
            loss = self.base.step(evaluate)
        for p, zero in dead:
            p.masked_fill_(zero, 0)
        for group in self.param_groups:
            group[_NUMBERS]["step"] += 1
        if not frozen:
            if self.grad_at == "u":
                self._show_u()
            if self.heal_from is not None and self.steps >= self.heal_from:
                self.finalize()
        return loss

    def _check_gradients(self) -> None:
        for r in self._ruled:
            grad = self._parameter(r).grad
            if grad is None:
                continue
            if grad.is_sparse:
                raise RuleError(
                    f"{r.name} has a sparse gradient, which takes no coupling; build its layer "
                    "with sparse=False or leave it out of the rules."
                )
            # The sum is one pass; only where it overflows or is not finite is the exact test run.
            if (
                grad.device.type == "cpu"
                and not math.isfinite(grad.sum())
                and not bool(grad.isfinite().all())
            ):
                raise RunError(
                    f"The gradient of {r.name} is not finite at step {self.steps}; lower the "
                    "learning rate, clip the gradients or look for NaN in the data."
                )

    def _couple(self) -> None:
        """Add the subgradients and beta (w - u), and let the parameters hold w."""
        shown = self._hide_u() if self.grad_at == "u" else {}
        levels = self._levels()
        for r in self._ruled:
            p, rule, share = self._parameter(r), self.rules[r.rule], self._share(r)
            group, numbers = self.param_groups[r.group], self._numbers(r)
            if p.grad is None or share == 0:
                continue
            sign = -1.0 if group.get("maximize") else 1.0
            if rule.subgradient is not None:
                strength = sign * share * numbers["lam2"]
                p.grad.add_(_subgradient(rule, r.name, p), alpha=strength)
            if r not in levels:
                continue  # u = w: no pass over the weights, and the base's step bit for bit
            u = shown[r] if r in shown else self._u(r, p, levels[r])
            if self.coupling == "gradient":
                p.grad.add_(p - u, alpha=sign * numbers["beta"])
            else:
                p.sub_((p - u).mul_(group["lr"] * numbers["beta"]))

    def _hide_u(self) -> dict[_Ruled, Tensor]:
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
            if (w := self._w(r)) is not p:
                w.copy_(p)
        levels = self._levels()
        for r, p in self._split():
            w = self._w(r)
            # Before the base has seen a gradient its state is empty, and must stay so: Adam
            # takes any entry for its own.
            if w is p and r in levels and p.grad is not None:
                w = self.state[p][_STORED_W] = p.clone()
            if w is not p:
                p.copy_(self._u(r, w, levels.get(r)))

    # --- u -----------------------------------------------------------------------------------

    def _split(self) -> Iterator[tuple[_Ruled, Tensor]]:
        """Yield every parameter with a split penalty."""
        for r in self._ruled:
            if self.rules[r.rule].penalty is not None:
                yield r, self._parameter(r)

    def _parameter(self, r: _Ruled) -> Tensor:
        return cast(Tensor, self.param_groups[r.group]["params"][r.index])

    def _numbers(self, r: _Ruled) -> dict[str, float]:
        """Return the strengths of a parameter's rule, as its group holds them."""
        return cast("dict[str, float]", self.param_groups[r.group][_NUMBERS]["rules"][str(r.rule)])

    def _share(self, r: _Ruled) -> float:
        """Return the share of full strength in force at the current step."""
        if self.steps < self.warmup:
            return 0.0
        schedule = self.rules[r.rule].schedule
        return 1.0 if schedule is None else float(schedule(self.steps))

    def _w(self, r: _Ruled) -> Tensor:
        """Return the tensor that holds w between steps."""
        p = self._parameter(r)
        if self.grad_at == "w" or p not in self.state:
            return p
        return cast(Tensor, self.state[p].get(_STORED_W, p))

    def _u(self, r: _Ruled, w: Tensor, level: _Level | None) -> Tensor:
        """Return u of a parameter's `w`; without a level it is `w` itself."""
        if level is None:
            return w
        rule = self.rules[r.rule]
        penalty = cast(Penalty, rule.penalty)
        if level.zero is None:
            return rule.groups.prox(penalty, w, level.mu)
        wide = w.float() if w.element_size() < 4 else w  # a threshold below t, see _exact_levels
        u = rule.groups.prox(penalty, wide, level.mu).to(w.dtype)
        return u.masked_fill_(rule.groups.spread(level.zero, w), 0)

    def _levels(self) -> dict[_Ruled, _Level]:
        """Return the level of every split parameter whose u differs from w."""
        levels: dict[_Ruled, _Level] = {}
        pools: dict[int, list[_Ruled]] = {}
        if self.frozen:
            return levels
        for r, _ in self._split():
            numbers, share = self._numbers(r), self._share(r)
            if "sparsity" in numbers:
                pools.setdefault(r.rule if self.budget == "rule" else -1, []).append(r)
            elif numbers["lam"] * share > 0:
                levels[r] = _Level(numbers["lam"] * share / numbers["beta"])
        for pool in pools.values():
            levels.update(self._exact_levels(pool))
        return levels

    def _exact_levels(self, pool: list[_Ruled]) -> dict[_Ruled, _Level]:
        """Return the levels at which `pool` together has exactly its target of zeros."""
        weights = [self._w(r) for r in pool]
        target = sum(
            self._numbers(r)["sparsity"] * self._share(r) * w.numel()
            for r, w in zip(pool, weights, strict=True)
        )
        k = round(target)
        if k == 0:
            return {}
        norms = [
            self.rules[r.rule].groups.norms(w).flatten() for r, w in zip(pool, weights, strict=True)
        ]
        mask, t = smallest(torch.cat(norms), k)
        # The mask decides what is zero. The map's own threshold stays a few roundings below t,
        # so that what ties with t but survives is not zeroed by the map.
        narrow = torch.finfo(t.dtype if t.element_size() >= 4 else torch.float32).eps
        below = t.double() * (1 - 16 * narrow)
        masks = torch.split(mask, [n.numel() for n in norms])
        levels = {}
        for r, zero in zip(pool, masks, strict=True):
            mu_at = cast(Penalty, self.rules[r.rule].penalty).mu_for_threshold
            on_cpu = below.device.type == "cpu"
            levels[r] = _Level(mu_at(float(below)) if on_cpu else mu_at(below), zero)
        return levels

    # --- what the user reads and does ------------------------------------------------------------

    @property
    def steps(self) -> int:
        """Steps taken."""
        return int(self.param_groups[0][_NUMBERS]["step"])

    @property
    def frozen(self) -> bool:
        """Whether the support is fixed: after ``finalize()`` or `heal_from`."""
        return bool(self.param_groups[0][_NUMBERS]["frozen"])

    def ruled_names(self) -> list[str]:
        """Return the names of the parameters under a rule, in the base's order."""
        return [r.name for r in self._ruled]

    @contextmanager
    def sparse_weights(self) -> Iterator[None]:
        """Hold u in the parameters, w again afterwards, exceptions included; may be nested.

        Changes nothing where the parameters hold u already: with ``grad_at="u"`` from the first
        step on, and once the support is frozen.
        """
        if self._held is not None:
            yield
            return
        self._held = []
        try:
            with torch.no_grad():
                levels = self._levels()
                for r, p in self._split():
                    if r in levels and self._w(r) is p:
                        u = self._u(r, p, levels[r])
                        self._held.append((p, p.clone()))
                        p.copy_(u)
            yield
        finally:
            with torch.no_grad():
                for p, w in self._held:
                    p.copy_(w)
            self._held = None

    @torch.no_grad()
    def finalize(self) -> None:
        """Set w to u for good; later steps train the survivors and leave the zeros zero.

        Raises
        ------
        RuleError
            Inside ``sparse_weights()``.
        """
        if self._held is not None:
            raise RuleError("finalize() inside sparse_weights() would be undone; leave it first.")
        levels = self._levels()
        for r, p in self._split():
            w = self._w(r)
            if w is not p:
                del self.state[p][_STORED_W]  # p holds u
            elif r in levels:
                p.copy_(self._u(r, p, levels[r]))
        for group in self.param_groups:
            group[_NUMBERS]["frozen"] = 1

    @torch.no_grad()
    def zeros(self) -> dict[str, tuple[int, int]]:
        """Return for every split parameter how many of its u are exactly zero, and its size."""
        return {
            r.name: (u.numel() - int(torch.count_nonzero(u)), u.numel())
            for r, _, u in self._pairs()
        }

    @torch.no_grad()
    def gap(self) -> Tensor:
        """Return ``|w - u|``, the Euclidean distance over all split parameters, as a 0-d tensor."""
        return self._squares().sqrt()

    @torch.no_grad()
    def lagrangian(self, loss: Tensor | float | None = None) -> Tensor:
        """Return the relaxed Lagrangian at the current weights, detached.

        ``loss + sum lam P(u) + sum (beta/2) |w - u|^2 + sum lam2 P2(w)``, where under an exact
        target lam is what it implies. Once the support is frozen it is the loss alone.

        Parameters
        ----------
        loss : Tensor or float, optional
            f(w) at the current weights; 0 by default.
        """
        total = torch.as_tensor(0.0 if loss is None else loss).detach().clone()
        if self.frozen:
            return total
        levels = self._levels()
        for r in self._ruled:
            rule, numbers, share = self.rules[r.rule], self._numbers(r), self._share(r)
            w = self._w(r)
            if rule.subgradient is not None:
                penalty, _ = rule.subgradient
                total = total + share * numbers["lam2"] * rule.groups.value(penalty, w)
            if rule.penalty is not None and r in levels:
                u = self._u(r, w, levels[r])
                beta = numbers["beta"]
                total = total + levels[r].mu * beta * rule.groups.value(rule.penalty, u)
                total = total + beta / 2 * _square(w - u)
        return total

    def _pairs(self) -> Iterator[tuple[_Ruled, Tensor, Tensor]]:
        """Yield every split parameter with its w and u."""
        held = {id(p): w for p, w in self._held or ()}
        levels = {} if self._held is not None else self._levels()
        for r, p in self._split():
            w = held.get(id(p), self._w(r))
            yield r, w, p if self._held is not None else self._u(r, w, levels.get(r))

    def _squares(self) -> Tensor:
        return torch.stack([_square(w - u) for _, w, u in self._pairs()]).sum()


def _square(x: Tensor) -> Tensor:
    return cast(Tensor, torch.linalg.vector_norm(x, dtype=accumulator(x)).square())


def _subgradient(rule: Rule, name: str, p: Tensor) -> Tensor:
    """Return the gradient of the rule's second penalty at `p`."""
    penalty, _ = cast("tuple[Penalty, float]", rule.subgradient)
    with torch.enable_grad():
        x = p.detach().requires_grad_()
        value = rule.groups.value(penalty, x)
        if not value.requires_grad:
            raise RuleError(
                f"Rule({rule.pattern!r}): {penalty} has no subgradient to add for {name}; use a "
                "penalty whose value is differentiable, such as L1()."
            )
        return torch.autograd.grad(value, x)[0]


def _check_choice(name: str, choice: str, choices: Sequence[str]) -> None:
    if choice not in choices:
        raise RuleError(f"{name} must be {' or '.join(map(repr, choices))}, not {choice!r}.")


def _name_groups(base: Optimizer, named_parameters: Iterable[tuple[str, Tensor]]) -> None:
    """Write names into the base's groups as torch does when it is given them."""
    names = {id(p): name for name, p in named_parameters}
    found = [[names.get(id(p)) for p in group["params"]] for group in base.param_groups]
    missing = sum(name is None for group in found for name in group)
    if missing:
        raise RuleError(
            f"named_parameters lacks {missing} of the base optimizer's parameters; pass those of "
            "the whole model."
        )
    for group, named in zip(base.param_groups, found, strict=True):
        group["param_names"] = named
