"""The recipes in rcfg/, resolved for tests."""

from functools import cache
from pathlib import Path

import yaml

from ffdr.config import recipe

RCFG = Path(__file__).parents[2] / "rcfg"
FILES = sorted(file for file in RCFG.rglob("*.yaml") if file.parent.name != "ablate")  # grids: tests/ablate
RUNS = [file for file in FILES if "parts" not in file.parts]
VERBS = ("write", "reinforce", "train", "eval")
NEEDED = {
    "train": ["--train.out=run", "--data.train=i.beton"],
    "write": ["--write.path=here", "--write.out=i.beton"],
    "eval": ["--model.name=resnet50"],
    "reinforce": ["--reinforce.images=i.beton", "--reinforce.out=r.beton"],
}


def name(file):
    return str(file.relative_to(RCFG).with_suffix(""))


def bases(file):
    """The files that a recipe names as its base, read without ffdr."""
    found = yaml.safe_load(file.read_text()).get("base", [])
    return [(file.parent / base).resolve() for base in ([found] if isinstance(found, str) else found)]


def own(file):
    """(section.option → value) of the file itself."""
    content = yaml.safe_load(file.read_text())
    content.pop("base", None)
    return {f"{section}.{key}": value for section, options in content.items() for key, value in options.items()}


def merged(file):
    """(section.option → value) of the file and its bases, the later wins."""
    settings = {}
    for base in bases(file):
        settings |= merged(base)
    return settings | own(file)


def verb(file):
    sections = {key.partition(".")[0] for key in merged(file)}
    return next(verb for verb in VERBS if verb in sections)


@cache
def load(file, *flags):
    file = RCFG / f"{file}.yaml" if isinstance(file, str) else file
    settings = merged(file)
    needed = [flag for flag in NEEDED[verb(file)] if flag[2:].partition("=")[0] not in settings]
    if settings.get("train.task") == "kd" or (verb(file) == "reinforce" and "teacher.models" not in settings):
        needed.append("--teacher.models=resnet50:weights")
    return recipe.parse(verb(file), ["--config-file", str(file), *needed, *flags])
