"""Freed memory that is used again without asking the system for it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

SCRIPT = """
import ctypes, resource, sys
import torch
from rvsm.experiments.pages import keep_pages

ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # no huge pages: one fault would stand for 512

if sys.argv[1:]:
    keep_pages()
torch.set_num_threads(1)
for step in range(30):
    if step == 10:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    many = [torch.ones(5_000_000) for _ in range(5)]  # 20 MB each
    del many
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc is not glibc's")
def test_pages_are_kept_where_glibc_would_give_them_back():
    def faults(*words):
        command = [sys.executable, "-c", SCRIPT, *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=always)
        return int(done.stdout)

    # By itself glibc does so or not as the addresses happen to lie.
    always = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    given_back, kept = faults(), faults("keep")
    assert given_back > 20 * 5 * 4000  # all pages of all steps but some
    assert kept < given_back / 10
