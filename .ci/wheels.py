"""Which packages a machine lacks that has PyTorch and what comes along with it, but no network; for ``run.sh wheels``.

    wheels.py           NAME==VERSION of each, ffdr first; what they require is read from the packages installed here
    wheels.py FOLDER    those without a wheel in FOLDER; what they require is read from the wheels there

Versions are those of constraints.txt.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
PRESENT = {
    *("torch", "torchvision", "timm", "huggingface-hub", "safetensors", "setuptools", "typing-extensions", "packaging"),
    *("numpy", "numba", "scipy", "scikit-learn", "scikit-image", "matplotlib", "pillow", "opencv-python"),
    *("pyyaml", "tqdm"),
    "psutil",  # ffcv asks for it and never imports it
}
"""What such a machine has; OpenCV may be there as opencv-python-headless, which pip takes for another package."""


def lacking(found: Iterable[Distribution]) -> list[str]:
    """Names of ffdr and all it requires, directly or not, that isn't PRESENT. found: whose requirements are known."""
    known = {canonicalize_name(each.metadata["Name"]): each.requires or [] for each in found}
    names = ["ffdr"]
    for name in names:  # it grows meanwhile
        for requirement in map(Requirement, known.get(name, [])):
            wanted = canonicalize_name(requirement.name)
            if _applies(requirement) and wanted not in PRESENT and wanted not in names:
                names.append(wanted)
    return names


def pins() -> dict[str, str]:
    """NAME==VERSION by normalised name, for the Python that runs this."""
    lines = (line.partition("#")[0].strip() for line in CONSTRAINTS.read_text().splitlines())
    pinned = [Requirement(line) for line in lines if line]
    return {canonicalize_name(pin.name): f"{pin.name}{pin.specifier}" for pin in pinned if _applies(pin)}


def _applies(requirement: Requirement) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": ""})


def main(folder: str = "") -> int:
    """Print the list; status 1 after one line if a version is unknown."""
    path = [str(wheel) for wheel in Path(folder).glob("*.whl")] if folder else sys.path
    found = list(distributions(path=path))
    versions = {canonicalize_name(each.metadata["Name"]): each.version for each in found}
    known = pins() | ({"ffdr": f"ffdr=={versions['ffdr']}"} if "ffdr" in versions else {})
    names = [name for name in lacking(found) if not folder or name not in versions]
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"wheels: {CONSTRAINTS.name} has no version of {', '.join(unknown)}", file=sys.stderr)
        return 1
    for name in names:
        print(known[name])
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
