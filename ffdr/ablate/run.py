"""``ffdr ablate``: from a grid to tables and plots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from ffdr.ablate.cell import Job, make_job, run_job
from ffdr.ablate.grid import Cell, Grid, fill_in
from ffdr.ablate.live_table import LiveTable
from ffdr.ablate.plot import plot_study
from ffdr.ablate.prepare import CommandLine, prepare
from ffdr.ablate.report import CellResult, settings_texts, write_csv, write_summary, write_table
from ffdr.ablate.workers import Outcome, Workers
from ffdr.config.ablation import AblateOptions
from ffdr.models.build import check_model
from ffdr.util.atomic import atomic_write
from ffdr.util.text import command, say


def run_ablation(options: AblateOptions, command_line: CommandLine) -> int:
    """Run what is not finished yet, and write results.csv, table.md, summary.json and plots to ``ablate.out``.

    command_line: what runs the lines of ``ablate.prepare``.

    Returns:
        The exit status: 1 if a run failed, else 0.

    Raises:
        UserError: a grid that can't be run, before anything is trained.
        Stopped: Ctrl-C or SIGTERM; runs that were at work have saved a checkpoint, from which the next call goes on.
    """
    grid = Grid.from_options(options)
    for model in {cell.recipe.model for cell in grid.cells}:
        check_model(model)
    if options.dry_run:
        say("\n".join(cell.command for cell in grid.cells))
        return 0
    options = replace(options, test=fill_in(options, options.test))
    work, out = Path(options.work), Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    prepare(options, grid, command_line)
    jobs = [make_job(cell.recipe, work, options.test, options.corruptions) for cell in grid.cells]
    workers = Workers(options.jobs, options.threads)
    outcomes = run_jobs(grid.cells, jobs, workers)
    rows = [_row(*ended) for ended in zip(grid.cells, jobs, outcomes, strict=True)]
    write_results(out, options, grid, rows, workers)
    return 1 if any(row.result is None for row in rows) else 0


def run_jobs(cells: Sequence[Cell], jobs: Sequence[Job], workers: Workers) -> list[Outcome]:
    """The outcome of each, in order; those that are finished are not run again."""
    outcomes = {number: Outcome(result) for number, job in enumerate(jobs) if (result := job.result()) is not None}
    todo = [number for number in range(len(jobs)) if number not in outcomes]
    table = LiveTable([cells[n] for n in todo], [jobs[n] for n in todo], len(outcomes), min(workers.jobs, len(todo)))
    try:
        fresh = workers.run([partial(run_job, jobs[number]) for number in todo], table)
    finally:
        table.close()
    outcomes |= dict(zip(todo, fresh, strict=True))
    return [outcomes[number] for number in range(len(jobs))]


def _row(cell: Cell, job: Job, outcome: Outcome) -> CellResult:
    """A failure that is not the user's leaves its traceback in the cell's folder."""
    error = outcome.error
    if outcome.trace:
        atomic_write(job.folder / "error.txt", outcome.trace)
        error = f"{error} (see {job.folder / 'error.txt'})"
    return CellResult(cell, outcome.value, error, job.folder.name)


def write_results(out: Path, options: AblateOptions, grid: Grid, rows: Sequence[CellResult], workers: Workers) -> None:
    """Everything that ``ablate.out`` holds; prints the table."""
    title, setting = f"Study: {out.name}", _setting(options, grid, rows, workers)
    write_csv(out / "results.csv", rows)
    write_table(out / "table.md", grid, rows, title, setting)
    write_summary(out / "summary.json", grid, rows, title, setting)
    pictures = plot_study(out, grid, rows)
    say((out / "table.md").read_text(encoding="utf-8"))
    names = ", ".join(["results.csv", "table.md", "summary.json", *(path.name for path in pictures)])
    failed = sum(row.result is None for row in rows)
    then = _next(options, rows)
    if failed:
        then = f"the same command, which runs the {failed} that failed again"
    say(f"{out}: {names} of {len(rows)} runs; next: {then}")


def _next(options: AblateOptions, rows: Sequence[CellResult]) -> str:
    """A look at the run with the best accuracy."""
    best = max((row for row in rows if row.result), key=lambda row: row.scores.get("top1", 0), default=rows[0])
    weights = Path(best.cell.recipe.train.out) / best.digest / "model.safetensors"
    data = options.test or best.cell.recipe.data.val
    return command("eval", f"--checkpoint={weights}", f"--data={data}")


def _setting(options: AblateOptions, grid: Grid, rows: Sequence[CellResult], workers: Workers) -> list[str]:
    """What a reader must know to read the table."""
    ran = {axis: dict.fromkeys(row.cell.points[axis] for row in rows) for axis in grid.axes}
    axes = "; ".join(f"{axis} ({', '.join(labels)})" for axis, labels in ran.items())
    lines = [f"Axes: {axes}. Runs: {len(rows)}, {workers.jobs} at a time; threads of each: {workers.threads}."]
    if options.test:
        corrupted = "; corruptions: 15 kinds × 5 severities made here, not ImageNet-C" if options.corruptions else ""
        lines.append(f"Scores: {options.test}, after the last epoch{corrupted}.")
    else:
        lines.append("Scores: the last validation of each run.")
    if fed := settings_texts(rows):
        lines.append(f"Models were fed at {'; '.join(fed)}.")
    lines.append(
        "Training times and rates count the first epoch, in which kernels may be compiled, at the rate of the others; "
        "validation, checkpoints and what was prepared are not in them."
    )
    return lines
