"""What a number was measured on: goes beside every number in ``results/``."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

_LIBRARIES = ("ffcv", "torch", "torchvision", "timm", "numba", "numpy", "pillow", "scikit-image")
_OTHERS = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
    "triton",
    "nvidia-dali-cuda120",
    "spdl",
    "litdata",
)
"""Named where they are installed: OpenCV under any of its names, and what not every machine has."""
COMMIT = "FFDR_COMMIT"
"""Variable that names the commit of a copy that is not quite a checkout."""


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
        **{name: _installed(name) or "unknown" for name in _LIBRARIES},
        **{name: found for name in _OTHERS if (found := _installed(name))},
    }


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _commit() -> str:
    """What ``FFDR_COMMIT`` says; else the short hash of the checkout the package lies in, with ``+changes`` when files
    differ from it."""
    if os.environ.get(COMMIT):
        return os.environ[COMMIT]
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "--no-optional-locks", *arguments], cwd=folder, capture_output=True, text=True, check=True
        ).stdout

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
