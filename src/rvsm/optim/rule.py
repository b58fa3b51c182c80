"""Rules: which weights are penalised, how, and how strongly."""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from rvsm.errors import RuleError
from rvsm.groups import Elements, Grouped, Groups, Tied
from rvsm.optim.checks import check_number, check_share
from rvsm.optim.schedules import Continuation, Schedule
from rvsm.penalties import Elastic, Penalty


@dataclass(frozen=True)
class Rule:
    """A penalty on every parameter whose name matches a pattern.

    Parameters
    ----------
    pattern : str
        fnmatch pattern on the whole parameter name (``"fc.weight"``, ``"*.weight"``);
        ``_orig_mod.`` and ``module.`` are stripped from names first. The last matching rule wins.
    penalty : Penalty or None
        The split penalty P; None only together with `subgradient`.
    groups : Groups
        What the penalty keeps or kills as one; single elements by default.
    lam : float, optional
        Strength lambda >= 0 of the penalty. Give this or `sparsity`.
    sparsity : float, optional
        Share of the matched weights, in [0, 1), to be exactly zero: the nearest one that whole
        groups can make. Lambda follows from it.
    beta : float or Continuation
        Coupling strength > 0 between w and u. Weights below ``threshold(lam / beta)`` are zero.
    schedule : Schedule, optional
        Share of `lam` (or `sparsity`) and of the subgradient's lam2 in force at a step; full
        strength from the first step by default.
    subgradient : (Penalty, float), optional
        A second penalty on the same groups and its strength lam2 >= 0, added to the loss through
        its subgradient.

    Raises
    ------
    RuleError
        If the options contradict each other or a number is out of range.
    """

    pattern: str
    penalty: Penalty | None
    groups: Groups = field(default_factory=Elements, kw_only=True)
    lam: float | None = field(default=None, kw_only=True)
    sparsity: float | None = field(default=None, kw_only=True)
    beta: float | Continuation = field(default=0.1, kw_only=True)
    schedule: Schedule | None = field(default=None, kw_only=True)
    subgradient: tuple[Penalty, float] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.pattern, str) or not self.pattern:
            raise RuleError(
                f"Rule: pattern must be a parameter name or glob, not {self.pattern!r}."
            )
        where = f"Rule({self.pattern!r})"
        if self.penalty is None:
            if self.subgradient is None:
                raise RuleError(f"{where}: give a penalty, or a subgradient=(penalty, lam2).")
            if self.lam is not None or self.sparsity is not None:
                raise RuleError(f"{where}: lam and sparsity need a penalty; give one.")
        else:
            _check_penalty(where, self.penalty)
            if (self.lam is None) == (self.sparsity is None):
                raise RuleError(f"{where}: give exactly one of lam and sparsity.")
            _check_inner_groups(where, self.penalty, self.sparsity)
        if self.lam is not None:
            check_number(f"{where}: lam", self.lam)
        if self.sparsity is not None:
            check_share(f"{where}: sparsity", self.sparsity, "[0, 1)", "the share of zeros")
        if not isinstance(self.beta, Continuation):
            check_number(f"{where}: beta", self.beta, positive=True)
        if isinstance(self.groups, type) or not isinstance(self.groups, Groups):
            raise RuleError(
                f"{where}: groups must be an object of rvsm.groups, such as Elements(), not "
                f"{self.groups!r}."
            )
        schedule = self.schedule
        if schedule is not None and (isinstance(schedule, type) or not callable(schedule)):
            raise RuleError(
                f"{where}: schedule must be a function of the step, such as Cubic(0, 1000), not "
                f"{schedule!r}."
            )
        if self.subgradient is not None:
            _check_subgradient(where, self.subgradient)

    def takes(self, name: str) -> bool:
        """Return whether the rule is for the parameter `name`."""
        clean = clean_name(name)
        if isinstance(self.groups, Tied) and self.groups.place(clean) is None:
            return False
        return fnmatchcase(clean, self.pattern) or fnmatchcase(name, self.pattern)

    def numbers(self) -> dict[str, float]:
        """Return the strengths that live in the optimizer's param_groups."""
        found = {"lam": self.lam, "sparsity": self.sparsity}
        if self.penalty is not None:
            beta = self.beta
            found["beta"] = beta.start if isinstance(beta, Continuation) else beta
        if self.subgradient is not None:
            found["lam2"] = self.subgradient[1]
        return {key: float(number) for key, number in found.items() if number is not None}


def clean_name(name: str) -> str:
    """Return a parameter's name without the marks of torch.compile and (D)DP wrappers."""
    return re.sub(r"^(module\.)+", "", name.replace("_orig_mod.", ""))


def assign(names: Sequence[str], rules: Sequence[Rule]) -> list[int | None]:
    """Return for every parameter name the index of the last rule that matches it, or None.

    Raises
    ------
    RuleError
        If a rule matches no name at all.

    Warns
    -----
    UserWarning
        If later rules take every parameter a rule matches.
    """
    matches = [[rule.takes(name) for name in names] for rule in rules]
    for rule, matched in zip(rules, matches, strict=True):
        if not any(matched):
            raise RuleError(
                f"Rule({rule.pattern!r}) matches no parameter; {_suggest(rule.pattern, names)}"
            )
    winners = [
        max((i for i in range(len(rules)) if matches[i][j]), default=None)
        for j in range(len(names))
    ]
    for i, rule in enumerate(rules):
        if i not in winners:
            warnings.warn(
                f"Rule({rule.pattern!r}) has no effect: later rules take every parameter it "
                "matches; remove it or move it to the end.",
                stacklevel=3,
            )
    return winners


def _suggest(pattern: str, names: Sequence[str]) -> str:
    known = list(dict.fromkeys(clean_name(name) for name in names))
    near = difflib.get_close_matches(pattern, known, n=3, cutoff=0.4) or known[:5]
    return f"the nearest names are {', '.join(near)}."


def _check_penalty(where: str, penalty: object) -> None:
    if isinstance(penalty, type) or not isinstance(penalty, Penalty):
        raise RuleError(
            f"{where}: {penalty!r} is no penalty; pass an object with the methods value, prox, "
            "threshold and mu_for_threshold, such as L0()."
        )


def _check_inner_groups(where: str, penalty: Penalty, sparsity: float | None) -> None:
    """Raise RuleError where a target would count single weights and the penalty kills groups."""
    while isinstance(penalty, Elastic):
        penalty = penalty.penalty
    if sparsity is not None and isinstance(penalty, Grouped):
        raise RuleError(
            f"{where}: sparsity= would count single weights under {penalty}; give "
            f"{penalty.penalty} as penalty and groups={penalty.groups}, or lam= instead."
        )


def _check_subgradient(where: str, subgradient: object) -> None:
    if not isinstance(subgradient, tuple) or len(subgradient) != 2:
        raise RuleError(f"{where}: subgradient must be a pair (penalty, lam2).")
    penalty, lam2 = subgradient
    _check_penalty(where, penalty)
    check_number(f"{where}: lam2", lam2)
