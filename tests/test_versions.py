"""The versions that pyproject.toml admits are those that are pinned for the tests, at either end."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

ROOT = Path(__file__).parent.parent
PYTHONS = ("3.10", "3.11", "3.12")
UNTESTED = ("dali", "litdata", "spdl")
"""Extras that are measured beside ffdr and nothing else, and so are pinned nowhere."""
NEWEST_ONLY = ("lint", "trackio")
"""Extras that are pinned at the newest versions alone: tests don't need the one, and the other wants a newer
huggingface-hub than the lowest of timm's."""


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def admitted(*without):
    """Name → what pyproject.toml admits, for all that is required directly, but for the extras ``without``."""
    without = {*UNTESTED, *without}
    extras = {name: lines for name, lines in project()["optional-dependencies"].items() if name not in without}
    lines = [*project()["dependencies"], *(line for lines in extras.values() for line in lines)]
    return {canonicalize_name(line.name): line.specifier for line in map(Requirement, lines)}


def pinned(file, python):
    """Name → version on that Python; each is pinned to one, once."""
    lines = [line.partition("#")[0].strip() for line in (ROOT / file).read_text().splitlines()]
    pins = [Requirement(line) for line in lines if line]
    pins = [pin for pin in pins if pin.marker is None or pin.marker.evaluate({"python_version": python})]
    assert all(re.fullmatch(r"==[^*,]+", str(pin.specifier)) for pin in pins)
    names = [canonicalize_name(pin.name) for pin in pins]
    assert len(set(names)) == len(names)
    return {name: Version(str(pin.specifier)[2:]) for name, pin in zip(names, pins, strict=True)}


def test_the_lowest_versions_are_the_bounds():
    bounds = {}
    for name, specifier in admitted(*NEWEST_ONLY).items():
        (bound,) = [Version(each.version) for each in specifier if each.operator == ">="]
        bounds[name] = bound
    pins = pinned("constraints-lowest.txt", PYTHONS[0])
    assert {name: pins[name] for name in bounds} == bounds
    assert project()["requires-python"] == f">={PYTHONS[0]}"


@pytest.mark.parametrize("python", PYTHONS)
def test_the_tested_versions_are_admitted(python):
    pins = pinned("constraints.txt", python)
    assert [name for name, specifier in admitted().items() if not specifier.contains(pins[name])] == []


PYTHON_3_12 = f"""#!{sys.executable}
import sys
sys.version_info = (3, 12, 1, "final", 0)
code, sys.argv[:3] = sys.argv[2], ["-c"]
exec(code)
"""


def test_the_lowest_versions_want_their_python(tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("bash", "dirname", "realpath"):
        (tools / tool).symlink_to(shutil.which(tool))
    (tools / "python3.12").write_text(PYTHON_3_12)
    (tools / "python3.12").chmod(0o755)
    environment = {"PATH": str(tools), "FFDR_VENV": str(tmp_path / "venv")}
    command = [ROOT / "run.sh", "test", "--lowest"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    message = "run.sh: no Python 3.10 found; install one, or name it in FFDR_PYTHON\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", message)
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]
