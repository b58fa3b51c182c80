"""What a network's probability is worth: Platt's scaling, fitted where the network was chosen."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import expit, logit

from rvsm.atomic import atomic_text
from rvsm.errors import RvsmError
from rvsm.experiments.calibration import Platt, fit_platt, log_loss
from rvsm.experiments.config import TrainConfig
from rvsm.experiments.data import load_split
from rvsm.experiments.places import MODEL_FILE
from rvsm.handwriting.network import TremorNet

FILE = "calibration.json"
"""In a run folder: slope and offset of the log-odds of shaky, and what they were fitted on."""

_SPLIT = "val"


@dataclass(frozen=True)
class Calibration:
    """Turns the probability that a network gives into one that comes true as often as it says.

    Attributes
    ----------
    platt : Platt or None
        None where the run's validation images are not to be had; `why` says so then.
    why : str
    """

    platt: Platt | None
    why: str = ""

    def __call__(self, probability: float) -> float | None:
        """Calibrated probability of shaky, None where that is not known."""
        if self.platt is None:
            return None
        odds = logit(np.clip([probability], 1e-12, 1 - 1e-12))
        return float(expit(self.platt(odds))[0])


def write_calibration(
    run_dir: Path, probabilities: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]
) -> Platt:
    """Fit the scaling to a run's answers about its validation split and keep it in the run folder.

    Parameters
    ----------
    run_dir : Path
        With the model file.
    probabilities : ndarray of float, shape (n,)
        Of shaky, as the network gives them.
    labels : ndarray of int, shape (n,)
    """
    odds = logit(np.clip(probabilities, 1e-12, 1 - 1e-12))
    platt = fit_platt(odds, labels)
    told = {
        "slope": platt.slope,
        "offset": platt.offset,
        "split": _SPLIT,
        "images": len(labels),
        "log_loss_before": log_loss(odds, labels),
        "log_loss_after": log_loss(platt(odds), labels),
        "model": model_digest(run_dir),
    }
    atomic_text(run_dir / FILE, json.dumps(told, indent=2))
    return platt


def calibration_of(run_dir: Path, config: TrainConfig, net: TremorNet) -> Calibration:
    """The scaling of a run: as kept in its folder, else fitted now to its validation split.

    A run folder that cannot be written is left as it is. Of a run whose data are gone there is
    none, and `Calibration.why` says so.
    """
    found = _kept(run_dir)
    if found is not None:
        return Calibration(found)
    from rvsm.experiments.evaluate import evaluate_network

    try:
        split = load_split(Path(config.data), _SPLIT, net.size)
    except (RvsmError, OSError) as error:
        return Calibration(None, f"the run's validation images cannot be read ({error})")
    with torch.inference_mode():
        score = evaluate_network(net, split)
    try:
        return Calibration(write_calibration(run_dir, score.probabilities, score.labels))
    except RvsmError:
        odds = logit(np.clip(score.probabilities, 1e-12, 1 - 1e-12))
        return Calibration(fit_platt(odds, score.labels))


def _kept(run_dir: Path) -> Platt | None:
    try:
        told = json.loads((run_dir / FILE).read_text("utf-8"))
        slope, offset = float(told["slope"]), float(told["offset"])
        if told["model"] != model_digest(run_dir) or not np.isfinite([slope, offset]).all():
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # it is fitted again
    return Platt(slope, offset)


def model_digest(run_dir: Path) -> str:
    """Digest of a run's model file."""
    return hashlib.sha256((run_dir / MODEL_FILE).read_bytes()).hexdigest()[:16]
