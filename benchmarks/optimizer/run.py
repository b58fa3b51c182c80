"""What RVSM costs beside its base: time of a step as a ratio, and memory.

    python benchmarks/optimizer/run.py            # some ten minutes, much of it compiling
    python benchmarks/optimizer/run.py --eager
    python benchmarks/optimizer/run.py --device cuda

Both sides of every ratio take turns in one process of one thread, and what is reported is the
median of the ratios of turns. Times are those of the thread, so that other processes matter less;
on a GPU those of the clock until the device is done, and the kernels of a step are counted.
Writes results.json, or results-cuda.json, beside this script.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import rvsm
from rvsm.atomic import atomic_text
from rvsm.experiments.runs import environment
from rvsm.penalties import (
    L0,
    L1,
    MCP,
    SCAD,
    CappedL1,
    Elastic,
    L1MinusL2,
    LHalf,
    LogSum,
    Lp,
    LTwoThirds,
    Penalty,
    TransformedL1,
)

WITH_GOALS: dict[str, Penalty] = {
    "l0": L0(),
    "l1": L1(),
    "transformed-l1": TransformedL1(),
    "mcp": MCP(gamma=0.05),
}
"""Those that the step has goals for, compiled and eager."""
PENALTIES: dict[str, Penalty] = WITH_GOALS | {
    "scad": SCAD(knee=0.05),
    "capped-l1": CappedL1(theta=0.05),
    "log-sum": LogSum(eps=0.05),
    "l1/2": LHalf(),
    "l2/3": LTwoThirds(),
    "lp, p = 0.4": Lp(0.4),
    "l1 - l2": L1MinusL2(),
    "elastic l1": Elastic(L1(), ridge=0.1),
}
SIZE, BATCH = 2048, 128
STEPS_A_TURN = {"cpu": 1, "cuda": 20}


def large_layer(
    penalty: Penalty | None, device: str, *, compiled: bool = False, **strength: float
) -> Callable[[], None]:
    """Return a step on one linear layer whose gradient is there already."""
    model = nn.Linear(SIZE, SIZE, bias=False, device=device)
    model.weight.grad = torch.randn(SIZE, SIZE, device=device) * 1e-3
    base = torch.optim.SGD(model.named_parameters(), lr=1e-3, momentum=0.9)
    if penalty is None:
        return lambda: base.step()
    strength = strength or {"lam": 1e-6}
    optimizer = rvsm.RVSM(base, [rvsm.Rule("weight", penalty, beta=0.1, **strength)])
    if compiled:
        optimizer.compile()
    return lambda: optimizer.step()


def lenet() -> nn.Sequential:
    """Return the Caffe LeNet-5 of 430,500 weights."""
    return nn.Sequential(
        nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10),
    )  # fmt: skip


def training_step(rule: rvsm.Rule | None, device: str, **options: Any) -> Callable[[], None]:
    """Return a whole training step of LeNet-5: forward, backward and the optimizer's."""
    model = lenet().to(device)
    optimizer: torch.optim.Optimizer = torch.optim.SGD(
        model.named_parameters(), lr=0.01, momentum=0.9
    )
    if rule is not None:
        optimizer = rvsm.RVSM(optimizer, [rule], **options)
    images = torch.randn(BATCH, 1, 28, 28, device=device)
    labels = torch.randint(10, (BATCH,), device=device)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step


def seconds_of(step: Callable[[], None], device: str) -> float:
    """Return how long a step takes."""
    count = STEPS_A_TURN[device]
    if device == "cpu":
        start = time.thread_time()
        step()
        return time.thread_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(count):
        step()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / count


def kernels_of(step: Callable[[], None]) -> int:
    """Return how many kernels a step launches on a GPU."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        step()
        torch.cuda.synchronize()
    cuda = torch.autograd.DeviceType.CUDA
    return sum(event.device_type == cuda for event in profile.events())


def ratios(
    sides: dict[str, Callable[[], None]], turns: int, device: str
) -> dict[str, dict[str, Any]]:
    """Run all sides in turn; the first is what the others are compared with."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for name, step in sides.items():
        start = time.perf_counter()
        step()
        step()
        print(f"  {name}: first two steps {time.perf_counter() - start:.1f} s", flush=True)
    for _ in range(turns):
        for name, step in sides.items():
            times[name].append(seconds_of(step, device))
    base = next(iter(times.values()))
    found: dict[str, dict[str, Any]] = {}
    for name, own in times.items():
        ratio = sorted(a / b for a, b in zip(own, base, strict=True))
        found[name] = {
            "ratio": round(statistics.median(ratio), 3),
            "quartiles": [round(ratio[len(ratio) // 4], 3), round(ratio[-1 - len(ratio) // 4], 3)],
            "milliseconds": round(1e3 * statistics.median(own), 3),
        }
        if device == "cuda":
            found[name]["kernels"] = kernels_of(sides[name])
        print(f"  {name}: {found[name]}", flush=True)
    return found


def stored_bytes(**options: Any) -> int:
    """Return the bytes of tensors an RVSM holds after a step beyond those of its bare base."""

    def held(wrap: bool) -> int:
        model = lenet()
        optimizer: torch.optim.Optimizer = torch.optim.SGD(
            model.named_parameters(), lr=0.01, momentum=0.9
        )
        if wrap:
            rules = [rvsm.Rule("*.weight", L0(), sparsity=0.9, beta=0.1)]
            optimizer = rvsm.RVSM(optimizer, rules, **options)
        for _ in range(2):
            model(torch.randn(8, 1, 28, 28)).square().mean().backward()
            optimizer.step()
        state = optimizer.state.values()
        return sum(x.nbytes for own in state for x in own.values() if isinstance(x, Tensor))

    return held(True) - held(False)


def main(*, eager_only: bool, turns: int, device: str) -> None:
    """Measure everything and write results.json."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    results: dict[str, Any] = {"environment": environment(), "turns": turns}
    print(f"A step on {SIZE} x {SIZE} beside SGD with momentum:")
    sides = {"sgd": large_layer(None, device)}
    sides |= {name: large_layer(penalty, device) for name, penalty in PENALTIES.items()}
    if not eager_only:
        sides |= {
            f"{name} compiled": large_layer(penalty, device, compiled=True)
            for name, penalty in WITH_GOALS.items()
        }
    if device == "cuda":
        sides["l0, target"] = large_layer(L0(), device, sparsity=0.99)
    results["large_layer"] = ratios(sides, turns, device)
    print(f"A training step of LeNet-5 on {BATCH} images:")
    results["lenet5"] = ratios(
        {
            "sgd": training_step(None, device),
            "l0": training_step(rvsm.Rule("*.weight", L0(), lam=1e-4, beta=0.1), device),
            "l0, global target": training_step(
                rvsm.Rule("*.weight", L0(), sparsity=0.99, beta=0.1), device, budget="global"
            ),
        },
        turns,
        device,
    )
    weights = sum(p.numel() for n, p in lenet().named_parameters() if n.endswith("weight"))
    results["stored_bytes_per_weight"] = {
        "gradient at w": stored_bytes() / weights,
        "gradient at u": stored_bytes(grad_at="u") / weights,
    }
    print(results["stored_bytes_per_weight"])
    name = "results.json" if device == "cpu" else f"results-{device}.json"
    atomic_text(Path(__file__).with_name(name), json.dumps(results, indent=1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--eager", action="store_true", help="leave out what must be compiled")
    parser.add_argument("--turns", type=int, default=41)
    parser.add_argument("--device", choices=STEPS_A_TURN, default="cpu")
    chosen = parser.parse_args()
    main(eager_only=chosen.eager, turns=chosen.turns, device=chosen.device)
