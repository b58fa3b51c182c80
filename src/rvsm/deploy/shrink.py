"""From a network with zeros to a smaller one with the same outputs."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor, nn

from rvsm.deploy.network import Network
from rvsm.deploy.shrinking.account import ShrinkReport, layer_sizes
from rvsm.deploy.shrinking.constants import constants
from rvsm.deploy.shrinking.cutting import cut
from rvsm.deploy.shrinking.draft import PRODUCERS, Draft
from rvsm.deploy.shrinking.keeping import kept_channels
from rvsm.deploy.shrinking.needs import needs
from rvsm.deploy.shrinking.tidying import (
    with_batch_norm_folded,
    with_input_selected,
    with_selections_joined,
)
from rvsm.deploy.tracing import check_example, trace
from rvsm.errors import RvsmError
from rvsm.modes import evaluating

_TOLERANCE = 1e-9
"""Largest difference in float64, as a share of the largest output, that is rounding."""


class Shrunk(Network):
    """A `Network` that :func:`shrink` made; :func:`shrink_report` tells what it did."""

    _account: ShrinkReport


def shrink(model: nn.Module, example: Tensor, *, round_to: int = 1, fold: bool = False) -> Network:
    """Return a smaller network that computes what the module does in evaluation mode.

    Gone are the filters, units, rows and columns that have no part in the output, with all that
    reads or feeds only them: those whose weights are zero, those nobody reads with a nonzero
    weight, and those that are constant, whose value goes into the next bias. A constant that
    meets the zeros of a padding has no such value at the border; it stays.

    Parameters
    ----------
    model
        The module; it is left as it was. Under `rvsm.RVSM` call this after
        ``optimizer.finalize()`` or inside ``optimizer.sparse_weights()``: before that the
        parameters hold w, which has no zeros.
    example
        An input ``(batch, *shape)``. The network takes inputs of that shape, as the module did.
    round_to
        Keep sizes of convolutions and linear layers multiples of this, by channels of zeros,
        where they were larger before; the output keeps its size anyway.
    fold
        Fold batch norm into the layer it follows. Off by default: a folded network cannot be
        trained on as before, and loses the names of the folded tensors. The outputs are the
        same.

    Returns
    -------
    Network
        In evaluation mode, on the device of the example. Tensors that are left have the names
        they had; a layer that had no bias and needs one gets it beside its weight.

    Raises
    ------
    UnsupportedLayer
        If the module does what is no layer of the closed list, named with its path.
    RvsmError
        If `round_to` is no positive whole number, weights are infinite or no numbers, or the
        outputs in float64 are not those of the module: a network that is wrong is never
        returned.

    Examples
    --------
    >>> import rvsm, torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> _ = torch.nn.init.zeros_(model[0].weight[:5])
    >>> small = rvsm.shrink(model, torch.zeros(1, 4))
    >>> [tuple(tensor.shape) for tensor in small.state_dict().values()]
    [(3, 4), (3,), (2, 3), (2,)]
    """
    if type(round_to) is not int or round_to < 1:
        raise RvsmError(f"round_to is {round_to!r}; give a whole number of at least 1, such as 8.")
    check_example(example)
    traced = model if isinstance(model, Network) else trace(model, example)
    with torch.no_grad():
        before = Draft.of(traced)
        for name, tensor in before.tensors.items():
            if not tensor.isfinite().all():
                raise RvsmError(
                    f"{name} holds weights that are infinite or no numbers, and what they reach "
                    "cannot be told; shrink a network whose training did not diverge."
                )
        after = smallest(before, round_to, fold)
        small = after.network()
        network = Shrunk(small.graph, small.state_dict()).to(example.device).eval()
        network._account = _account(model, before, after, network, example)
    return network


def shrink_report(network: nn.Module) -> ShrinkReport:
    """Return what :func:`shrink` did to make this network: sizes and differences.

    Raises
    ------
    RvsmError
        If `shrink` did not make it in this process.
    """
    if not isinstance(network, Shrunk):
        raise RvsmError(
            f"A {type(network).__name__} has no account of its shrinking; give what rvsm.shrink "
            "returned."
        )
    return network._account


def smallest(draft: Draft, round_to: int = 1, fold: bool = False) -> Draft:
    """Cut until nothing changes: what one cut leaves may show the next."""
    sizes = {
        node.name: draft.shapes[node.name][0] for node in draft.graph.nodes if node.op in PRODUCERS
    }
    while True:
        step = with_input_selected(with_batch_norm_folded(draft) if fold else draft)
        known = constants(step)
        found = needs(step, known)
        smaller = cut(found, kept_channels(found, sizes, round_to), known)
        smaller = with_selections_joined(smaller)
        if _same(smaller, draft):
            return smaller
        draft = smaller


def _same(one: Draft, other: Draft) -> bool:
    return one.graph.to_dict() == other.graph.to_dict() and all(
        torch.allclose(one.tensors[name], other.tensors[name], rtol=0, atol=0, equal_nan=True)
        for name in one.tensors
    )


def _account(
    model: nn.Module, before: Draft, after: Draft, network: Network, example: Tensor
) -> ShrinkReport:
    """Compare outputs for the example and for random inputs, and count.

    Raises
    ------
    RvsmError
        If the outputs differ by more than rounding in double precision.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (2, *example.shape[1:])
    batches = [
        example[:2].detach().to("cpu", torch.float64),
        torch.randn(shape, generator=generator, dtype=torch.float64),
        10 * torch.rand(shape, generator=generator, dtype=torch.float64),
    ]
    double = after.network(double=True)
    difference = rounded = scale = 0.0
    with evaluating(model):
        for batch in batches:
            own = batch.to(example)
            wanted = _in_double(model, before, batch.to(example.device))
            scale = max(scale, float(wanted.abs().amax()))
            difference = max(difference, _distance(double(batch), wanted))
            rounded = max(rounded, _distance(network(own), model(own)))
    if not difference <= _TOLERANCE * (scale + 1e-6):
        raise RvsmError(
            f"The shrunk {type(model).__name__} would differ from it by {difference:.1e} in "
            f"float64, with outputs up to {scale:.1e}, and is not returned: use the module as it "
            "is, and report this as a fault of rvsm."
        )
    dtype = str(example.dtype).removeprefix("torch.")
    layers = layer_sizes(before.graph, after.graph)
    return ShrinkReport(layers, difference, rounded, scale, dtype)


def _in_double(model: nn.Module, before: Draft, batch: Tensor) -> Tensor:
    """Return the module's outputs in double precision; those of its layers where it has none."""
    state = {
        name: value.double() if value.is_floating_point() else value
        for name, value in (*model.named_parameters(), *model.named_buffers())
    }
    outputs = None
    if not _computes_weights(model, before):
        # a module that insists on one dtype raises
        with contextlib.suppress(RuntimeError, TypeError, NotImplementedError):
            outputs = torch.func.functional_call(model, state, (batch,))
    if isinstance(outputs, Tensor) and outputs.dtype == torch.float64:
        return outputs.cpu()
    own: Tensor = before.network(double=True)(batch.cpu())
    return own


def _computes_weights(model: nn.Module, before: Draft) -> bool:
    """Say whether layers use tensors that the module makes of its own, as weight norm does.

    In double precision it would make others than those it computes with.
    """
    own = {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
    return not all(
        name in own and torch.equal(own[name].detach().cpu().double(), tensor)
        for name, tensor in before.tensors.items()
    )


def _distance(one: Tensor, other: Tensor) -> float:
    """Return the largest difference, where not both are the same infinity or no number."""
    one, other = one.cpu(), other.cpu()
    same = (one == other) | (one.isnan() & other.isnan())
    return float((one - other).abs().masked_fill(same, 0.0).amax())
