"""l0 regularisation by hard concrete gates."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.adam import adam

from rvsm.errors import RuleError
from rvsm.optim.checks import check_number, check_share
from rvsm.optim.relative import Relative
from rvsm.optim.rule import Rule
from rvsm.optim.ruled import NUMBERS, Ruled
from rvsm.optim.sparse import Writer

_LOG_ALPHA, _MEAN, _SQUARE, _STEP = (
    "rvsm_log_alpha",
    "rvsm_gate_exp_avg",
    "rvsm_gate_exp_avg_sq",
    "rvsm_gate_step",
)
_LOW, _HIGH = -0.1, 1.1
"""The interval gamma, zeta to which the gates are stretched before they are cut to [0, 1]."""
_SEED = "seed"


class HardConcrete(Relative):
    r"""l0 regularisation with a random gate at every weight or group.

    Minimises the expectation of ``f(theta z) + sum_rules lam (number of gates not 0)`` over hard
    concrete gates with parameters log alpha and temperature T::

        s = sigmoid((log n - log(1 - n) + log alpha) / T),  n uniform in (0, 1)
        z = min(1, max(0, s (zeta - gamma) + gamma)),  gamma = -0.1, zeta = 1.1
        P(z != 0) = sigmoid(log alpha - T log(-gamma / zeta))

    The gradient g at theta z is split by the chain rule: the base steps on theta along g z, and
    Adam with the rate `gate_lr` on log alpha along ``g theta dz/dlog alpha`` and the gradient of
    the penalty. The result is theta at the gate without noise, ``s = sigmoid(log alpha)``.

    Between steps the parameters hold theta z with the gates of the coming step; theta is stored in
    ``state[p]["rvsm_w"]``, log alpha and Adam's two means of it beside it, one number per gate.
    The noise of a step is drawn from a torch.Generator that is seeded anew by `seed`, the step and
    the parameter's name: the checkpoint holds all of its state in two numbers, and a resumed run
    is the run bit for bit. The first step has no gates.

    Parameters
    ----------
    base : torch.optim.Optimizer
        Steps on theta.
    rules : sequence of Rule
        With ``L0()`` and ``lam=``; ``sparsity=`` raises and `beta` has no meaning.
    gate_lr : float
        Rate >= 0 of Adam on log alpha.
    temperature : float
        T > 0; lower is nearer to gates that are 0 or 1.
    initial : float
        Probability in (0, 1) of a gate near 1 at the start: log alpha is its logit.
    seed : int
        Of the noise; kept in ``param_groups[i]["rvsm"]["seed"]``.
    warmup, heal_from, model, named_parameters
        As in RVSM.

    Raises
    ------
    RuleError
        If an option is out of range, a rule matches nothing or the base cannot be used.

    References
    ----------
    Louizos, Welling, Kingma, "Learning sparse neural networks through L0 regularization",
    arXiv 1712.01312 (2018), equations 9 to 13.

    Examples
    --------
    >>> model = torch.nn.Linear(8, 2)
    >>> base = torch.optim.Adam(model.named_parameters(), lr=0.01)
    >>> optimizer = HardConcrete(base, [Rule("weight", L0(), lam=1e-3)], seed=1)
    """

    _own = (*Relative._own, "gate_lr", "temperature", "initial", "seed")
    _takes = ("lam",)
    _only_l0 = True

    def __init__(
        self,
        base: Optimizer,
        rules: Sequence[Rule],
        *,
        gate_lr: float = 0.01,
        temperature: float = 2 / 3,
        initial: float = 0.9,
        seed: int = 0,
        warmup: int = 0,
        heal_from: int | None = None,
        model: nn.Module | None = None,
        named_parameters: Iterable[tuple[str, Tensor]] | None = None,
    ) -> None:
        check_number("gate_lr", gate_lr)
        check_number("temperature", temperature, positive=True)
        check_share("initial", initial, "(0, 1)", "a probability")
        self.gate_lr, self.temperature, self.initial, self.seed = (
            gate_lr, temperature, initial, seed,
        )  # fmt: skip
        super().__init__(
            base,
            rules,
            warmup=warmup,
            heal_from=heal_from,
            model=model,
            named_parameters=named_parameters,
        )

    def _check_parameter(self, r: Ruled) -> None:
        super()._check_parameter(r)
        groups = self.rules[r.rule].groups
        if bool(groups.norms(self._parameter(r).detach()).isinf().any()):
            raise RuleError(
                f"{r.name}: {groups} leaves groups free, which gates cannot; use RVSM or other "
                "groups."
            )

    def _match_rules(self) -> None:
        super()._match_rules()
        for group in self.param_groups:
            group[NUMBERS].setdefault(_SEED, self.seed)

    def _prepare(self) -> None:
        """Step on log alpha, hand the base theta and its share of the gradient."""
        for r in self._ruled:
            p, theta = self._parameter(r), self._kept(r, self._hidden)
            if p.grad is None or theta is None:
                continue
            sign = self._sign(r)
            log_alpha = self.state[p][_LOG_ALPHA]
            lam = self._numbers(r)["lam"] * self._share(r)
            with torch.enable_grad():
                at = log_alpha.detach().requires_grad_()
                z = self._spread(r, self._gate(at, self._noise(r, at)))
                (slope,) = torch.autograd.grad(
                    (z, self._open(at)), at, (sign * theta * p.grad, torch.full_like(at, lam))
                )
            p.grad.mul_(z.detach())
            adam(
                [log_alpha], [slope], [self.state[p][_MEAN]], [self.state[p][_SQUARE]], [],
                [self.state[p][_STEP]], foreach=False, amsgrad=False, beta1=0.9, beta2=0.999,
                lr=self.gate_lr, weight_decay=0.0, eps=1e-8, maximize=False,
            )  # fmt: skip
        self._unveil()

    def _conclude(self) -> None:
        if self.steps <= self.warmup:
            return
        for r, theta in self._veil().items():
            p = self._parameter(r)
            if _LOG_ALPHA not in self.state[p]:
                gates = self.rules[r.rule].groups.norms(p)
                self.state[p].update({
                    _LOG_ALPHA: torch.full_like(gates, math.log(self.initial / (1 - self.initial))),
                    _MEAN: torch.zeros_like(gates),
                    _SQUARE: torch.zeros_like(gates),
                    _STEP: torch.zeros(()),
                })  # fmt: skip
            log_alpha = self.state[p][_LOG_ALPHA]
            self._show(r, p, theta, self._gate(log_alpha, self._noise(r, log_alpha)))

    def _sparse(self) -> dict[Ruled, Writer]:
        writers: dict[Ruled, Writer] = {}
        for r in self._ruled:
            theta, log_alpha = self._kept(r, self._hidden), self._kept(r, _LOG_ALPHA)
            if theta is not None and log_alpha is not None:
                writers[r] = self._writer(r, theta, self._gate(log_alpha))
        return writers

    def _writer(self, r: Ruled, theta: Tensor, gate: Tensor) -> Writer:
        return lambda target: self._show(r, target, theta, gate)

    def _show(self, r: Ruled, target: Tensor, theta: Tensor, gate: Tensor) -> None:
        z = self._spread(r, gate)
        # A negative weight times a shut gate would be a minus zero.
        torch.mul(theta, z, out=target).masked_fill_(z == 0, 0)

    def _spread(self, r: Ruled, gate: Tensor) -> Tensor:
        return self.rules[r.rule].groups.spread(gate, self._parameter(r))

    def _gate(self, log_alpha: Tensor, noise: Tensor | None = None) -> Tensor:
        s = torch.sigmoid(log_alpha if noise is None else (noise + log_alpha) / self.temperature)
        return (s * (_HIGH - _LOW) + _LOW).clamp(0, 1)

    def _open(self, log_alpha: Tensor) -> Tensor:
        """Return the probability that a gate is not 0."""
        return torch.sigmoid(log_alpha - self.temperature * math.log(-_LOW / _HIGH))

    def _noise(self, r: Ruled, like: Tensor) -> Tensor:
        """Return ``log n - log(1 - n)`` of the coming step, the same however often it is asked."""
        seed = self.param_groups[r.group][NUMBERS][_SEED]
        digest = hashlib.blake2b(f"{seed} {self.steps} {r.name}".encode(), digest_size=4).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "little"))
        uniform = torch.rand(like.shape, generator=generator, dtype=like.dtype)
        return torch.logit(uniform, eps=1e-6).to(like.device)
