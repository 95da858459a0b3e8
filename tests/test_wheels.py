"""Which wheels ``run.sh wheels`` builds, and refuses; what a wheel of ffdr holds, and that it works elsewhere."""

import os
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.version import Version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

ROOT = Path(__file__).parent.parent
LACKING = ["assertpy", "fastargs", "ffcv", "ffdr", "pytorch-pfn-extras", "terminaltables"]
BUILT_FROM = ("pyproject.toml", "README.md", "LICENSE", "ffdr", "rcfg", "results/reference")
"""What run.sh copies to build a wheel of."""
needs_setuptools = pytest.mark.skipif(
    Version(metadata.version("setuptools")) < Version("77"), reason="pyproject.toml asks for setuptools 77 to build"
)


def pinned(*names):
    """The pins of constraints.txt, which may be others than what is installed; of ffdr the version that is."""
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line)
    pins["ffdr"] = metadata.version("ffdr")
    return [f"{name}=={pins[name]}" for name in names]


def listed(*folder):
    done = subprocess.run([sys.executable, ".ci/wheels.py", *folder], cwd=ROOT, capture_output=True, text=True)
    return done.returncode, done.stdout.splitlines(), done.stderr


def put_wheel(folder, name, *requirements):
    """A wheel with nothing but its metadata."""
    lines = ["Metadata-Version: 2.1", f"Name: {name}", "Version: 7.1", *(f"Requires-Dist: {r}" for r in requirements)]
    stem = f"{name.replace('-', '_')}-7.1"
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{stem}.dist-info/METADATA", "\n".join(lines) + "\n")


def test_the_list_is_what_a_machine_with_pytorch_lacks():
    status, found, _ = listed()
    assert status == 0 and found[0].startswith("ffdr==")
    assert sorted(found) == pinned(*LACKING)


def test_a_wheel_has_every_package():
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "ffdr").rglob("__init__.py")}
    assert sorted(packages) == sorted(found | {"ffdr.rcfg", "ffdr.reference"})


def test_a_folder_of_wheels_is_asked_for_what_they_require(tmp_path):
    put_wheel(tmp_path, "ffdr", "ffcv>=1", "torch", "FastArgs", "pytest; extra == 'dev'", "toml; python_version < '3'")
    assert listed(str(tmp_path)) == (0, pinned("ffcv", "fastargs"), "")
    put_wheel(tmp_path, "ffcv", "fastargs", "pytorch_pfn_extras", "opencv-python")
    put_wheel(tmp_path, "fastargs")
    assert listed(str(tmp_path)) == (0, pinned("pytorch-pfn-extras"), "")
    put_wheel(tmp_path, "pytorch-pfn-extras", "numpy")
    assert listed(str(tmp_path)) == (0, [], "")


def test_a_package_without_a_version_is_one_line(tmp_path):
    put_wheel(tmp_path, "ffdr", "nobody-pinned-this")
    assert listed(str(tmp_path)) == (1, [], "wheels: constraints.txt has no version of nobody-pinned-this\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a folder for the wheels, or --list"),
        (["--lits"], "name a folder for the wheels, or --list"),
        (["house", "false"], "false is no Python between 3.10 and 3.12"),
        (["house", "python3", "more"], "more is one too many; a folder and an interpreter are all that it takes"),
        (["file/house"], "can't write to {}/file/house"),
    ],
)
def test_what_cannot_be_built_is_one_line(tmp_path, arguments, message):
    (tmp_path / "file").touch()
    done = subprocess.run([ROOT / "run.sh", "wheels", *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"run.sh: wheels: {message.format(tmp_path)}\n")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder that a wheel of this tree unpacks to, beside nothing else of it."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    leftovers = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in BUILT_FROM:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name, **({"ignore": leftovers} if copy is shutil.copytree else {}))
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", folder, source]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("ffdr-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def ffdr(installed, cwd, *words):
    environment = os.environ | {"PYTHONPATH": str(installed)}
    command = [sys.executable, "-m", "ffdr", *words]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


@needs_setuptools
def test_a_wheel_carries_all_recipes_and_reference_tables(installed):
    for folder, within in (("rcfg", "rcfg"), ("results/reference", "reference")):
        ours = {
            path.relative_to(ROOT / folder) for path in (ROOT / folder).rglob("*") if path.suffix in (".yaml", ".csv")
        }
        found = {path.relative_to(installed / "ffdr" / within) for path in (installed / "ffdr" / within).rglob("*.*")}
        assert found == ours and ours


@needs_setuptools
def test_a_wheel_holds_every_module(installed):
    ours, found = ({path.relative_to(top) for path in (top / "ffdr").rglob("*.py")} for top in (ROOT, installed))
    assert found == ours
    assert (installed / "ffdr" / "py.typed").is_file()  # else type checkers would not look at it


@needs_setuptools
def test_an_installed_ffdr_trains_and_reports_by_the_names_of_recipes(installed, tmp_path):
    done = ffdr(installed, tmp_path, "train", "--config-file", "digits/erm", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "out: runs/digits-erm" in done.stdout and "runs/demo/small.beton is not there" in done.stdout
    (tmp_path / "mine.yaml").write_text("base: digits/kd\nteacher: {models: resnet50}\ntrain: {out: here}\n")
    done = ffdr(installed, tmp_path, "train", "--config-file=mine.yaml", "--dry-run")
    assert done.returncode == 0 and "task: kd" in done.stdout, done.stderr
    done = ffdr(installed, tmp_path, "ablate", "--config-file", "ablate/digits", "--dry-run")
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 120, done.stderr
    (tmp_path / "report.json").write_text('{"model": "resnet50", "top1": 0.8}')
    done = ffdr(installed, tmp_path, "report", "report.json")
    assert done.returncode == 0 and "| apple/ml-dr | dr | ImageNet+ | 300 |" in done.stdout, done.stderr
