"""Which wheels ``run.sh wheels`` builds, and what it refuses; nothing is built here."""

import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LACKING = ["assertpy", "fastargs", "ffcv", "ffdr", "pytorch-pfn-extras", "terminaltables"]


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
