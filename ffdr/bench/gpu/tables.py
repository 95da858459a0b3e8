"""The tables of the bench."""

from __future__ import annotations

from collections.abc import Sequence

from ffdr.bench.gpu import hardware, plan
from ffdr.bench.gpu.outcomes import Outcomes, rate_of
from ffdr.bench.gpu.site import Row
from ffdr.bench.results import Table
from ffdr.bench.statistics import Estimate

_HEADINGS = (
    "", "images/s", "× eager", "× published", "% of traffic floor", "% of matrix peak", "peak GB", "compile s", "",
)  # fmt: skip
_DIGITS = {"eager": 2, "published": 2, "traffic": 0, "matrix": 1}
"""Of the columns that follow from others."""


def tables(outcomes: Outcomes, profile: Sequence[Row]) -> list[Table]:
    """Every table that has a row."""
    found = [
        _steps(outcomes),
        _rates(outcomes, plan.LOADER, "Loader to the device", "images/s"),
        _rates(outcomes, plan.EPOCHS, "Trainer with its loader", "images/s"),
        _rates(outcomes, plan.TEACHER, "Teacher", "views/s"),
        _rates(outcomes, plan.EVALUATION, "Evaluation", "images/s"),
        _health(outcomes),
        _tests(outcomes),
        _machine(outcomes),
        *map(_profile, profile),
        _stages(outcomes),
    ]
    return [table for table in found if table.rows]


def _steps(outcomes: Outcomes) -> Table:
    rows: list[tuple[str, ...]] = []
    for row in _all(outcomes, plan.STEPS):
        size = f"{row['model']}@{row['resolution']}, {row['batch_size']}{', averaged' if row['ema'] else ''}"
        label = f"{size}: {row['name']}"
        if "failed" in row:
            rows.append((label, "—", "", "", "", "", "", "", f"failed: {row['failed'][:80]}"))
            continue
        columns, peak = outcomes.columns(row), row.get("peak_bytes")
        rows.append(
            (
                label,
                rate_of(row).text(0),
                *(_cell(columns[key], digits) for key, digits in _DIGITS.items()),
                f"{peak / 1e9:.1f}" if peak else "—",
                f"{row['compile_seconds']:.0f}" if "compile_seconds" in row else "",
                row.get("note", ""),
            )
        )
    published = [
        f"Published for {rate.model} at {rate.resolution} px on one {rate.card}: {rate.images_per_second:,.0f} "
        f"images/s ({rate.how}; {rate.source})."
        for rate in outcomes.published
    ]
    note = "Seconds of compiling are those beside all that got ready at the same time."
    return Table("Step, on random batches that lie on the device", _HEADINGS, rows, [" ".join([*published, note])])


def _cell(figure: Estimate | None, digits: int) -> str:
    return "—" if figure is None else f"{figure.median:,.{digits}f}"


def _all(outcomes: Outcomes, stage: str) -> list[Row]:
    """With those that failed."""
    return [row for outcome in outcomes.jobs if outcome.stage == stage for row in outcome.rows]


def _rates(outcomes: Outcomes, stage: str, title: str, unit: str) -> Table:
    rows = []
    for row in outcomes.rows(stage):
        waits = row.get("data_wait")
        remark = f"waits for data {100 * Estimate.of(waits).median:.1f} % of the time" if waits else ""
        mode = f"train.compile={row['compile']}" if "compile" in row else ""
        rows.append((row["name"], rate_of(row).text(0), ", ".join(filter(None, (remark, mode, row.get("note", ""))))))
    return Table(title, ("", unit, ""), rows)


def _health(outcomes: Outcomes) -> Table:
    rows = [
        (row["name"], "not measured" if row["value"] is None else f"{row['value']:.3g}", row["detail"][:200])
        for row in outcomes.rows(plan.HEALTH)
    ]
    return Table("Health", ("", "", ""), rows)


def _tests(outcomes: Outcomes) -> Table:
    keys = ("passed", "failed", "error", "skipped")
    rows = [(row["name"], *(str(row.get(key, 0)) for key in keys)) for row in _all(outcomes, plan.TESTS)]
    return Table("Tests", ("", *keys), rows)


def _machine(outcomes: Outcomes) -> Table:
    rows = []
    for row in outcomes.rows(plan.SETUP):
        if "rate" in row:
            unit = "FLOP/s" if row["name"] == hardware.PRODUCTS else "B/s"
            rows.append((row["name"], f"{rate_of(row).times(1e-12).text(3)} · 10¹² {unit}"))
        else:
            rows += [(key, value) for key, value in row.items() if key != "name"]
    return Table("Machine", ("", ""), rows)


def _profile(profile: Row) -> Table:
    total = profile["us_per_step"]
    spent = sorted(profile["kinds"].items(), key=lambda item: -item[1])
    spent += [(f"· {kernel['kernel'][:80]}", kernel["us"]) for kernel in profile["top"]]
    rows = [(name, f"{us:,.0f}", f"{100 * us / total:.1f}") for name, us in spent]
    return Table(f"Where a step's time goes: {profile['of']}", ("", "µs per step", "%"), rows)


def _stages(outcomes: Outcomes) -> Table:
    rows = [(job.stage, job.name, f"{job.seconds:.1f}", job.status[:120]) for job in outcomes.jobs]
    return Table("Stages", ("", "", "s", ""), rows)
