"""What a figure was measured on: goes beside every number in ``results/``."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

_LIBRARIES = ("ffcv", "torch", "torchvision", "timm", "numba", "numpy", "pillow", "opencv-python", "scikit-image")
_PEERS = ("nvidia-dali-cuda120",)
"""Named where they are installed."""


def environment() -> dict[str, str]:
    """Command, commit, date, hardware and versions, ready for JSON."""
    return {
        "command": " ".join(["ffdr", *sys.argv[1:]]),
        "commit": _commit(),
        "date": date.today().isoformat(),
        "cpu": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "python": platform.python_version(),
        **{name: version(name) for name in _LIBRARIES},
        **{name: found for name in _PEERS if (found := _installed(name))},
    }


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _commit() -> str:
    """Short hash of the checkout the package lies in, with ``+changes`` when files differ from it."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout

    try:
        return git("rev-parse", "--short", "HEAD").strip() + (
            "+changes" if git("status", "--porcelain", "-uno") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return "not a checkout"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
