"""A grid on the shared digits, and results made up for the tests of tables."""

from ffdr.ablate.cell import make_job
from ffdr.ablate.grid import Grid, fill_in
from ffdr.ablate.report import CellResult
from ffdr.config.ablation import AblateOptions

STUDENT = {
    "model.name": "test_efficientnet",
    "train.batch_size": 25,
    "train.resolution": 32,
    "train.warmup_epochs": 0,
    "train.lr": 0.01,
    "train.eval_every": 1000,
    "train.checkpoint_every": 4,
    "data.center": 1.0,
}


def grid_options(tmp_path, digits, reinforced, **changes):
    """ERM and DR, two budgets, two seeds, at one thread each so that nothing rounds differently."""
    options = {
        "out": str(tmp_path / "out"),
        "work": str(tmp_path / "work"),
        "settings": STUDENT | {"data.train": str(digits)},
        "axes": {
            "task": {"erm": {"train.task": "erm"}, "dr": {"train.task": "dr", "data.reinforced": str(reinforced)}},
            "train.epochs": [4, 12],
            "train.seed": [0, 1],
        },
        "compare": "" if "axes" in changes else "task=dr",
        "test": str(digits),
        "jobs": 1,
        "threads": 1,
    }
    return AblateOptions(**options | changes)


def made_up(tmp_path, scores, **changes):
    """A grid and one row a cell; scores: function of a cell's points → result, or None for a cell that failed."""
    grid = Grid.from_options(grid_options(tmp_path, "digits.beton", "digits+.beton", **changes))
    rows = []
    for number, cell in enumerate(grid.cells):
        result = scores(cell.points)
        rows.append(CellResult(cell, result, "" if result else "it broke", f"digest{number}"))
    return grid, rows


def jobs_of(options):
    grid = Grid.from_options(options)
    test = fill_in(options, options.test)
    return [make_job(cell.recipe, options.work, test, options.corruptions) for cell in grid.cells]
