"""The gradient of a batch; on a GPU from kernels recorded once and launched together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain

import torch
from torch import Tensor, nn

Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Of logits, labels and a teacher's logits."""

_EAGER_STEPS = 3
"""Before recording: libraries choose their kernels and workspaces in the first calls."""


class Gradient:
    """Puts the gradient of a loss into a network's parameters.

    A small network's step on a GPU takes as long as Python takes to launch its kernels one by one.
    Recorded as one CUDA graph they are launched at once, from the same memory to the same memory.

    Parameters
    ----------
    model : nn.Module
        Whose parameters get their ``grad``.
    loss : callable
        Of logits, labels and a teacher's logits or None.
    record : bool
        Record on a GPU. The forward pass must be tensors alone: nothing that Python decides anew.
    """

    def __init__(self, model: nn.Module, loss: Loss, *, record: bool) -> None:
        self.model, self.loss, self.record = model, loss, record
        self.steps = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._places: list[int] = []
        self._inputs: list[Tensor] = []
        self._gradients: Sequence[Tensor | None] = ()

    def __call__(self, x: Tensor, y: Tensor, taught: Tensor | None) -> None:
        """Set the gradients at a batch."""
        given = [t for t in (x, y, taught) if t is not None]
        self.steps += 1
        if not self.record or x.device.type != "cuda" or self.steps <= _EAGER_STEPS:
            self._eager(x, y, taught)
            return
        if self._graph is None or self._places != self._memory():
            self._record(given)
        if [t.shape for t in given] != [t.shape for t in self._inputs]:  # an epoch's last batch
            self._eager(x, y, taught)
            return
        for own, t in zip(self._inputs, given, strict=True):
            own.copy_(t)
        assert self._graph is not None
        self._graph.replay()
        for p, gradient in zip(self.model.parameters(), self._gradients, strict=True):
            p.grad = gradient

    def _eager(self, x: Tensor, y: Tensor, taught: Tensor | None) -> None:
        for p in self.model.parameters():
            p.grad = None
        self.loss(self.model(x), y, taught).backward()

    def _memory(self) -> list[int]:
        """Return where the network lies: what moves must be recorded anew."""
        return [t.data_ptr() for t in chain(self.model.parameters(), self.model.buffers())]

    def _record(self, given: Sequence[Tensor]) -> None:
        self._inputs = [t.clone() for t in given]
        x, y, *taught = self._inputs
        ps = list(self.model.parameters())
        self._graph, self._places = torch.cuda.CUDAGraph(), self._memory()
        with torch.cuda.graph(self._graph):
            loss = self.loss(self.model(x), y, taught[0] if taught else None)
            self._gradients = torch.autograd.grad(loss, ps, allow_unused=True)
