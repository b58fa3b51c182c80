"""Measure whole networks in every runtime, on one thread and on two.

python benchmarks/inference/networks.py [--again] [--only WORD] [--run NAME=FOLDER] [--seconds 1]
python benchmarks/inference/networks.py --table

Writes networks.json beside this file, one network after the other; networks that are there are
kept unless --again is given. --run adds a network that `rvsm train` or `rvsm reproduce` made, or a
file of one; train.py makes two for those of LeNet-5 with zeros at random places.
Beside them are the machine's limits in billions of multiply-adds a second, for the useful
multiply-adds of the rows, and what the compiler took for each network. --table prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from kernels import limits
from models import CASES
from torch import Tensor, nn

from rvsm.atomic import atomic_write
from rvsm.cli.models import network_and_example
from rvsm.deploy.bench import bench
from rvsm.deploy.compiler.runtime import compile

RESULTS = Path(__file__).with_name("networks.json")


def measure(model: nn.Module, example: Tensor, seconds: float) -> dict[str, Any]:
    """Return what `bench` tells, and what the compiler took."""
    start = time.perf_counter()
    compiled = compile(model, example)
    took = time.perf_counter() - start
    found = bench(
        model,
        example,
        seconds=seconds,
        progress=lambda done, total: print(f"\r{done}/{total} ", end="", file=sys.stderr),
    )
    print(f"\n{found}")
    assert compiled.source is not None
    return found.to_dict() | {
        "compiler": {"seconds": round(took, 1), "c_bytes": len(compiled.source.code.encode())}
    }


def table(report: dict[str, Any]) -> str:
    """Return Markdown: a row for each network, threads and batch."""
    names = ("torch", "torch.compile", "torch-csr", "onnxruntime", "openvino", "rvsm")
    lines = [
        f"| network | threads | batch | {' | '.join(f'{n}, ms' for n in names)} | x dense | "
        "x 1 thread | useful GMAC/s |",
        "|---" * (6 + len(names)) + "|",
    ]
    for network, found in report["networks"].items():
        for threads, batch in dict.fromkeys((r["threads"], r["batch"]) for r in found["rows"]):
            rows = {
                row["runtime"]: row
                for row in found["rows"]
                if (row["threads"], row["batch"]) == (threads, batch)
            }
            cells = [_cell(rows.get(name, {}).get("ms"), ".3g") for name in names]
            ours = rows.get("rvsm", {})
            cells.append(_cell(ours.get("ratio"), ".1f"))
            cells.append(_cell(ours.get("scaling"), ".2f"))
            cells.append(_cell(ours.get("useful_gmacs"), ".1f"))
            lines.append(f"| {network} | {threads} | {batch} | {' | '.join(cells)} |")
    lines += ["", "| network | zeros | dense safetensors, bytes | rvsm | smaller | torch CSR | "]
    lines[-1] += "library | peak MB at batch 64: onnxruntime | openvino | rvsm | compiled in, s |"
    lines.append("|---" * 11 + "|")
    for network, found in report["networks"].items():
        sizes, memory = found["sizes"], found["memory"]
        zeros = 1 - found["nonzeros"] / found["weights"]
        peaks = [
            _cell(memory.get(name, {}).get("64", 0) / 1e6, ".1f")
            for name in ("onnxruntime", "openvino", "rvsm")
        ]
        cells = [
            f"{zeros:.2%}",
            f"{sizes['safetensors']:,}",
            f"{sizes['rvsm']:,}",
            f"{sizes['safetensors'] / sizes['rvsm']:.1f}x",
            _cell(sizes.get("torch-csr"), ",d"),
            _cell(sizes.get("rvsm library"), ",d"),
            *peaks,
            f"{found['compiler']['seconds']:.0f}",
        ]
        lines.append(f"| {network} | {' | '.join(cells)} |")
    bounds = ", ".join(f"{key} {value}" for key, value in report["limits_gmacs"].items())
    machine = next(iter(report["networks"].values()))["machine"]
    lines += ["", f"{machine['processor']}, {machine['instructions']}, {machine['cores']} cores."]
    lines.append(f"One thread's limits in billions of multiply-adds a second: {bounds}.")
    busy = [found["machine"]["load"] for found in report["networks"].values()]
    lines.append(f"Load while measuring: {min(busy):.1f} to {max(busy):.1f}.")
    return "\n".join(lines)


def _cell(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _read() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    return found


def main() -> None:
    """Measure what is missing, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--again", action="store_true", help="measure networks that are there, too")
    parser.add_argument("--only", default="", help="networks whose name has this in it")
    parser.add_argument("--run", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each row")
    parser.add_argument("--table", action="store_true", help="print Markdown of what was measured")
    options = parser.parse_args()
    report = _read()
    if options.table:
        print(table(report))
        return
    torch.set_num_threads(1)
    makers = {name: case.build for name, case in CASES.items()}
    for text in options.run:
        name, _, folder = text.partition("=")
        makers[name] = lambda folder=folder: network_and_example(Path(folder))  # type: ignore[misc]
    networks = report.get("networks", {})
    for name, make in makers.items():
        if options.only not in name or (name in networks and not options.again):
            continue
        print(name)
        model, example = make()
        found = measure(model, example, options.seconds)
        # read again: another process may have measured other networks meanwhile
        report = _read()
        report["limits_gmacs"] = limits(["-march=native"])
        report.setdefault("networks", {})[name] = found
        with atomic_write(RESULTS) as file:
            file.write((json.dumps(report, indent=2) + "\n").encode())


if __name__ == "__main__":
    main()
