"""Grids of strangers: none grows without end, names what is no file, or runs anything but verbs of ffdr."""

import json
import resource

import pytest
from bounded import bounded
from grids import STUDENT, grid_options, jobs_of

from ffdr.ablate import grid
from ffdr.ablate.grid import Grid, command_words, fill_in
from ffdr.ablate.prepare import _run_lines
from ffdr.cli import main
from ffdr.config import recipe
from ffdr.config.settings import Reading
from ffdr.util.errors import UserError

SETTINGS = STUDENT | {"data.train": "i.beton"}


def options_of(tmp_path, **changes):
    return grid_options(
        tmp_path, "i.beton", "r.beton", **({"settings": SETTINGS, "axes": {"train.seed": [0]}} | changes)
    )


def refused(options, message):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with bounded(5), pytest.raises(UserError, match=message) as told:
        Grid.from_options(options)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 128 << 10
    assert str(told.value).isprintable() and len(str(told.value)) < 800


@pytest.mark.parametrize(
    ("axes", "count"),
    [
        ({f"a{number}": [*range(100)] for number in range(10)}, "1" + "0" * 20),
        ({f"a{number}": ["x", "y"] for number in range(3000)}, "a number of 3,001 bits"),
        ({"train.seed": [*range(10_001)]}, "10001"),
    ],
)
def test_a_grid_of_too_many_runs_is_told_before_any_is_made(tmp_path, axes, count):
    refused(options_of(tmp_path, axes=axes), rf"^ablate.axes: {count} runs are more than 10,000; take fewer points, or")


def test_a_part_of_a_large_grid_may_be_run(tmp_path):
    axes = {f"a{number}": [*range(100)] for number in range(10)}
    cells = Grid.from_options(options_of(tmp_path, axes=axes, only=tuple(f"a{number}=7" for number in range(10)))).cells
    assert [cell.points for cell in cells] == [dict.fromkeys(axes, "7")]


def test_labels_that_name_each_other_do_not_grow(tmp_path):
    axes = {f"a{number}": [f"{{a{number + 1}}}" * 10] for number in range(30)}
    options = options_of(tmp_path, settings=SETTINGS | {"data.val": "{a0}"}, axes=axes)
    with bounded(5):
        (cell,) = Grid.from_options(options).cells
    assert cell.recipe.data.val == "{a1}" * 10
    axes = {"long": ["x" * 10_000]}
    refused(
        options_of(tmp_path, settings=SETTINGS | {"data.val": "{long}" * 1600}, axes=axes), "is more than 10,000 char"
    )


def test_a_text_is_filled_in_and_not_formatted(tmp_path):
    options = options_of(tmp_path, work="w{data}", data="d{work}")
    kept = r"{work.__class__} {data!r} {0} {} {{work} {work:>9} {axis} \1"
    assert fill_in(options, "{work}/{data}{seed}" + kept, {"seed": r"\g<1>"}) == (
        r"w{data}/d{work}\g<1>{work.__class__} {data!r} {0} {} {w{data} {work:>9} {axis} \1"
    )


def test_long_texts_do_not_add_up_over_many_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(grid, "_MOST_TEXT", 1 << 21)
    settings = SETTINGS | {"data.val": "y" * 9900}
    options = options_of(tmp_path, settings=settings, axes={"train.seed": [*range(10_000)]})
    refused(options, "recipes of all runs have more than 2,097,152 characters")


def test_recipes_that_runs_share_are_read_once(tmp_path, monkeypatch):
    (tmp_path / "base.yaml").write_text("train: {epochs: 3}")
    (tmp_path / "x.yaml").write_text("base: base.yaml")
    read = []
    inner = Reading.mapping
    monkeypatch.setattr(
        Reading, "mapping", lambda self, file, **how: read.append(file.name) or inner(self, file, **how)
    )
    settings = SETTINGS | {"config-file": str(tmp_path / "x.yaml")}
    cells = Grid.from_options(options_of(tmp_path, settings=settings, axes={"train.seed": [*range(20)]})).cells
    assert len(cells) == 20 and {cell.recipe.train.epochs for cell in cells} == {3}
    assert read == ["x.yaml", "base.yaml"]


@pytest.mark.parametrize(
    ("line", "changes"),
    [
        ("ablate --config-file self.yaml", {}),
        ("{data} --config-file self.yaml", {"data": "ablate"}),
        ("'abl''ate' -C self.yaml", {}),
        ("write --out='x", {}),
        (" ", {}),
        ("x" * 5000 + "'", {}),
    ],
)
def test_a_line_that_begins_a_study_or_is_none_is_not_prepared(tmp_path, line, changes):
    refused(
        options_of(tmp_path, prepare=("write --source=digits --out=x.beton", line), **changes),
        r"^ablate\.prepare: ['\"]",
    )


def test_what_is_prepared_is_words_for_ffdr_and_nothing_for_a_shell(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [
        "write --out=a; touch ran",
        "write --out=$(touch ran) | touch ran",
        "verify `touch ran` && touch ran > ran",
    ]
    given = []
    _run_lines(lambda words: given.append(words) or 0, lines, tmp_path / "prepared.json")
    assert given == [line.split() for line in lines]
    assert not (tmp_path / "ran").exists()


def test_folders_with_spaces_stay_one_word(tmp_path):
    line, work = "write  --path='{data}/a b' --out={work}/x.beton", str(tmp_path / "my study")
    options = options_of(tmp_path, prepare=(line,), data="my data", work=work)
    assert command_words(options, line) == ["write", "--path=my data/a b", f"--out={work}/x.beton"]


@pytest.mark.parametrize("content", ['{"a": 1}', "[1]", '["write \'x"]', "7", '[["write"]]'])
def test_a_record_of_preparations_that_is_none(tmp_path, content):
    record = tmp_path / "prepared.json"
    record.write_text(content)
    with pytest.raises(UserError, match=r"prepared.json: not the command lines that were run; remove it"):
        _run_lines(lambda words: 0, ["verify x"], record)


def test_a_recorded_line_is_known_by_its_words(tmp_path):
    record = tmp_path / "prepared.json"
    record.write_text(json.dumps(["verify  'x.beton'"]))
    given = []
    _run_lines(lambda words: given.append(words) or 0, ["verify x.beton", "verify 'a b'"], record)
    assert given == [["verify", "a b"]]


def test_a_line_of_a_recipe_may_be_broken(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text(
        "ablate:\n  out: o\n  prepare:\n    - |\n      write\n        --source=digits\n    - >\n      verify\n      x\n"
    )
    found = recipe.parse("ablate", ["-C", str(file)], [("ablate.axes", {"train.seed": [0]})])
    assert found.prepare == ("write\n  --source=digits\n", "verify x\n")
    file.write_text('ablate: {out: o, prepare: ["write \\e[2J"]}')
    with pytest.raises(UserError, match=r"ablate.prepare: \['write \\x1b\[2J'\] has control characters"):
        recipe.parse("ablate", ["-C", str(file)])


def test_weights_that_are_no_file_are_not_read_for_ever(tmp_path, digits):
    settings = STUDENT | {"data.train": str(digits), "model.checkpoint": "/dev/zero"}
    options = grid_options(tmp_path, digits, "", settings=settings, axes={"train.seed": [0]})
    with bounded(5), pytest.raises(UserError, match="/dev/zero: not a regular file"):
        jobs_of(options)


def test_names_of_a_grid_are_told_as_they_may_be_shown(tmp_path, capsys):
    file = tmp_path / "x.yaml"
    head = f"ablate:\n  out: {tmp_path}/o\n  settings: {{data.train: x, model.name: resnet18}}\n"
    for axes, flags, message in (
        (
            r'{"\e[2J": {a: {}}}',
            (),
            r"ablate.axes: {'\x1b[2J': {'a': {}}} has control characters, which no option takes",
        ),
        (f"{{? {'x' * 9000} : 1}}", (), f"ablate.axes: {'x' * 199}…: give a list of different values"),
        (f"{{a: [{'x' * 9000}]}}", ("--only=a=b",), f"ablate.only: a has no point 'b'; it has {'x' * 199}…"),
        (f"{{? {'x' * 9000} : [a]}}", ("--only=b=a",), f"ablate.only: there is no axis 'b'; it has {'x' * 199}…"),
        (f"{{train.lr: [{'x' * 9000}]}}", (), f"ablate, train.lr={'x' * 190}…: command line: train.lr: 'xxxx"),
    ):
        file.write_text(head + f"  axes: {axes}\n")
        assert main(["ablate", "-C", str(file), "--dry-run", *flags]) == 2
        line = capsys.readouterr().err.rstrip("\n")
        assert message in line and line.isprintable() and len(line) < 800
