"""Compare `rvsm.shrink` with the dependency graph of Torch-Pruning on the same zeroed networks.

OMP_NUM_THREADS=1 python benchmarks/shrink/run.py

Needs torch-pruning (1.6.1 was used). In each network half of the filters of every layer but the
last are zeroed, chosen at random. `dead`: with bias and batch norm of the channel, all of it zero.
`filters`: the filters alone, as a penalty on weights leaves them; batch norm and biases then give
the channel a constant. Torch-Pruning is asked to remove a channel where every filter that its
graph couples with it is zero, or the depthwise one among them. The differences are shares of the
largest output, taken in float64 against the network before, on 4 random inputs. Writes
results.json and prints the table of docs/shrink.md.
"""

from __future__ import annotations

import copy
import json
import platform
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import rvsm
from rvsm.atomic import atomic_write
from rvsm.deploy.network import Network
from rvsm.deploy.shrinking.account import layer_sizes
from rvsm.deploy.tracing import trace

ROOT = Path(__file__).parent.parent.parent
sys.path.append(str(ROOT / "tests"))
from networks import LeNet5, SmallResNet  # noqa: E402


def vgg() -> nn.Module:
    """Convolutions with batch norm and pooling between, two linear layers."""
    layers: list[nn.Module] = []
    widths = [3, 16, 16, 32, 32]
    for place in range(4):
        layers += [
            nn.Conv2d(widths[place], widths[place + 1], 3, padding=1),
            nn.BatchNorm2d(widths[place + 1]),
            nn.ReLU(),
        ]
        if place % 2:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10))


def mobile() -> nn.Module:
    """Depthwise and pointwise convolutions in turns."""
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)]
    for before, after, stride in ((16, 32, 1), (32, 48, 2), (48, 48, 1)):
        layers += [
            nn.ReLU6(),
            nn.Conv2d(before, before, 3, stride, 1, groups=before, bias=False),
            nn.BatchNorm2d(before),
            nn.ReLU6(),
            nn.Conv2d(before, after, 1, bias=False),
            nn.BatchNorm2d(after),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10))


class Dense(nn.Module):
    """Every layer reads the maps of all before it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(16 + 12 * i) for i in range(4))
        self.convs = nn.ModuleList(nn.Conv2d(16 + 12 * i, 12, 3, padding=1) for i in range(4))
        self.fc = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        maps = self.stem(images)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            maps = torch.cat([maps, conv(torch.relu(norm(maps)))], 1)
        return self.fc(maps.mean((2, 3)))


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "LeNet-5": (LeNet5, (1, 28, 28)),
    "residual": (lambda: SmallResNet(16), (3, 16, 16)),
    "VGG-like": (vgg, (3, 16, 16)),
    "depthwise": (mobile, (3, 16, 16)),
    "dense": (Dense, (3, 16, 16)),
}


def rows(model: nn.Module) -> dict[str, nn.Module]:
    """Return the layers with filters, the last, whose outputs are the answer, left out."""
    found = {n: m for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    return dict(list(found.items())[:-1])


@torch.no_grad()
def zeroed(name: str, kind: str) -> tuple[nn.Module, Tensor]:
    """Return a network in float64 with half of its filters zero, and inputs."""
    torch.manual_seed(0)
    make, shape = MODELS[name]
    model = make().double().eval()
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        for value in (norm.running_mean, norm.bias):
            value.normal_()
        for value in (norm.running_var, norm.weight):
            value.uniform_(0.5, 2)
    layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear, nn.BatchNorm2d))]
    for layer, after in zip(layers, [*layers[1:], None], strict=True):
        if layer not in rows(model).values():
            continue
        zero = torch.randperm(len(layer.weight))[: len(layer.weight) // 2]
        layer.weight[zero] = 0
        if kind == "dead":
            if layer.bias is not None:
                layer.bias[zero] = 0
            if isinstance(after, nn.BatchNorm2d) and len(after.bias) == len(layer.weight):
                after.bias[zero] = 0
                after.running_mean[zero] = 0
    return model, torch.randn(4, *shape, dtype=torch.float64)


def by_rvsm(model: nn.Module, inputs: Tensor) -> tuple[nn.Module, int]:
    """Shrink, and tell how many channels are gone."""
    small = rvsm.shrink(model, inputs)
    return small, rvsm.shrink_report(small).channels_removed


def by_torch_pruning(model: nn.Module, inputs: Tensor) -> tuple[nn.Module, int]:
    """Remove the channels all of whose coupled filters are zero, and tell how many."""
    import torch_pruning as tp

    model = copy.deepcopy(model)
    graph = tp.DependencyGraph().build_dependency(model, example_inputs=inputs[:1])
    before = sum(len(layer.weight) for layer in rows(model).values())
    answer = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]

    def is_dead(group: Any) -> bool:
        layers = {
            dep.target.module: list(places)
            for dep, places in group
            if isinstance(dep.target.module, (nn.Conv2d, nn.Linear))
            and graph.is_out_channel_pruning_fn(dep.handler)
        }
        # what passes a depthwise filter of zeros is dead, whatever the filters before it are
        last = {m: p for m, p in layers.items() if isinstance(m, nn.Conv2d) and m.groups > 1}
        return not any(bool((m.weight[p] != 0).any()) for m, p in (last or layers).items())

    for whole in graph.get_all_groups(
        ignored_layers=[answer], root_module_types=[nn.Conv2d, nn.Linear]
    ):
        layer, prune = whole[0].dep.target.module, whole[0].dep.handler
        dead = [
            place
            for place in range(len(layer.weight))
            if is_dead(graph.get_pruning_group(layer, prune, [place]))
        ]
        if dead:
            group = graph.get_pruning_group(layer, prune, dead)
            if graph.check_pruning_group(group):
                group.prune()
    return model, before - sum(len(layer.weight) for layer in rows(model).values())


def measure(shrink: Callable[..., tuple[nn.Module, int]], name: str, kind: str) -> dict[str, Any]:
    """Shrink one network one way."""
    model, inputs = zeroed(name, kind)
    start = time.perf_counter()
    try:
        small, channels = shrink(model, inputs)
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
    seconds = time.perf_counter() - start
    with torch.no_grad():
        wanted = model(inputs)
        try:
            got = small(inputs)
        except RuntimeError as error:
            return {"failed": f"cannot run any more: {str(error).splitlines()[0]}"}
    return {
        "channels": channels,
        "weights": sum(p.numel() for p in small.parameters()),
        "macs": count_macs(small, inputs[:1]),
        "difference": float((got - wanted).abs().max() / wanted.abs().max()),
        "seconds": round(seconds, 2),
    }


def count_macs(model: nn.Module, inputs: Tensor) -> int:
    """Count the multiply-adds of convolutions and linear layers for one input."""
    graph = (model if isinstance(model, Network) else trace(model, inputs)).graph
    return sum(layer.before.macs for layer in layer_sizes(graph, graph))


def table(found: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    lines = [
        "| network | zeros | by | channels gone | weights | MACs | largest difference |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in found["results"]:
        start = f"| {row['network']} | {row['zeros']} | {row['by']} | "
        if "failed" in row:
            lines.append(f"{start}{row['failed']} | | | |")
        else:
            lines.append(
                f"{start}{row['channels']} | {row['weights']:,} | {row['macs']:,} | "
                f"{row['difference']:.0e} |"
            )
    return "\n".join(lines)


def main() -> None:
    """Measure, write, print."""
    warnings.simplefilter("ignore")
    ways = {"rvsm": by_rvsm, "Torch-Pruning": by_torch_pruning}
    results = []
    for name in MODELS:
        for kind in ("dead", "filters"):
            model, inputs = zeroed(name, kind)
            whole = {
                "channels": 0,
                "weights": sum(p.numel() for p in model.parameters()),
                "macs": count_macs(model, inputs[:1]),
                "difference": 0.0,
            }
            results.append({"network": name, "zeros": kind, "by": "before", **whole})
            for by, way in ways.items():
                row = {"network": name, "zeros": kind, "by": by, **measure(way, name, kind)}
                results.append(row)
    found = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "results": results,
    }
    with atomic_write(Path(__file__).parent / "results.json") as stream:
        stream.write((json.dumps(found, indent=1) + "\n").encode())
    print(table(found))


if __name__ == "__main__":
    main()
