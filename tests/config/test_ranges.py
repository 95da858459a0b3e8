"""Every option that is a number: what no work can need is refused as a recipe is read, in one short line."""

import os
import re
from typing import get_args, get_origin, get_type_hints

import pytest
from bounded import bounded

from ffdr.config import recipe
from ffdr.config.verbs import RECIPES, sections
from ffdr.util.errors import UserError

NEEDED = {
    "demo": [],
    "write": ["--write.source=digits", "--write.out=o"],
    "adopt": ["--adopt.file=f"],
    "reinforce": ["--reinforce.images=i", "--reinforce.out=o", "--teacher.models=m"],
    "import": ["--import.archive=a", "--import.images=i", "--import.out=o"],
    "export": ["--export.reinforced=r", "--export.images=i", "--export.out=o"],
    "pack": ["--pack.images=i", "--pack.reinforced=r", "--pack.out=o"],
    "split": ["--split.file=f", "--split.images=i"],
    "subset": ["--subset.file=f", "--subset.out=o", "--subset.indices=1"],
    "concat": ["--concat.files=a,b", "--concat.out=o"],
    "transcode": ["--transcode.file=f", "--transcode.out=o"],
    "inspect": ["--inspect.file=f"],
    "verify": ["--verify.file=f"],
    "train": ["--train.out=run", "--data.train=x", "--model.name=resnet18"],
    "eval": ["--eval.data=d", "--model.name=m"],
    "export-model": ["--export_model.out=o", "--export_model.checkpoint=m"],
    "bench": [],
    "ablate": ["--ablate.out=o"],
    "report": ["--report.file=f"],
}
"""The least that a verb asks for."""
GRID = {"ablate": [("ablate.axes", {"train.seed": [0]})]}
LARGE = ("1" + "0" * 18, "9" * 400, "9" * 5000, "0x" + "f" * 6000, "1e99", "1e400", "inf")
SILLY = (*LARGE, "nan", "-inf", "-1", "-1e18")
HARMLESS = {
    ("reinforce.seed", LARGE[0]): "every seed below 2**63 costs the same",
    ("train.seed", LARGE[0]): "every seed below 2**63 costs the same",
}


def numbers(verb):
    """(dotted key, how many numbers it takes) of all options that are numbers, or lists of them."""
    for section, options in sections(verb).items():
        for name, kind in get_type_hints(options).items():
            parts = get_args(kind) if get_origin(kind) is tuple else (kind,)
            if int in parts or float in parts:
                yield f"{section}.{name}", 3 if Ellipsis in parts else len(parts)


OPTIONS = [(verb, *option) for verb in RECIPES for option in numbers(verb)]


def parse(verb, *flags):
    return recipe.parse(verb, [*NEEDED[verb], *flags], GRID.get(verb, []))


@pytest.mark.parametrize("verb", RECIPES)
def test_the_least_is_enough(verb):
    parse(verb)


def test_there_are_numbers_to_try():
    assert len(OPTIONS) > 80 and {kind for _, _, kind in OPTIONS} == {1, 2, 3, 4}


@pytest.mark.parametrize(("verb", "key", "count"), OPTIONS)
def test_a_silly_number_is_refused_at_once(verb, key, count):
    for value in SILLY:
        if (key, value) in HARMLESS:
            parse(verb, f"--{key}={value}")
            continue
        with bounded(2), pytest.raises(UserError) as caught:
            parse(verb, f"--{key}={','.join([value] * count)}")
        line = str(caught.value)
        assert key in line and line.isprintable() and len(line) < 400


@pytest.mark.parametrize(("verb", "key", "count"), OPTIONS)
def test_what_is_no_number_is_refused(verb, key, count):
    for value in ("true", "ten", "1/2", "0b", "1__0", "--1", "½", "1e", "0x", "[1]", "x" * 10_000):
        with pytest.raises(UserError) as caught:
            parse(verb, f"--{key}={','.join([value] * count)}")
        line = str(caught.value)
        assert f"{key}: '{value[:5]}" in line and len(line) < 400
        _, such_as, example = line.rpartition(", such as ")
        if such_as:
            assert example in ("0.5,1.0", "0.4,0.4,0.4,0.1", "128,224")
            said = re.search(r"is not (\d+) numbers", line)
            assert not said or len(example.split(",")) == count == int(said[1])
        else:
            assert line.endswith(("is not an integer", "is not a number"))


@pytest.mark.parametrize(
    ("verb", "key"),
    [
        ("write", "write.workers"),
        ("transcode", "transcode.workers"),
        ("ablate", "ablate.jobs"),
        ("ablate", "ablate.threads"),
    ],
)
def test_processes_are_as_many_as_a_machine_bears(verb, key):
    most = max(64, 4 * os.cpu_count())
    parse(verb, f"--{key}={most}")
    with pytest.raises(UserError, match=f"{key}: {most + 1} is not between 0 and {most}"):
        parse(verb, f"--{key}={most + 1}")


def test_a_caller_in_python_gets_the_same_message():
    with pytest.raises(UserError, match=r"data\.mean: \[a number of 16,610 bits, 'x', 0\] is not numbers"):
        recipe.parse("train", NEEDED["train"], [("data.mean", [10**5000, "x", 0])])
    for value in (10**5000, -(10**5000), 10.0**300, float("nan")):
        for key in ("train.lr", "data.center", "policy.flip"):
            with pytest.raises(UserError, match=key):
                recipe.parse("train", NEEDED["train"], [(key, value)])
    for value in (10**5000, 2.0, True, [1]):
        with pytest.raises(UserError, match=r"train\.epochs"):
            recipe.parse("train", NEEDED["train"], [("train.epochs", value)])
