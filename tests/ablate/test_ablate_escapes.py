"""Nothing that runs, reports, recipes of studies and published results say drives a terminal or breaks a table."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import grids
import pytest
from evil import check, check_table, every_evil, run
from test_reference import REFERENCE, write_run

from ffdr.ablate.live_table import LiveTable
from ffdr.ablate.plot import plot_study
from ffdr.ablate.report import write_csv, write_summary, write_table
from ffdr.ablate.workers import Outcome
from ffdr.util.text import MOST_LINE


@pytest.fixture
def call(capsys):
    """``run``, with what it printed."""
    return partial(run, capsys)


RUNS = {
    "model": lambda options, last, evil: options["model"].update(name=evil),
    "task": lambda options, last, evil: options["train"].update(task=evil),
    "classes": lambda options, last, evil: options["data"].update(num_classes=evil),
    "center": lambda options, last, evil: options["data"].update(center=evil),
    "precision": lambda options, last, evil: options["resolved"].update(precision=evil),
    "flip": lambda options, last, evil: options["train"].update(flip_average=evil),
    "ema": lambda options, last, evil: options["train"].update(ema=evil),
    "section": lambda options, last, evil: options.update(train=evil),
    "score": lambda options, last, evil: last.update(val_top1=evil),
    "epoch": lambda options, last, evil: last.update(epoch=evil),
}


@every_evil
@pytest.mark.parametrize("place", RUNS)
def test_what_a_run_says_of_itself(call, tmp_path, place, evil):
    run = write_run(tmp_path / "run", top1=0.8)
    options, last = json.loads((run / "options.json").read_text()), {"epoch": 280, "val_top1": 0.8}
    RUNS[place](options, last, evil)
    (run / "options.json").write_text(json.dumps(options))
    (run / "log.jsonl").write_text(json.dumps(last))
    table = tmp_path / "table.md"
    assert call("report", run, f"--reference={REFERENCE}", f"--out={table}")[0] in (0, 2)
    if table.exists():
        check_table(table.read_text())


@every_evil
def test_reports_and_published_figures(call, tmp_path, evil):
    file, reference, table = tmp_path / "report.json", tmp_path / "reference.csv", tmp_path / "table.md"
    quoted = evil.replace('"', "")
    lines = ["source,timm,task,data,epochs,averaged,set,metric,percent,note"]
    lines.append(f'"{quoted}",m,"{quoted}","{quoted}",10,,val,top1,80,"{quoted}"')
    for key, value in (
        ("model", "m"),
        ("model", evil),
        ("interpolation", evil),
        ("sets", evil),
        ("sets", {"val": evil}),
    ):
        file.write_text(
            json.dumps({"model": "m", "top1": 0.5, "resolution": 10**4000 if key == "sets" else 224, key: value})
        )
        reference.write_bytes("\n".join(lines).encode())
        assert call("report", file, f"--reference={reference}", f"--out={table}")[0] in (0, 2)
        if table.exists():
            check_table(table.read_bytes().decode())


@every_evil
def test_cells_of_a_study(call, tmp_path, evil, capsys):
    """Names of cells come from a recipe; messages of runs that failed from whatever failed."""
    axes = {f"x{evil}": {evil: {"train.task": "erm"}, "b": {"train.lr": 0.1}}, "train.seed": [0, 1]}
    scores = {"top1": 0.5, "nll": 1.0, "ece": 0.1, "corruption_top1": 0.4, "images_per_second": 9.0, "seconds": 1.0}
    grid, rows = grids.made_up(tmp_path, lambda points: scores | {"interpolation": evil}, axes=axes, compare="")
    rows[0] = replace(rows[0], result=None, error=evil)
    out = tmp_path / "out"
    out.mkdir()
    write_csv(out / "results.csv", rows)
    write_table(out / "table.md", grid, rows, f"Study: {evil}", [evil])
    write_summary(out / "summary.json", grid, rows, evil, [evil])
    assert plot_study(out, grid, rows)
    table = LiveTable([row.cell for row in rows], [None] * len(rows), kept=0, slots=1)
    table._slots = [0]
    table.ended(0, Outcome(None, evil, ""))
    table.close()
    check((out / "results.csv").read_bytes().decode(), most=5 * MOST_LINE)
    check_table((out / "table.md").read_bytes().decode())
    check(capsys.readouterr().out)
