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
from rvsm.deploy.compiler.source import LANES, Source, write
from rvsm.deploy.tracing import trace

BATCH = LANES + LANES // 4 + 2  # whole lanes, some lanes, single samples

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
    "any x86": ("gcc", ("-O2", *STRICT)),
    "threads": ("gcc", ("-O2", "-fopenmp", *STRICT)),
    "plain C": ("gcc", ("-O2", "-DRVSM_PLAIN", *STRICT)),
    "clang": ("clang", ("-O2", *STRICT)),
    "clang for AVX2": ("clang", ("-O2", "-mavx2", "-mfma", *STRICT)),
    "C++": ("g++", ("-O1",)),
}


@functools.cache
def source(name: str) -> Source:
    model, example = network(name)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter[torch.rand_like(parameter) < 0.8] = 0
    traced = trace(model, example)
    return write(lower(traced.graph, traced.state_dict()), name)


@functools.cache
def images_and_outputs(name: str) -> tuple[np.ndarray, np.ndarray]:
    torch.manual_seed(0)
    model, example = network(name)
    traced = source(name)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(BATCH, *example.shape[1:], generator=generator)
    assert traced.inputs == images[0].numel()
    raise NotImplementedError
