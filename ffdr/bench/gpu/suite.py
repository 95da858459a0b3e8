"""The tests that need a GPU, run while models compile and nothing is timed.

``python -m ffdr.bench.gpu.suite FILE …`` runs each test in a process of its own, a few at a time: one that breaks the
GPU's context breaks no other, and each one's outcome is there as soon as it has ended.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

import ffdr
from ffdr.bench.gpu.pool import Process
from ffdr.bench.gpu.site import Row

_MARK = re.compile(r"mark\.gpu\b")
_AT_ONCE = 6
_SECONDS = 240.0
"""After which a test has failed; it stands still while something is measured."""
_AFTER = "FFDR_TESTS_AFTER"
_PYTEST = (sys.executable, "-m", "pytest", "-m", "gpu", "--tb=short", "-p", "no:cacheprovider")


def test_files() -> list[Path]:
    """Those beside the package in which something needs a GPU; none where only the package is installed."""
    folder = root() / "tests"
    files = sorted(folder.rglob("test_*.py")) if folder.is_dir() else []
    return [file for file in files if _MARK.search(file.read_text())]


def root() -> Path:
    """Folder of the checkout."""
    return Path(ffdr.__file__).resolve().parent.parent


def start(files: list[Path], log: Path, env: dict[str, str], after: Path | None = None) -> Process:
    """All tests of the files that need a GPU, in the background.

    after: a file to wait for, which shows that Numba's kernels are compiled; each test would compile them, too.
    """
    env = env | ({_AFTER: str(after)} if after else {})
    return Process(["-m", "ffdr.bench.gpu.suite", *map(str, files)], log, env, nice=5, cwd=root())


def outcome(log: str, status: int | None) -> Row:
    """How many tests passed, failed or were skipped, and the log where not all passed. status: None: it was cut off."""
    words = re.findall(r"^(passed|failed|skipped) ", log, re.MULTILINE)
    row: Row = {"name": "pytest -m gpu", "status": status, **{word: words.count(word) for word in set(words)}}
    if status != 0:
        row["log"] = log[-20000:]
    if status is None:
        row["failed_tests"] = "cut off"
    return row


def main(files: list[str]) -> int:
    """Run them; a line per test, and what a failed one printed."""
    gpu = torch.cuda.is_available()
    while gpu and _AFTER in os.environ and not Path(os.environ[_AFTER]).exists():
        time.sleep(0.2)
    listed = subprocess.run([*_PYTEST, "--collect-only", *files], capture_output=True, text=True).stdout
    names = sorted((line for line in listed.splitlines() if "::" in line), reverse=True)  # test_gpu's own first
    if not names:
        print(listed)
        return 1
    if not gpu:
        print("\n".join(f"skipped {name}, no GPU" for name in names))
        return 0
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        return 1 if "failed" in list(threads.map(_run, names)) else 0


def _run(name: str) -> str:
    begun = time.monotonic()
    try:
        done = subprocess.run([*_PYTEST, name], capture_output=True, text=True, timeout=_SECONDS)
        text, failed = done.stdout, done.returncode != 0
    except subprocess.TimeoutExpired as error:
        text, failed = f"not done in {error.timeout:.0f} s", True
    word = "failed" if failed else "skipped" if "skipped" in text and "passed" not in text else "passed"
    shown = "\n" + "\n".join(text.strip().splitlines()[-25:]) if failed else ""
    print(f"{word} {name}, {time.monotonic() - begun:.0f} s{shown}", flush=True)
    return word


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
