"""The C file by itself: any compiler, any target, sanitizers, and no Python in sight."""

from __future__ import annotations

import functools
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from networks import NETWORKS, network
from rvsm.deploy.compiler.lower import lower
from rvsm.deploy.compiler.source import FEWEST, LANES_OF_VECTORS, Source, write
from rvsm.deploy.tracing import trace

BATCH = LANES_OF_VECTORS + FEWEST + 2  # whole lanes, some lanes, single samples

MAIN = """
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
%(includes)s

static int one(const char *name, size_t inputs, size_t outputs, size_t bytes,
               void (*init)(void *),
               void (*run)(const float *, float *, size_t, void *, int), size_t n)
{
    char path[64];
    /* exactly as large as they must be, so that a sanitizer sees one float too many */
    float *in = malloc(n * inputs * sizeof(float)), *out = malloc(n * outputs * sizeof(float));
    char *workspaces = malloc(2 * bytes);
    memset(workspaces, 0xff, 2 * bytes);
    snprintf(path, sizeof path, "%%s.in", name);
    FILE *file = fopen(path, "rb");
    if (!file || fread(in, sizeof(float), n * inputs, file) != n * inputs) return 1;
    fclose(file);
    init(workspaces);
    init(workspaces + bytes);
    for (int round = 0; round < 2; round++) run(in, out, n, workspaces, 2);
    snprintf(path, sizeof path, "%%s.out", name);
    file = fopen(path, "wb");
    if (!file || fwrite(out, sizeof(float), n * outputs, file) != n * outputs) return 1;
    fclose(file);
    free(in);
    free(out);
    free(workspaces);
    return 0;
}

int main(void)
{
    int bad = 0;
%(calls)s
    return bad;
}
"""

STRICT = ("-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror")
SANITIZE = ("-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
TARGETS = {
    "sanitized": ("gcc", (*SANITIZE,)),
    "sanitized for AVX2": ("gcc", (*SANITIZE, "-mavx2", "-mfma")),
    "sanitized by clang": ("clang", (*SANITIZE, "-mavx2", "-mfma")),
    "any x86": ("gcc", ("-O2", *STRICT)),
    "threads": ("gcc", ("-O2", "-fopenmp", *STRICT)),
    "plain C": ("gcc", ("-O2", "-DRVSM_PLAIN", *STRICT)),
    "clang": ("clang", ("-O2", *STRICT)),
    "clang for AVX2": ("clang", ("-O2", "-mavx2", "-mfma", *STRICT)),
    "C++": ("g++", ("-O1",)),
    "ARM": ("aarch64-linux-gnu-gcc", ("-O2", "-static", *STRICT)),
}
RUN = {"ARM": ["qemu-aarch64-static"]}
"""What runs the programs of another processor."""


SLOW = ("sanitized for AVX2", "sanitized by clang", "clang for AVX2", "any x86")


@functools.cache
def case(name: str) -> tuple[Source, np.ndarray, np.ndarray]:
    """Return a pruned network as C, some inputs and what PyTorch makes of them."""
    model, example = network(name)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter[torch.rand(parameter.shape, generator=generator) < 0.8] = 0
        images = torch.randn(BATCH, *example.shape[1:], generator=generator)
        outputs = model(images).numpy()
    traced = trace(model, example)
    return write(lower(traced.graph, traced.state_dict()), name), images.numpy(), outputs


@pytest.mark.parametrize(
    "target",
    [
        pytest.param(target, marks=[pytest.mark.slow] if target in SLOW else [])
        for target in TARGETS
    ],
)
def test_the_file_compiles_and_computes(target: str, tmp_path: Path) -> None:
    compiler, flags = TARGETS[target]
    for needed in (compiler, *RUN.get(target, [])):
        if shutil.which(needed) is None:
            pytest.skip(f"{needed} is not installed")
    if "avx2" in str(flags) and "avx2" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this processor has no AVX2")
    includes, calls = [], []
    for name in NETWORKS:
        made, images, _ = case(name)
        (tmp_path / f"{name}.c").write_text(made.code)
        (tmp_path / f"{name}.h").write_text(made.header)
        images.tofile(tmp_path / f"{name}.in")
        upper = name.upper()
        includes.append(f'#include "{name}.h"')
        calls.append(
            f'    bad |= one("{name}", {upper}_INPUTS, {upper}_OUTPUTS, {upper}_WORKSPACE_BYTES, '
            f"{name}_init, {name}_run_parallel, {BATCH});"
        )
    main = tmp_path / "main.c"
    main.write_text(MAIN % {"includes": "\n".join(includes), "calls": "\n".join(calls)})
    objects = []
    for file in sorted(tmp_path.glob("*.c")):
        # a program in C++ may call what C compiled
        own = "gcc" if compiler == "g++" and file != main else compiler
        language = ["-x", "c++", "-fpermissive", "-w"] if compiler == "g++" and file == main else []
        objects.append(str(file.with_suffix(".o")))
        run([own, *flags, *language, "-c", str(file), "-o", objects[-1]], tmp_path)
    link = [compiler, *flags, *objects, "-o", "program", "-lm"]
    linked = subprocess.run(link, cwd=tmp_path, capture_output=True, text=True, check=False)
    if "-fsanitize" in str(flags) and "cannot find" in linked.stderr:
        pytest.skip(f"{compiler} has no sanitizers here")
    assert linked.returncode == 0, linked.stderr[:3000]
    run([*RUN.get(target, []), "./program"], tmp_path)
    for name in NETWORKS:
        _, _, outputs = case(name)
        got = np.fromfile(tmp_path / f"{name}.out", dtype=np.float32).reshape(outputs.shape)
        np.testing.assert_allclose(got, outputs, rtol=1e-4, atol=1e-5, err_msg=name)


def run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:3000]


def test_it_asks_nothing_of_the_system() -> None:
    made, _, _ = case("branches")
    assert "alloc" not in made.code.replace("no malloc", "")
    included = {line for line in made.code.splitlines() if line.startswith("#include")}
    assert included == {
        f"#include <{name}.h>"
        for name in ("math", "stddef", "stdint", "string", "immintrin", "omp")
    }
