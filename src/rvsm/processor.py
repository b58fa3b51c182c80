"""What the system tells of the processor."""

from __future__ import annotations

import platform
from pathlib import Path


def processor_facts() -> dict[str, str]:
    """Return what /proc/cpuinfo says of one core, by its own words; nothing where there is none."""
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return {}
    lines = (line.partition(":") for line in text.splitlines())
    return {key.strip(): value.strip() for key, _, value in lines}


def processor_name() -> str:
    """Return the name of the processor, or of its kind."""
    return processor_facts().get("model name") or platform.processor() or platform.machine()
