"""What the figures depend on: processor, system, versions, and how busy it was."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

from ..kernels.simd import host
from ..version import VERSION

__all__ = ["machine"]

LIBRARIES = ["numpy", "numba", "llvmlite", "onnx", "onnxruntime", "torch", "openvino", "tract"]


def machine() -> dict[str, str]:
    """Return what is known of this machine and its libraries."""
    target = host()
    found = {
        "CPU": f"{_cpu_name()}, {os.cpu_count()} cores",
        "kernels": f"{target.lanes} lanes, bytes by {target.bytes}",
        "OS": f"{_system_name()}, {platform.machine()}",
        "Python": platform.python_version(),
        "streamrnn": VERSION,
    }
    for library in LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            found[library] = "not installed"
    if hasattr(os, "getloadavg"):
        found["load before"] = f"{os.getloadavg()[0]:.2f}"
    return found


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _system_name() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return f"{platform.system()} {platform.release()}"
