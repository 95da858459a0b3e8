"""Grids: every ready one resolves to what it says; cells, their folders, and what is refused."""

from pathlib import Path

import pytest
from grids import STUDENT, grid_options, jobs_of

from ffdr.ablate.grid import Grid
from ffdr.config import recipe
from ffdr.config.files import SubsetOptions
from ffdr.util.errors import UserError
from ffdr.write.copy.subset import subset

ROOT = Path(__file__).parents[2]
READY = {
    "digits": (3 * 5 * 8, {"erm", "kd", "dr"}, {20, 40, 80, 160, 320}),
    "digits-views-per-decode": (2 * 3 * 8, {"erm", "dr"}, {24}),
    "fashionmnist-views-per-decode": (2 * 3 * 5, {"erm", "dr"}, {8}),
    "imagenet-views": (6 * 3, {"dr"}, {150}),
    "imagenet-topk": (4 * 3, {"dr"}, {150}),
    "imagenet-teacher": (4 * 3, {"dr"}, {150}),
    "imagenet-policy": (4 * 3, {"dr"}, {150}),
    "imagenet-budget": (4 * 2 * 3, {"erm", "dr"}, {150, 300, 1000}),
}
"""Cells, tasks, budgets."""


def ready(name, *flags):
    file = ROOT / "rcfg" / "ablate" / f"{name}.yaml"
    return Grid.from_options(recipe.parse("ablate", ["--config-file", str(file), *flags]))


def test_no_ready_grid_is_left_out():
    assert {file.stem for file in (ROOT / "rcfg" / "ablate").glob("*.yaml")} == set(READY)


@pytest.mark.parametrize("name", READY)
def test_every_ready_grid_resolves(name, monkeypatch):
    monkeypatch.chdir(ROOT)  # a grid names recipes as the command line does
    grid = ready(name, "--data=/imagenet")
    count, tasks, budgets = READY[name]
    assert len(grid.cells) == len({str(cell.recipe) for cell in grid.cells}) == count
    assert {cell.recipe.train.task for cell in grid.cells} == tasks
    assert {cell.recipe.train.epochs for cell in grid.cells} == budgets
    assert grid.compare[1] in grid.axes[grid.compare[0]]
    for cell in grid.cells:
        assert recipe.parse("train", [*cell.command.split()[2:], "--train.out=runs/x"]).data == cell.recipe.data
        assert "{" not in cell.command
        assert bool(cell.recipe.data.reinforced) == (cell.recipe.train.task == "dr")


def test_imagenet_studies_vary_what_they_are_named_for(monkeypatch):
    monkeypatch.chdir(ROOT)
    views = {(cell.cut.views, cell.cut.topk) for cell in ready("imagenet-views").cells}
    assert views == {(k, 0) for k in (10, 25, 50, 100, 200, 400)}
    assert {(cell.cut.views, cell.cut.topk) for cell in ready("imagenet-topk").cells} == {(0, k) for k in (1, 2, 5, 10)}
    for name, files in (("policy", ("rrc", "m", "rare", "mr")), ("teacher", ("32x8d", "32x16d", "32x32d", "ensemble"))):
        cells = ready(f"imagenet-{name}", "--data=/d").cells
        assert {cell.recipe.data.reinforced for cell in cells} == {f"/d/train+{file}.beton" for file in files}
    for cell in ready("imagenet-budget").cells:
        assert cell.recipe.model.name == cell.points["model"]
        assert cell.recipe.train.task == {"erm": "erm", "plus": "dr"}[cell.points["recipe"]]


def test_cells_come_in_order_and_the_later_axis_wins(tmp_path):
    options = grid_options(
        tmp_path, "i.beton", "r.beton", axes={"train.lr": [0.1, 0.2], "bold": {"no": {}, "yes": {"train.lr": 0.9}}}
    )
    grid = Grid.from_options(options)
    assert [(cell.recipe.train.lr, cell.name) for cell in grid.cells] == [
        (0.1, "lr=0.1 bold=no"),
        (0.9, "lr=0.1 bold=yes"),
        (0.2, "lr=0.2 bold=no"),
        (0.9, "lr=0.2 bold=yes"),
    ]


def test_values_and_labels_are_what_the_file_says(tmp_path):
    """Where YAML 1.1 would take on for true, 1e-3 for a text, 2024-01-01 for a date and 10 for a number."""
    file = tmp_path / "grid.yaml"
    file.write_text(
        """
        ablate:
          out: o
          settings: {data.train: x.beton, model.name: resnet18, train.epochs: 1_0}
          axes:
            on: {off: {}, 10: {train.lr: 1e-3}, 2024-01-01: {train.lr: 1E-2}}
            train.flip_average: [yes, no]
            train.weight_decay: [1e-4, 0.1]
          compare: on=off
        """
    )
    grid = Grid.from_options(recipe.parse("ablate", ["--config-file", str(file)]))
    assert list(grid.axes["on"]) == ["off", "10", "2024-01-01"] and grid.compare == ("on", "off")
    assert [cell.recipe.train.lr for cell in grid.cells[::4]] == [0.1, 0.001, 0.01]
    assert [cell.recipe.train.flip_average for cell in grid.cells[:4]] == [True, True, False, False]
    assert [cell.recipe.train.weight_decay for cell in grid.cells[:2]] == [1e-4, 0.1]
    assert {cell.recipe.train.epochs for cell in grid.cells} == {10}
    for axes, message in (
        ("{train.seed: [0, null]}", r"grid.yaml, line 1: ablate.axes.train.seed has no value \(null\)"),
        ("{task: {erm: }}", r"ablate.axes.task.erm has no value; give one, or leave it out"),
        ("{train.lr: 0.1}", "train.lr: give a list"),
    ):
        file.write_text(f"ablate: {{out: o, settings: {{data.train: x, model.name: resnet18}}, axes: {axes}}}")
        with pytest.raises(UserError, match=message):
            Grid.from_options(recipe.parse("ablate", ["--config-file", str(file)]))


def test_lists_may_hold_commas(tmp_path):
    models = ["resnet18:{work}/a.safetensors", "resnet34:b,c.safetensors"]
    settings = STUDENT | {"data.train": "i.beton", "train.task": "kd", "teacher.models": models}
    work = str(tmp_path / "x,y")
    options = grid_options(tmp_path, "i", "r", settings=settings, axes={"train.seed": [0]}, work=work)
    (cell,) = Grid.from_options(options).cells
    assert cell.recipe.teacher.models == (f"resnet18:{work}/a.safetensors", "resnet34:b,c.safetensors")
    (tmp_path / "x,y").mkdir()
    files = [tmp_path / "x,y" / "one.yaml", tmp_path / "two.yaml"]
    for file, text in zip(files, ("train: {lr: 0.3}", "train: {epochs: 7}"), strict=True):
        file.write_text(text)
    settings = STUDENT | {"data.train": "i.beton", "config-file": list(map(str, files))}
    settings.pop("train.lr")
    (cell,) = Grid.from_options(grid_options(tmp_path, "i", "r", settings=settings, axes={"train.seed": [0]})).cells
    assert (cell.recipe.train.lr, cell.recipe.train.epochs) == (0.3, 7)


def test_a_part_of_a_grid(tmp_path):
    only = ("train.epochs=12", "task=dr", "task=erm", "train.seed=1")
    cells = Grid.from_options(grid_options(tmp_path, "i.beton", "r.beton", only=only)).cells
    assert [cell.name for cell in cells] == ["task=erm epochs=12 seed=1", "task=dr epochs=12 seed=1"]


def test_a_folder_stands_for_the_recipe_and_what_its_files_hold(tmp_path, digits, reinforced_digits):
    options = grid_options(tmp_path, digits, reinforced_digits)
    first = jobs_of(options)
    assert len({job.folder for job in first}) == 8
    assert [job.folder for job in jobs_of(options)] == [job.folder for job in first]
    other = jobs_of(grid_options(tmp_path, digits, reinforced_digits, settings=options.settings | {"train.lr": 0.02}))
    assert not {job.folder for job in other} & {job.folder for job in first}
    fewer = tmp_path / "fewer.beton"
    subset(SubsetOptions(file=str(reinforced_digits), out=str(fewer), views=2), progress=False)
    moved = tmp_path / "moved.beton"
    moved.write_bytes(reinforced_digits.read_bytes())
    before = jobs_of(grid_options(tmp_path, digits, moved))
    moved.write_bytes(fewer.read_bytes())
    from ffdr.ablate import cell

    cell._views.cache_clear()
    after = jobs_of(grid_options(tmp_path, digits, moved))
    assert [a.folder == b.folder for a, b in zip(before, after, strict=True)] == [True] * 4 + [False] * 4


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"axes": {"train.epoch": [1]}}, r"train.epoch=1: .*unknown key train.epoch \(did you mean train.epochs"),
        ({"axes": {"train.epochs": [1, "many"]}}, "train.epochs=many: .*'many' is not an integer"),
        ({"axes": {"train.epochs": []}}, "train.epochs: give a list"),
        ({"axes": {"train.epochs": [1, 1]}}, "train.epochs: give a list of different"),
        ({"axes": {"train.lr": [0.1, "1e-1"]}}, "train.lr: give a list of different"),
        ({"axes": {"task": {"erm": "train"}}}, "task: give a list"),
        ({"axes": {"train.out": ["a"]}}, "train.out is settled by"),
        ({"axes": {"subset.views": [2]}}, "cut data.reinforced, which this run has not"),
        ({"compare": "task=erm+"}, "ablate.compare: task has no point 'erm[+]'; it has erm, dr"),
        ({"compare": "tusk=erm"}, r"no axis 'tusk' \(did you mean task"),
        ({"compare": "task"}, "'task' is not AXIS=POINT"),
        ({"only": ("train.seed=7",)}, "ablate.only: train.seed has no point '7'"),
        ({"corruptions": True, "test": ""}, "ablate.test"),
        ({"axes": {}}, "ablate.axes"),
        ({"settings": {**STUDENT}, "axes": {"train.seed": [0]}}, "data.train"),
    ],
)
def test_what_is_refused(tmp_path, changes, text):
    with pytest.raises(UserError, match=text):
        Grid.from_options(grid_options(tmp_path, "i.beton", "r.beton", **changes))


def test_an_exam_that_fits_no_run_is_told_before_training(tmp_path, digits, photos, reinforced_digits):
    with pytest.raises(UserError, match=r"ablate.test: the classes of .*photos"):
        jobs_of(grid_options(tmp_path, digits, reinforced_digits, test=str(photos)))
    with pytest.raises(UserError, match=r"ablate.test: name the images .* or validate"):
        jobs_of(grid_options(tmp_path, digits, reinforced_digits, test=""))


def test_a_missing_file_is_told_before_training(tmp_path, digits):
    with pytest.raises(UserError, match=r"nowhere\.beton: no such file"):
        jobs_of(grid_options(tmp_path, digits, tmp_path / "nowhere.beton"))
