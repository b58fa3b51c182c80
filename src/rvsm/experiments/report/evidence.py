"""Which ink made the network decide: occlusion maps, computed when the report is written."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from rvsm.experiments.data import reduce_image, to_float
from rvsm.experiments.report.source import Floats, Predictions
from rvsm.handwriting.network import TremorNet
from rvsm.handwriting.views import view_logits

POSITIONS = 256  # of the eraser: of words one a millimetre
SOFTNESS = 0.75  # its standard deviation in their distances; a hard edge would itself look shaky
UNCERTAIN = 0.45  # a probability between 0.05 and 0.95


@dataclass(frozen=True)
class Choice:
    """One image picked for the report, by its index in the predictions."""

    index: int
    kind: str


def choose(predictions: Predictions, per_kind: int = 6) -> list[Choice]:
    """Images that were right (drawn at random, seed 0), most wrong, and nearest to the border.

    Both classes get half of the `right` ones where they can.
    """
    rng = np.random.default_rng(0)
    right = predictions.called_shaky == predictions.shaky
    margin = np.abs(predictions.probability - 0.5)
    taken: list[Choice] = []
    for shaky in (False, True):
        pool = np.flatnonzero(right & (predictions.shaky == shaky))
        picked = rng.permutation(pool)[: per_kind // 2]
        taken += [Choice(int(i), "right") for i in picked]
    wrong = np.flatnonzero(~right)
    taken += [Choice(int(i), "wrong") for i in wrong[np.argsort(-margin[wrong], kind="stable")]][
        :per_kind
    ]
    used = {choice.index for choice in taken}
    order = np.argsort(margin, kind="stable")
    nearest = [int(i) for i in order if int(i) not in used and margin[i] < UNCERTAIN]
    return taken + [Choice(i, "uncertain") for i in nearest[:per_kind]]


@torch.inference_mode()
def log_odds(network: TremorNet, batch: torch.Tensor) -> torch.Tensor:
    """ln P(shaky) / P(regular) of every image: the difference of the mean logits of its views."""
    logits = view_logits(network, batch).mean(0)
    return logits[:, 1] - logits[:, 0]


def grid(height: int, width: int) -> tuple[int, int]:
    """Positions down and across an image, as far apart one way as the other: 8 x 32 of 64 x 256."""
    rows = max(1, round((POSITIONS * height / width) ** 0.5))
    return rows, round(POSITIONS / rows)


def occlusion(network: TremorNet, image: npt.NDArray[np.uint8]) -> tuple[float, Floats]:
    """Erase the ink softly, place by place, and note what the log-odds of shaky lose.

    Parameters
    ----------
    network
        The network, in evaluation mode.
    image
        Grey, dark on light, as large as the network learned from.

    Returns
    -------
    odds, map
        Log-odds of the whole image, and the differences, as :func:`grid` has them: positive where
        the ink speaks for shaky, negative where it speaks for regular.
    """
    rows, columns = grid(*image.shape)
    height, width = network.size
    whole = to_float(torch.from_numpy(reduce_image(image, network.size))[None])
    down, across = _bumps(height, rows), _bumps(width, columns)
    lost = []
    for band in down:
        erased = whole * (1.0 - band[None, :, None] * across[:, None, :])[:, None]
        # In one batch: processors round batches of another size differently.
        odds = log_odds(network, torch.cat([whole, erased]))
        lost.append(odds[0] - odds[1:])
    return float(log_odds(network, whole)), torch.stack(lost).double().numpy()


def _bumps(length: int, count: int) -> torch.Tensor:
    """`count` Gaussian bumps of height 1, evenly spread over `length` pixels: (count, length)."""
    step = length / count
    centres = (torch.arange(count) + 0.5) * step - 0.5
    return torch.exp(-0.5 * ((torch.arange(length) - centres[:, None]) / (SOFTNESS * step)) ** 2)
