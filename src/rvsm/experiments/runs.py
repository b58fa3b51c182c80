"""A run folder: what is in it, who may write there, and the network it holds."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from rvsm import load
from rvsm.errors import ConfigError, RunError
from rvsm.experiments.config import CONFIG_FILE, TrainConfig, load_config
from rvsm.experiments.data import seed_of
from rvsm.experiments.places import ENVIRONMENT_FILE, MODEL_FILE, PLACES, found_data
from rvsm.experiments.records import ResultFile
from rvsm.handwriting.description import whole_size
from rvsm.handwriting.network import TremorNet
from rvsm.jsonfiles import read_object
from rvsm.processor import processor_name

PROTOCOLS = {"test-paper": "paper", "test-unseen": "unseen"}
"""Which split of a data folder measures which protocol."""

_RESULT = {
    "task", "set", "method", "seed", "start", "epochs", "best_epoch", "seconds", "val_accuracy",
    "scores", "split_sizes", "zeros", "fc_zeros", "nonzeros", "weights",
}  # fmt: skip
_SCORE = {"images", "accuracy", "accuracy_one_view", "auc", "bands"}

TRAINING_FILE = "training.safetensors"
"""The chosen weights as they were trained, with the normalisation: where another run starts."""


def make_network(config: TrainConfig) -> TremorNet:
    """Build the network a configuration trains, its weights drawn from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(config.seed))
        shape, size = config.network, network_size(config)
        return TremorNet(shape.channels, shape.kernel, shape.pools, size, shape.dropout, shape.norm)


def network_size(config: TrainConfig) -> tuple[int, int]:
    """Return the rows and columns of the images that the network of a configuration reads.

    Not given, they are those of the run it starts from, whose weights fit no other, or else half
    those of the images of its data folder.
    """
    if config.network.size is not None:
        return config.network.size
    if config.start:
        return network_size(load_config(start_file(config.start).with_name(CONFIG_FILE)))
    height, width = whole_size(config.data)
    return height // 2, width // 2


def sized(config: TrainConfig, size: tuple[int, int]) -> TrainConfig:
    """Put a size in the configuration of the network."""
    return config.model_copy(update={"network": config.network.model_copy(update={"size": size})})


def load_run(run_dir: Path) -> tuple[TrainConfig, TremorNet]:
    """Read the network of a finished run, folded and in evaluation mode.

    The data folder of its configuration is the one found now (`places.found_data`).

    Raises
    ------
    RunError
        If the folder holds no finished run.
    """
    run_dir = Path(run_dir)
    for name in (CONFIG_FILE, MODEL_FILE):
        if not (run_dir / name).is_file():
            raise RunError(
                f"{run_dir} holds no finished run ({name} is missing); name the folder of a run, "
                "or finish it with `rvsm train`."
            )
    config = load_config(run_dir / CONFIG_FILE)
    net = make_network(config).folded()
    load_into(net, run_dir / MODEL_FILE)
    data = str(found_data(config.data, run_dir))
    return config.model_copy(update={"data": data}), net.eval()


def load_into(net: TremorNet, path: Path) -> None:
    """Load a model file into a network of the same shape.

    Raises
    ------
    RunError
        If the shapes differ, or a weight is infinite or no number.
    """
    state = load(path)
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        raise RunError(
            f"The weights of {path} do not fit the network of this configuration; give both the "
            "same [network] section."
        ) from error
    if (name := first_not_finite(state)) is not None:
        raise RunError(
            f"{name} in {path} holds weights that are infinite or no numbers: its training "
            "diverged; train again in a new folder with a smaller lr."
        )


def first_not_finite(state: Mapping[str, Tensor]) -> str | None:
    """Return the name of the first tensor with an entry that is no finite number, or None."""
    return next((name for name, value in state.items() if not value.isfinite().all()), None)


CHOSEN_BY = {
    "val-accuracy": "the epoch with the best validation accuracy",
    "val-loss": "the epoch with the lowest validation loss",
    "last": "the last epoch",
}
"""Which epoch's weights are the model, by the configuration's ``select``."""

SCORES = ("accuracy", "accuracy_one_view", "auc")
"""What of a split's scores is in the rows."""


def result_rows(
    result: dict[str, Any], run: str, origin: dict[str, Any] | None
) -> list[dict[str, Any]]:
    """Return the rows a run adds to ``results.json``: one per protocol its data can measure.

    Parameters
    ----------
    result
        The contents of the run's ``result.json``.
    run
        The run folder, relative to that of ``results.json``.
    origin
        What its images were made with; None where that is not known.
    """
    sizes = result["split_sizes"]
    kept = ("task", "set", "method", "seed", "start", "epochs", "best_epoch", "seconds")
    return [
        {
            **{name: result[name] for name in kept},
            "protocol": protocol,
            **{name: result["scores"][split][name] for name in SCORES},
            **{name: result[name] for name in ("fc_zeros", "zeros", "nonzeros", "weights")},
            "val_accuracy": result["val_accuracy"],
            "split_sizes": {"train": sizes["train"], "val": sizes["val"], "test": sizes[split]},
            "data": origin,
            "run": run,
        }
        for split, protocol in PROTOCOLS.items()
        if split in result["scores"]
    ]


def environment() -> dict[str, Any]:
    """Describe what the bits of a run depend on besides its configuration."""
    packages = {}
    for name in ("rvsm", "torch", "numpy", "lightning", "pillow", "scikit-learn", "safetensors"):
        with contextlib.suppress(PackageNotFoundError):
            packages[name] = version(name)
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": processor_name(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cpu_has_bf16": _cpu_has_bf16(),
        **({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}),
        "git_commit": _git_commit(),
        "packages": packages,
    }


def resolve(config: TrainConfig) -> TrainConfig:
    """Put in the place of ``precision = "auto"`` what suits this machine."""
    if config.precision != "auto":
        return config
    # A GPU waits for the next kernel anyway in a network this small: casts would be more of them.
    fast = config.accelerator == "cpu" and _cpu_has_bf16()
    return config.model_copy(update={"precision": "bf16-mixed" if fast else "32"})


def holds_run(run_dir: Path) -> bool:
    """Say whether a folder holds a finished epoch or more: what stopped before leaves no run."""
    return (run_dir / CONFIG_FILE).exists() and (
        (run_dir / "result.json").exists() or any(run_dir.glob("checkpoints/epoch-*.ckpt"))
    )


_WRITTEN = (
    "checkpoints", "tensorboard", CONFIG_FILE, ENVIRONMENT_FILE, "metrics.csv",
    MODEL_FILE, TRAINING_FILE, "calibration.json", "result.json", "skipped.csv",
    "test_predictions.csv",
)  # fmt: skip


def check_free(run_dir: Path) -> None:
    """Raise RunError where a run would overwrite files that no run wrote.

    A run leaves its lock in its folder, first of all and for good.
    """
    if holds_run(run_dir) or (run_dir / ".lock").exists():
        return
    if theirs := [name for name in _WRITTEN if (run_dir / name).exists()]:
        raise RunError(
            f"{run_dir} holds no run but has a {theirs[0]}, which a run would overwrite; name a "
            "new folder, or move that away."
        )


def read_result(run_dir: Path) -> dict[str, Any] | None:
    """Return the contents of a run's ``result.json``, or None where the run is not finished.

    Raises
    ------
    RunError
        If the file is damaged.
    """
    path = run_dir / "result.json"
    result: dict[str, Any] = {}
    try:
        result = read_object(path, ResultFile)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        cause = str(error)
    else:
        cause = "it holds no scores"
    if not result.keys() >= _RESULT or not all(
        score.keys() >= _SCORE for score in result["scores"].values()
    ):
        raise RunError(
            f"{path} is damaged ({cause}); delete that file and run the same command again: the "
            "checkpoints are kept, only the scores are measured anew."
        )
    return result


def check_same(config: TrainConfig, run_dir: Path, *, moved: bool = False) -> TrainConfig:
    """Return the resolved configuration of the run in a folder, if it is the given one.

    Folders are the same wherever their paths begin, and are returned as they are named now.

    Parameters
    ----------
    config
        What is asked for.
    run_dir
        Of the run.
    moved
        Whether the run may have been made in a study elsewhere, with its own data beside it: then
        ``data/pen-headline`` of one study is that of the other.

    Raises
    ------
    RunError
        If the folder holds a run with another configuration.
    """
    try:
        there = load_config(run_dir / CONFIG_FILE)
    except ConfigError as error:
        raise RunError(
            f"{run_dir} holds a run whose config.toml cannot be read ({error}); name a new folder."
        ) from error
    wanted = config
    # What was left open is what it became when the run began.
    if wanted.precision == "auto":
        wanted = wanted.model_copy(update={"precision": there.precision})
    if wanted.network.size is None:
        wanted = sized(wanted, network_size(there))
    found, asked = there.model_dump(), wanted.model_dump()
    different = [
        name
        for name in asked
        if found[name] != asked[name]
        and not (name in PLACES and _one_place(found[name], asked[name], name, moved))
    ]
    if different:
        raise RunError(
            f"{run_dir} holds a run with another configuration (different: "
            f"{', '.join(different)}); name a new folder for this one, or restore those values."
        )
    return there.model_copy(update={name: asked[name] for name in PLACES})


def _one_place(one: Any, other: Any, name: str, moved: bool) -> bool:
    if isinstance(one, tuple):
        pairs = zip(one, other, strict=False)
        return len(one) == len(other) and all(_one_place(*pair, name, moved) for pair in pairs)
    if not one or not other:
        return False
    if Path(one).resolve() == Path(other).resolve():
        return True
    return moved and Path(one).parts[-PLACES[name] :] == Path(other).parts[-PLACES[name] :]


def start_file(start: str) -> Path:
    """Return the weights a configuration starts from, not folded, or raise RunError."""
    path = Path(start) / TRAINING_FILE
    if not path.is_file():
        raise RunError(
            f"start names {start}, which holds no {TRAINING_FILE}; name the folder of a "
            "finished run."
        )
    return path


@contextlib.contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Keep a second process out of the folder; the system frees the lock of a killed one."""
    message = (
        f"Another process is training in {run_dir}: wait until it has ended, then run the same "
        "command again, or name another folder."
    )
    with (run_dir / ".lock").open("wb") as file, _exclusive(file, message):
        yield


def locked_file(stream: IO[bytes], name: Path) -> contextlib.AbstractContextManager[None]:
    """Keep a second process from writing an open file; `name` is what the user knows it as."""
    return _exclusive(
        stream, f"Another process is writing {name}: wait for it or name another file."
    )


@contextlib.contextmanager
def _exclusive(stream: IO[bytes], message: str) -> Iterator[None]:
    """Hold the lock of an open file, or raise RunError with `message` where another has it."""
    try:
        import fcntl
    except ImportError:  # Windows has no such locks
        yield
        return
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise RunError(message) from error
    yield


def _cpu_has_bf16() -> bool:
    """Say whether the CPU multiplies bfloat16 itself (AVX512-BF16 or AMX), not by emulation."""
    supported = (
        getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile")
    )
    return any(ask is not None and ask() for ask in supported)


def _git_commit() -> str | None:
    """Return the commit of the checkout this file is in, with ``+changes`` where it differs.

    None for an installed package, though its environment lie in somebody's repository.
    """
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
