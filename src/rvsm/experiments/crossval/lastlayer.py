"""The last layer alone, on convolutions that stay as they are: what few images can teach.

With a few dozen people, seven thousand weights of convolutions learn the people by heart; those
that learnt what a tremor looks like from thousands of made drawings are better left alone. What
they say of every image, changed a few times over, is then computed once for a whole study, and a
fit is a convex problem of seconds.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F

from rvsm import RVSM, Rule
from rvsm.experiments.config import AugmentationConfig
from rvsm.experiments.crossval.baselines import Coordinates, coordinates
from rvsm.experiments.crossval.candidates import NO_CHANGE, Candidate
from rvsm.experiments.crossval.metrics import Ints, Reals
from rvsm.experiments.crossval.networks import Begin, take_over
from rvsm.experiments.data import augment, seeded
from rvsm.experiments.runs import make_network
from rvsm.handwriting.network import TremorNet
from rvsm.optim import Cubic
from rvsm.penalties import L0, L1, Penalty, TransformedL1

_BATCH = 100
_KEPT = 8  # coordinates: of the inner folds of one training part
_STEPS, _FULL_AT = 200, 180
_LR, _BETA = 3e-3, 0.01
_LEAST = 0.1
_PENALTIES: dict[str, Penalty] = {"l0": L0(), "l1": L1(), "transformed-l1": TransformedL1(a=1.0)}


@dataclass(frozen=True)
class Seen:
    """A network and what its convolutions say of every image, several times over.

    Attributes
    ----------
    net : TremorNet
        Its last layer is not looked at.
    features : ndarray of float32, shape (views, n, features)
    """

    net: TremorNet
    features: npt.NDArray[np.float32]
    _found: dict[bytes, Coordinates] = field(default_factory=dict, repr=False)

    def inputs(self, which: npt.NDArray[np.intp]) -> Reals:
        """All views of some images, shape (views * m, features)."""
        chosen = self.features[:, which]
        return chosen.reshape(-1, chosen.shape[-1]).astype(np.float64)

    def scores(self, net: TremorNet, which: npt.NDArray[np.intp]) -> Reals:
        """Difference of the two logits of some images by a last layer, mean over their views."""
        weight, bias = (p.detach().double().numpy() for p in (net.fc.weight, net.fc.bias))
        logits = self.features[:, which].mean(axis=0) @ (weight[1] - weight[0])
        return np.asarray(logits + (bias[1] - bias[0]))

    def coordinates(self, which: npt.NDArray[np.intp]) -> Coordinates:
        """Those of the views of some images; kept for the last few, which are asked for again."""
        key = which.tobytes()
        if key not in self._found:
            if len(self._found) >= _KEPT:
                del self._found[next(iter(self._found))]
            inputs = self.inputs(which)
            self._found[key] = coordinates(inputs, _spread(inputs))
        return self._found[key]

    def forget(self) -> None:
        """Drop the coordinates kept."""
        self._found.clear()


class Looks:
    """What the networks of a study see, computed when it is first asked for.

    Parameters
    ----------
    ink : ndarray of uint8, shape (n, rows, columns)
    views : int
        How often each image is changed.
    """

    def __init__(self, ink: npt.NDArray[np.uint8], views: int) -> None:
        self._ink, self._views = ink, views
        self._seen: dict[tuple[int, bool, int | None], tuple[Begin, Seen]] = {}
        self._last: Seen | None = None

    def of(self, begin: Begin, augmented: bool, pool: int | None = None) -> Seen:
        """Features of convolutions that start so, of changed images.

        `pool` replaces the rows and columns of the last pooling.

        Raises
        ------
        ConfigError
            The pool leaves nothing of the image.
        """
        key = (id(begin), augmented, pool)
        if key not in self._seen:
            base = begin.config
            if pool is not None:
                pools = (*base.network.pools[:2], (pool, pool))
                network = base.network.model_copy(update={"pools": pools})
                base = base.model_copy(update={"network": network})
            net = make_network(base)
            if begin.state is not None:
                take_over(net, begin.state)
            config = base.augmentation
            if not augmented:
                config = config.model_copy(update=NO_CHANGE)
            views = self._views if augmented else 1
            # With its start, so that no other start gets the same id.
            self._seen[key] = begin, look(net, self._ink, config, views, base.seed)
        seen = self._seen[key][1]
        # Hundreds of megabytes of wide networks: candidates of one look stand side by side.
        if self._last is not None and self._last is not seen:
            self._last.forget()
        self._last = seen
        return seen


def look(
    net: TremorNet,
    ink: npt.NDArray[np.uint8],
    augmentation: AugmentationConfig,
    views: int,
    seed: int,
) -> Seen:
    """Compute the features of all images, each changed anew for every view.

    Parameters
    ----------
    net : TremorNet
    ink : ndarray of uint8, shape (n, rows, columns)
    augmentation : AugmentationConfig
    views : int
        How many.
    seed : int
        Of the changes.
    """
    net.eval()
    images = torch.from_numpy(np.ascontiguousarray(ink))
    looks = []
    with torch.inference_mode():
        for view in range(views):
            parts = [
                net.features(augment(part, augmentation, seeded(seed, view, number))).flatten(1)
                for number, part in enumerate(torch.split(images, _BATCH))
            ]
            looks.append(torch.cat(parts).numpy())
    return Seen(net, np.stack(looks))


def fit_last(seen: Seen, which: npt.NDArray[np.intp], labels: Ints, tried: Candidate) -> TremorNet:
    r"""Train the last layer on some images; everything else stays.

    Dense, it is the minimum of the logistic loss with an l2 penalty on standardised features,

    .. math:: C \sum_i \log(1 + e^{-y_i (w \cdot x_i + b)}) + \tfrac12 \lVert w \rVert^2 .

    None is divided by less than a tenth of the root mean square of their standard deviations: a
    place that hardly any training image has ink at would be millions of standard deviations away
    in the first other image that has.

    Sparse, the splitting optimizer goes on from there with the same sum, all images at once, and
    finds which weights stay: as many as `tried` asks for, the first logit all zero, since only
    the difference of the two counts. On those the sum is minimised once more.

    Parameters
    ----------
    seen : Seen
    which : ndarray of int, shape (m,)
        Positions of the images to train on.
    labels : ndarray of int, shape (m,)
        Their classes.
    tried : Candidate
        With `ridge`, and `sparsity` unless dense.

    Returns
    -------
    TremorNet
        A copy of the network with this last layer.
    """
    assert tried.ridge is not None
    views = len(seen.features)
    found, answers = seen.coordinates(which), np.tile(labels, views)
    # The same person several times over is not more people: the penalty is that of one view.
    line = found.line(answers, tried.ridge / views)
    weights, offset = line.weights, line.offset
    net = copy.deepcopy(seen.net)
    if tried.method == "dense":
        _write(net, -weights / 2, weights / 2, offset - float(line.mean @ weights))
        return net
    inputs = (seen.inputs(which) - found.mean) / found.spread
    weights, offset = _sparse(inputs, answers, weights * found.spread, offset, tried, views)
    weights = weights / found.spread
    _write(net, np.zeros_like(weights), weights, offset - float(line.mean @ weights))
    return net


def _spread(inputs: Reals) -> Reals:
    """What features are divided by."""
    found = inputs.std(axis=0)
    return np.asarray(np.maximum(found, max(_LEAST * float(np.sqrt(np.mean(found**2))), 1e-9)))


def _sparse(
    inputs: Reals, answers: Ints, start: Reals, offset: float, tried: Candidate, views: int
) -> tuple[Reals, float]:
    """Weights with the zeros asked for, and the offset, in standardised features."""
    assert tried.ridge is not None
    assert tried.sparsity is not None
    x = torch.from_numpy(inputs).float()
    y = torch.from_numpy(answers).float()
    layer = nn.Linear(x.shape[1], 1)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(start).float().view(1, -1))
        layer.bias.fill_(offset)
    decay = views / (tried.ridge * len(x))  # of a mean, not a sum
    # Half of the layer's zeros are the first logit's; one weight is left at least.
    share = min(max(0.0, 2 * tried.sparsity - 1), 1 - 1 / x.shape[1])
    optimizer = RVSM(
        torch.optim.Adam(layer.named_parameters(), lr=_LR),
        [
            Rule(
                "weight",
                _PENALTIES[tried.method],
                sparsity=share,
                beta=_BETA,
                schedule=Cubic(0, _FULL_AT),
            )
        ],
        grad_at="u",
    )
    for _ in range(_STEPS):
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(layer(x).squeeze(1), y)
        loss = loss + decay / 2 * layer.weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    optimizer.finalize()
    kept = np.flatnonzero(layer.weight.detach().numpy()[0])
    alone = coordinates(inputs[:, kept], np.ones(len(kept)))
    line = alone.line(answers, tried.ridge / views)
    weights = np.zeros(inputs.shape[1])
    weights[kept] = line.weights
    return weights, line.offset - float(line.mean @ line.weights)


def _write(net: TremorNet, first: Reals, second: Reals, offset: float) -> None:
    with torch.no_grad():
        net.fc.weight.copy_(torch.from_numpy(np.stack([first, second])))
        net.fc.bias.copy_(torch.tensor([0.0, offset]))
