"""The tables of the bench."""

from __future__ import annotations

from collections.abc import Sequence

from ffdr.bench.cards import Card
from ffdr.bench.gpu import hardware, plan
from ffdr.bench.gpu.place import Row
from ffdr.bench.gpu.results import Results, rate_of
from ffdr.bench.report import Table, target_table
from ffdr.bench.statistics import Estimate

_HEADINGS = (
    "",
    "images/s",
    "× eager",
    "× published",
    "% of traffic floor",
    "% of matrix peak",
    "peak GB",
    "compile s",
    "",
)


def tables(results: Results, profile: Sequence[Row]) -> list[Table]:
    """Every table that has a row."""
    found = [
        _steps(results),
        _rates(results, plan.LOADER, "Loader to the device", "images/s"),
        _rates(results, plan.EPOCHS, "Trainer with its loader", "images/s"),
        _rates(results, plan.TEACHER, "Teacher", "views/s"),
        _rates(results, plan.EVALUATION, "Evaluation", "images/s"),
        _health(results),
        _tests(results),
        _machine(results),
        *map(_profile, profile),
        _stages(results),
    ]
    return [target_table(results.targets()), *[table for table in found if table.rows]]


def _steps(results: Results) -> Table:
    rows = []
    for outcome in results.outcomes:
        for row in outcome.rows if outcome.stage == plan.STEPS else ():
            size = f"{row['model']}@{row['resolution']}, {row['batch_size']}{', averaged' if row['ema'] else ''}"
            label = f"{size}: {row['name']}"
            if "failed" in row:
                rows.append((label, "—", "", "", "", "", "", "", f"failed: {row['failed'][:80]}"))
                continue
            columns = results.columns(row)
            rows.append(
                (
                    label,
                    rate_of(row).text(0),
                    _cell(columns["eager"], 2),
                    _cell(columns["published"], 2),
                    _cell(columns["traffic"], 0),
                    _cell(columns["matrix"], 1),
                    _gb(row.get("peak_bytes")),
                    f"{row['compile_seconds']:.0f}" if "compile_seconds" in row else "",
                    row.get("note", ""),
                )
            )
    return Table("Step, on random batches that lie on the device", _HEADINGS, rows, _notes(results.card))


def _notes(card: Card | None) -> list[str]:
    note = "Seconds of compiling are those beside all that got ready at the same time."
    if card is None:
        return [note]
    return [
        f"Published for a {card.name}, ResNet-50 at 224 px: {card.pytorch:,.0f} images/s by PyTorch with AMP in NCHW; "
        f"MLPerf v4.0's record is {card.record:,.0f}. {note}"
    ]


def _cell(figure: Estimate | None, digits: int) -> str:
    return "—" if figure is None else f"{figure.median:,.{digits}f}"


def _gb(size: int | None) -> str:
    return f"{size / 1e9:.1f}" if size else "—"


def _rates(results: Results, stage: str, title: str, unit: str) -> Table:
    rows = []
    for row in results.rows(stage):
        waits = row.get("data_wait")
        remark = f"waits for data {100 * Estimate.of(waits).median:.1f} % of the time" if waits else ""
        mode = f"train.compile={row['compile']}" if "compile" in row else ""
        rows.append((row["name"], rate_of(row).text(0), ", ".join(filter(None, (remark, mode, row.get("note", ""))))))
    return Table(title, ("", unit, ""), rows)


def _health(results: Results) -> Table:
    rows = [
        (row["name"], "not measured" if row["value"] is None else f"{row['value']:.3g}", row["detail"][:200])
        for row in results.rows(plan.HEALTH)
    ]
    return Table("Health", ("", "", ""), rows)


def _tests(results: Results) -> Table:
    keys = ("passed", "failed", "error", "skipped")
    rows = [(row["name"], *[str(row.get(key, 0)) for key in keys]) for row in _all(results, plan.TESTS)]
    return Table("Tests", ("", *keys), rows)


def _all(results: Results, stage: str) -> list[Row]:
    return [row for outcome in results.outcomes if outcome.stage == stage for row in outcome.rows]


def _machine(results: Results) -> Table:
    rows = []
    for row in results.rows(plan.SETUP):
        if "rate" in row:
            unit = "FLOP/s" if row["name"] == hardware.PRODUCTS else "B/s"
            rows.append((row["name"], f"{rate_of(row).times(1e-12).text(3)} · 10¹² {unit}"))
        else:
            rows += [(key, value) for key, value in row.items() if key != "name"]
    return Table("Machine", ("", ""), rows)


def _profile(profile: Row) -> Table:
    total = profile["us_per_step"]
    kinds = sorted(profile["kinds"].items(), key=lambda item: -item[1])
    rows = [(kind, f"{us:,.0f}", f"{100 * us / total:.1f}") for kind, us in kinds]
    top = [(kernel["kernel"][:80], kernel["us"]) for kernel in profile["top"]]
    rows += [(f"· {kernel}", f"{us:,.0f}", f"{100 * us / total:.1f}") for kernel, us in top]
    return Table(f"Where a step's time goes: {profile['of']}", ("", "µs per step", "%"), rows)


def _stages(results: Results) -> Table:
    rows = [
        (outcome.stage, outcome.name, f"{outcome.seconds:.1f}", outcome.status[:120]) for outcome in results.outcomes
    ]
    return Table("Stages", ("", "", "s", ""), rows)
