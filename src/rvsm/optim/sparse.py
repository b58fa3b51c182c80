"""What every optimizer with a sparse result shares: its step, its phases, the result on show."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rvsm.errors import RuleError, RunError
from rvsm.optim import descent, distributed, passes
from rvsm.optim.budget import Budget
from rvsm.optim.checks import check_steps
from rvsm.optim.penalized import PenalizedOptimizer
from rvsm.optim.recalibration import Batches, recalibrated
from rvsm.optim.recalibration import recalibrate as estimate
from rvsm.optim.rule import Rule
from rvsm.optim.ruled import NUMBERS, OWN
from rvsm.optim.units import Ruled

_MOMENTS = (
    "momentum_buffer", "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "square_avg",
    "grad_avg", "acc_delta", "sum", "prev",
)  # fmt: skip
"""What torch's optimizers keep entry by entry. Another's may mix entries, or divide by them."""

Writer = Callable[[Tensor], object]
"""Writes the sparse result of a parameter into a tensor, which may be the parameter."""


class SparseOptimizer(PenalizedOptimizer):
    """A penalized optimizer whose result is sparse, in three phases: warm-up, sparsify, heal.

    A subclass says what happens before and after a step of the base (`_prepare`, `_conclude`),
    which entries must stay zero (`_dead`) and what the sparse result is (`_sparse`).

    Parameters
    ----------
    base, rules, warmup, budget, named_parameters
        As in PenalizedOptimizer.
    heal_from : int, optional
        After this many steps the sparse result is taken for good, as by ``finalize()``.
    model : nn.Module, optional
        For ``recalibrate=``, and for names where the base has none.
    """

    _own = (*PenalizedOptimizer._own, "heal_from")
    _hidden: ClassVar[str] = "rvsm_w"
    """Key in ``state[p]`` of what the base steps on where the parameters hold something else."""

    def __init__(
        self,
        base: Optimizer,
        rules: Sequence[Rule],
        *,
        warmup: int = 0,
        heal_from: int | None = None,
        budget: Literal["rule", "global", "parameter"] | Budget = "rule",
        model: nn.Module | None = None,
        named_parameters: Iterable[tuple[str, Tensor]] | None = None,
    ) -> None:
        _check_phases(warmup, heal_from)
        if model is not None and not isinstance(model, nn.Module):
            raise RuleError(f"model must be a torch.nn.Module, not {model!r}.")
        self.heal_from, self.model = heal_from, model
        self._held: dict[Ruled, Tensor] = {}
        self._inside: list[None] = []
        self._closed = False
        self._plan: descent.Plan | None = None
        self._planned: list[int] = []
        if named_parameters is None and model is not None and isinstance(base, Optimizer):
            named = all("param_names" in group for group in base.param_groups)
            named_parameters = None if named else model.named_parameters()
        super().__init__(
            base, rules, warmup=warmup, budget=budget, named_parameters=named_parameters
        )

    def __setstate__(self, state: dict[str, object]) -> None:
        fresh = {"_held": {}, "_inside": [], "_closed": False, "model": None}
        super().__setstate__({**state, **fresh, "_plan": None, "_planned": []})

    def __getstate__(self) -> dict[str, object]:
        self._refuse_inside("A copy or pickle of the optimizer")
        return super().__getstate__()

    def state_dict(self) -> dict[str, Any]:
        """Return the base's state_dict, whose param_groups hold rvsm's numbers.

        Raises
        ------
        RuleError
            Inside ``sparse_weights()`` where the parameters hold something else outside: the
            checkpoint that it is for would lack that.
        """
        self._refuse_inside("A checkpoint")
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state_dict saved under the same rules, or one of the bare base optimizer.

        As in RuledOptimizer, and a RuleError inside ``sparse_weights()``.
        """
        if self._held:
            raise RuleError(
                "load_state_dict() inside sparse_weights() would be undone in part; leave it first."
            )
        self._plan = None
        super().load_state_dict(state_dict)

    def _refuse_inside(self, what: str) -> None:
        """Raise RuleError while ``sparse_weights()`` holds apart what the parameters hold."""
        if self._held:
            raise RuleError(
                f"{what} inside sparse_weights() would lose the weights that come back "
                "afterwards; leave it first."
            )

    # Traced whole, it would be compiled again for every value of a strength.
    @torch._disable_dynamo  # type: ignore[attr-defined]
    @torch.no_grad()
    def step(  # type: ignore[override]
        self, closure: Callable[[], float] | None = None
    ) -> float | None:
        """Take one step of the base optimizer under the rules.

        Afterwards the gradients of ruled parameters are those the base was given: they include
        coupling and subgradients.

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
            If a gradient is not finite; weights and state are as before,
            gradients may hold their coupling. Looked at on the CPU only: elsewhere it would wait
            for the device. Or if a coupling is infinite, from weights of 1e20 and more, which are
            lost then.
        RuleError
            Inside ``sparse_weights()``, or if a ruled parameter's gradient is a sparse tensor.
        """
        if self._inside:
            raise RuleError("step() inside sparse_weights() would be undone; leave it first.")
        self._adopt()
        if closure is None and self._only_makes_state():
            self._make_state()
            return None
        frozen = self.frozen
        if closure is None and self._descends():
            self._count_step()
            if not frozen:
                self._arrive()
                self._heal()
            return None
        dead = list(self._dead())
        losses: list[float] = []

        @torch.no_grad()  # the base evaluates its closure with gradients enabled
        def prepare() -> None:
            self._check_others()
            self._check_gradients()
            if not frozen:
                self._prepare()
            for p, zero in dead:  # a base that mixes entries must not see what cannot move
                if p.grad is not None:
                    passes.clear(p.grad, zero)

        def evaluate() -> float:
            if losses and any(self._kept(r, self._hidden) is not None for r in self._ruled):
                raise RuleError(
                    f"{type(self.base).__name__} calls its closure more than once a step, and what "
                    f"it has changed by then would be lost to what {type(self).__name__} stores; "
                    'use another base, or rvsm.RVSM with grad_at="w".'
                )
            with torch.enable_grad():
                loss = cast(Callable[[], float], closure)()
            losses.append(loss)
            prepare()
            return self._searched(loss)

        self._closed = closure is not None
        try:
            if closure is None:
                prepare()
                self.base.step()
            else:
                self.base.step(evaluate)
            for p, zero in dead:
                passes.clear(p, zero)
            self._count_step()
            if not frozen:
                self._conclude()
        finally:
            self._take_back()
        self._heal()
        return losses[0] if losses else None

    def _heal(self) -> None:
        """Take the result for good where healing begins."""
        if not self.frozen and self.heal_from is not None and self.steps >= self.heal_from:
            self.finalize()

    def _descends(self) -> bool:
        """Take the whole step in C if that is possible, which changes nothing but its time.

        Raises
        ------
        RuleError
            If the strengths in force cannot be met.
        RunError
            If a coupling is infinite; the step has been taken then.
        """
        if not descent.takes(self.base):
            return False
        plan, frozen = self._plan, [group[NUMBERS]["frozen"] for group in self.param_groups]
        known = plan is not None and frozen == self._planned and plan.holds(self.base)
        if plan is None or not (known and self._steady()):
            stored = self._stored()
            if stored is None:
                return False
            if plan is None or not known:
                self._plan = None
                try:
                    plan = descent.Plan(self.base, stored, self._hidden)
                except LookupError:
                    return False
            moves = self._moves()
            if moves is None:
                return False
            plan.prepare(moves)
            self._plan, self._planned = plan, frozen
        try:
            return plan.step()
        except OverflowError as error:
            name = next(r.name for r in self._ruled if self._parameter(r) is error.args[0])
            raise RunError(
                f"The coupling of {name} is not finite at step {self.steps}; lower its beta."
            ) from None

    def _stored(self) -> dict[int, Tensor] | None:
        """Return what the base steps on in place of parameters, by their ids.

        None where a step does what C does not know.
        """
        return {} if self.frozen else None

    def _moves(self) -> descent.Moves | None:
        """Return what happens to gradients before the base's step, None if C has no such."""
        return {
            id(p): descent.Move(descent.HELD)
            for r, p in self._split()
            if self.param_groups[r.group][NUMBERS]["frozen"]
        }

    def _steady(self) -> bool:
        """Say whether what `_moves` returned for the step before still holds."""
        return True

    def _arrive(self) -> None:
        """Do what follows a step in C that is no step of healing, which is counted by now."""
        raise NotImplementedError

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

    def _make_state(self) -> None:
        """Fill the state with what a checkpoint may hold, and change nothing else."""
        raise NotImplementedError

    def _prepare(self) -> None:
        """Change gradients and parameters before the base's step; called once per closure."""

    def _conclude(self) -> None:
        """Do what follows the base's step, which is counted by now."""

    def _take_back(self) -> None:
        """Undo what `_prepare` did to parameters for the time of the base's step alone."""

    def _searched(self, loss: float) -> float:
        """Return what a base with a line search shall take for the loss."""
        return loss

    def _dead(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield parameters with a mask of the entries that this step must leave zero."""
        if self.frozen:
            for r, p in self._split():
                if self.param_groups[r.group][NUMBERS]["frozen"]:
                    yield p, passes.zeros_of(p)

    def _sparse(self) -> dict[Ruled, Writer]:
        """Return how to write the result of parameters; what the others hold is theirs."""
        raise NotImplementedError

    def _shown(self, r: Ruled) -> bool:
        """Say whether a parameter that `_sparse` can write holds its result between steps."""
        return False

    def _kept(self, r: Ruled, key: str) -> Tensor | None:
        """Return the tensor under `key` in the state of a parameter, if there is one yet."""
        p = self._parameter(r)
        return cast("Tensor | None", self.state[p].get(key)) if p in self.state else None

    def _unveil(self) -> None:
        """Let the parameters hold what the base steps on."""
        for r in self._ruled:
            hidden = self._kept(r, self._hidden)
            if hidden is not None:
                self._parameter(r).copy_(hidden)

    def _veil(self, begin: Container[Ruled] | None = None) -> dict[Ruled, Tensor]:
        """Store what the parameters hold after the base's step and return it where it is stored.

        Storing begins for the parameters in `begin`, by default all. A state that the base has
        not filled yet stays empty: Adam takes any entry for its own. It fills it in the first
        step that has a gradient.
        """
        stored = {}
        for r in self._ruled:
            p, hidden = self._parameter(r), self._kept(r, self._hidden)
            if hidden is not None:
                stored[r] = hidden
                if not passes.are_one(hidden, p):
                    hidden.copy_(p)
            elif p.grad is not None and (begin is None or r in begin):
                stored[r] = self.state[p][self._hidden] = p.clone()
        return stored

    @contextmanager
    def sparse_weights(self, *, recalibrate: Batches | None = None) -> Iterator[None]:
        """Hold the sparse result in the parameters, what they held before afterwards.

        Exceptions included; may be nested. The parameters do not change where they hold it
        already.

        Parameters
        ----------
        recalibrate : iterable of batches, optional
            Inputs, such as a loader of training data, from which the running statistics of batch
            norm are estimated at the result; the old ones come back afterwards. See
            `rvsm.optim.recalibrate`.

        Raises
        ------
        RuleError
            If `recalibrate` is given and the optimizer was not given its `model`.
        """
        model = self._model_for(recalibrate)
        statistics = nullcontext() if model is None else recalibrated(model, recalibrate or ())
        with self._showing(), statistics:
            yield

    @contextmanager
    def _showing(self) -> Iterator[None]:
        if self._inside:
            yield
            return
        self._adopt()
        self._inside.append(None)
        try:
            with torch.no_grad():
                for r, write in ({} if self.frozen else self._sparse()).items():
                    if not self._shown(r):
                        p = self._parameter(r)
                        self._held[r] = p.clone()
                        write(p)
            distributed.reshard()
            yield
        finally:
            with torch.no_grad():
                for r, held in self._held.items():
                    self._parameter(r).copy_(held)
            distributed.reshard()
            self._held.clear()
            self._inside.clear()

    def _model_for(self, batches: Batches | None) -> nn.Module | None:
        """Return the model to recalibrate, None where there is nothing to do."""
        if batches is None:
            return None
        if self.model is None:
            raise RuleError(
                f"recalibrate= needs the model; pass model= to {type(self).__name__}, or set "
                "optimizer.model after a copy or a pickle."
            )
        return self.model

    @torch.no_grad()
    def finalize(self, *, recalibrate: Batches | None = None) -> None:
        """Take the sparse result for good; later steps train the survivors, zeros stay zero.

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
        self._adopt()
        model = self._model_for(recalibrate)
        if model is not None and recalibrate is not None:
            with self._showing():  # before anything is final: batches may fail
                estimate(model, recalibrate)
        self._plan = None  # which would keep tensors that go
        if not self.frozen:
            self._write_result()
        for _, p in self._split():
            for key in [key for key in self.state.get(p, {}) if str(key).startswith(OWN)]:
                del self.state[p][key]
        distributed.reshard()
        self._freeze()
        for _, p in self._split():
            self._forget(p, passes.zeros_of(p))

    def _forget(self, p: Tensor, zero: Tensor) -> None:
        """Clear what the base remembers of entries that cannot move any more.

        Momentum without gradients falls to the least denormal number and stays there, as 0.9 of it
        is rounded to itself: steps would take five times as long from then on.
        """
        state = self.state.get(p, {})
        for held in (state[key] for key in _MOMENTS if key in state):
            plain = type(held) is Tensor or distributed.is_sharded(held)
            if plain and held.shape == p.shape and held.is_floating_point():
                passes.clear(held, zero)

    def _write_result(self) -> None:
        """Let the parameters hold the sparse result, or what they held if that fails."""
        before: dict[Ruled, Tensor] = {}
        try:
            for r, write in self._sparse().items():
                if not self._shown(r):
                    before[r] = self._parameter(r).clone()
                write(self._parameter(r))
        except BaseException:
            for r, held in before.items():
                self._parameter(r).copy_(held)
            raise

    @torch.no_grad()
    def zeros(self) -> dict[str, tuple[int, int]]:
        """Return for every split parameter how many of its result are zero, and its size."""
        self._adopt()
        sparse = {} if self.frozen or self._inside else self._sparse()
        counts = {}
        for r, p in self._split():
            result = p
            if r in sparse:
                result = torch.empty_like(p)
                sparse[r](result)
            nonzeros = int(distributed.whole(torch.count_nonzero(result)))
            counts[r.name] = (p.numel() - nonzeros, p.numel())
        return counts


def _check_phases(warmup: int, heal_from: int | None) -> None:
    """Raise RuleError unless healing, if there is any, comes after the warm-up."""
    check_steps("warmup", warmup)
    if heal_from is not None:
        check_steps("heal_from", heal_from)
        if heal_from <= warmup:
            raise RuleError(f"heal_from must be a step after warmup={warmup}, not {heal_from!r}.")
