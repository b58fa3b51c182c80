"""Which rules, bases and checkpoints the relatives of RVSM take: what they refuse, in one place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch._C._dynamo.eval_frame import get_eval_frame_callback

from rvsm.errors import RuleError
from rvsm.optim.ruled import NUMBERS
from rvsm.optim.sparse import SparseOptimizer
from rvsm.optim.units import Ruled
from rvsm.penalties import L0

_METHOD = "method"
"""Key beside the step count of the class that wrote the state."""


class Relative(SparseOptimizer):
    """A relative of RVSM, for float32 or float64 parameters in a single process.

    Whatever is outside that raises: half-precision and distributed parameters, several
    processes, a rule's `subgradient`, LBFGS, and the strengths a subclass does not take.
    """

    _takes: ClassVar[tuple[str, ...]] = ("lam", "sparsity")
    """Strengths that a rule may have."""
    _only_l0: ClassVar[bool] = False
    """Whether survivors are never shrunk, so that only L0 tells the truth about the penalty."""

    def _match_rules(self) -> None:
        if isinstance(self.base, torch.optim.LBFGS):
            raise RuleError(
                f"{type(self).__name__} cannot stand on LBFGS, which steps more than once a "
                "closure; use RVSM or another base optimizer."
            )
        super()._match_rules()
        for group in self.param_groups:
            group[NUMBERS].setdefault(_METHOD, type(self).__name__)

    def step(  # type: ignore[override]
        self, closure: Callable[[], float] | None = None
    ) -> float | None:
        """Take one step of the base optimizer under the rules, as RVSM does; never compiled."""
        # Dynamo swallows what is raised while it traces; the frame it falls back to is still its.
        if torch.compiler.is_compiling() or get_eval_frame_callback() is not None:
            raise RuleError(f"{type(self).__name__}.step() cannot be compiled; use RVSM.")
        return super().step(closure)

    def _make_state(self) -> None:
        raise RuleError(
            f"{type(self).__name__} has no part in torch's distributed checkpoints; save and "
            "load optimizer.state_dict() itself, or use RVSM."
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state_dict of the same class under the same rules, or one of the bare base.

        Raises
        ------
        RuleError
            If it was saved by another class or under other rules; nothing is loaded then.
        """
        for saved in state_dict["param_groups"]:
            method = saved.get(NUMBERS, {_METHOD: type(self).__name__}).get(_METHOD, "RVSM")
            if method != type(self).__name__:
                raise RuleError(
                    f"The checkpoint was made by {method}, not {type(self).__name__}; build the "
                    "optimizer it was saved with, or load the model's weights alone."
                )
        super().load_state_dict(state_dict)

    def _check_parameter(self, r: Ruled) -> None:
        super()._check_parameter(r)
        rule, p, name = self.rules[r.rule], self._parameter(r), type(self).__name__
        where = f"Rule({rule.pattern!r})"
        if rule.subgradient is not None:
            raise RuleError(f"{where}: {name} takes no subgradient; use RVSM or leave it out.")
        if self._only_l0 and not isinstance(rule.penalty, L0):
            raise RuleError(f"{where}: {name} keeps or kills and never shrinks; give it L0().")
        given = "lam" if rule.lam is not None else "sparsity"
        if given not in self._takes:
            raise RuleError(
                f"{where}: {name} takes no {given}=; give {self._takes[0]}= or use RVSM."
            )
        if p.dtype not in (torch.float32, torch.float64):
            raise RuleError(
                f"{name} needs float32 or float64 parameters and {r.name} is {p.dtype}; train "
                "under autocast or use RVSM."
            )
        if hasattr(p, "placements") or (
            torch.distributed.is_available()
            and torch.distributed.is_initialized()
            and torch.distributed.get_world_size() > 1
        ):
            raise RuleError(f"{name} trains in a single process ({r.name} is shared); use RVSM.")
