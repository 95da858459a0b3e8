"""What was measured so far: rows by stage and job, and the columns and the summary that follow from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ffdr.bench.evaluate import EVALUATION as EVALUATE
from ffdr.bench.evaluate import FORWARD as EVALUATE_FORWARD
from ffdr.bench.gpu import hardware, health, loading, plan, teaching
from ffdr.bench.gpu.site import Row
from ffdr.bench.published import PublishedRate, first_rate
from ffdr.bench.results import Summary
from ffdr.bench.statistics import Estimate

FUSED_BYTES = {("resnet50", 224): 342e6}
"""Bytes per image that a training step has to move at least, activations in 16 bits, with batch norm, ReLU and addition
fused into one pass, by model and resolution. (For this one it is 486e6 where each is a pass of its own.)"""


@dataclass
class GpuOutcome:
    """Of one job."""

    stage: str
    name: str
    status: str = "not begun"
    """measured, failed: why, skipped: why"""
    seconds: float = 0.0
    """that measuring took"""
    rows: list[Row] = field(default_factory=list)
    traceback: str = ""

    def json(self) -> dict[str, Any]:
        """Plain data."""
        return {key: value for key, value in self.__dict__.items() if value not in ("", None)}


@dataclass
class Outcomes:
    """Of all jobs."""

    jobs: list[GpuOutcome]
    published: Sequence[PublishedRate] = ()
    """for this card"""

    def rows(self, stage: str) -> Iterator[Row]:
        """Of a stage, without those that failed."""
        for outcome in self.jobs:
            if outcome.stage == stage:
                yield from (row for row in outcome.rows if "failed" not in row)

    def rate(self, stage: str, name: str) -> Estimate | None:
        """Of a row by its name."""
        return next((rate_of(row) for row in self.rows(stage) if row["name"] == name and "rate" in row), None)

    def ratio(self, stage: str, name: str, base: str) -> Estimate | None:
        """How many times as fast as another row of the same job, round by round; None: one of them is missing."""
        first, second = self.rate(stage, name), self.rate(stage, base)
        return first.over(second) if first and second else None

    def columns(self, row: Row) -> dict[str, Estimate | None]:
        """What follows for a row of the steps, by column; None: does not apply, or its base is missing."""
        rate, eager = rate_of(row), self._eager(row)
        published = first_rate(self.published, row["model"], row["resolution"])
        moved = FUSED_BYTES.get((row["model"], row["resolution"]))
        copies = self.rate(plan.SETUP, hardware.COPIES)
        products = self.rate(plan.SETUP, hardware.PRODUCTS)
        return {
            "eager": rate.beside(rate_of(eager)) if eager else None,
            "published": rate.times(1 / published.images_per_second) if published else None,
            "traffic": rate.times(100 * moved / copies.median) if copies and moved else None,
            "matrix": rate.times(100 * row["flops"] / products.median) if products else None,
        }

    def _eager(self, row: Row) -> Row | None:
        """ffdr's own step, not compiled, in the same precision; of another batch size where there is none of this."""
        same = [
            other
            for other in self.rows(plan.STEPS)
            if (other["how"], other["compile"]) == (plan.STEP, "off")
            and all(other[key] == row[key] for key in ("model", "resolution", "precision", "ema"))
        ]
        return min(same, key=lambda other: other["batch_size"] != row["batch_size"], default=None)

    def best(self, batch_size: int = 0) -> Row | None:
        """The fastest of ffdr's own steps of the first model, at one batch size or (0) at any."""
        steps = [row for row in self.rows(plan.STEPS) if row["how"] == plan.STEP]
        model = next(((row["model"], row["resolution"]) for row in steps), None)
        mine = [row for row in steps if (row["model"], row["resolution"]) == model]
        mine = [row for row in mine if not batch_size or row["batch_size"] == batch_size]
        return max(mine, key=lambda row: row["rate"]["median"], default=None)

    def summary(self) -> Summary:
        """The ratios that the bench is for, and what must not happen in a long run."""
        best = self.best()
        epochs = {row["name"]: row for row in self.rows(plan.EPOCHS)}
        waits = epochs[loading.DR]["data_wait"] if loading.DR in epochs else None
        found = {row["name"]: row["value"] for row in self.rows(plan.HEALTH)}
        states = {name: None if value is None else Estimate.of([value]) for name, value in found.items()}
        return {
            "step : published rate": self.columns(best)["published"] if best else None,
            "compiled step : eager step": self._compiled_over_eager(),
            **self._loops(),
            "end to end : cached step": self.ratio(plan.EPOCHS, loading.DR, loading.CACHED),
            "DR : ERM, epoch time": self.ratio(plan.EPOCHS, loading.ERM, loading.DR),
            "starvation, %": Estimate.of(waits).times(100) if waits else None,
            **{
                f"teacher's labelling : forward pass, {how}": self.ratio(
                    plan.TEACHER, f"{teaching.LABELLING}, {how}", f"{teaching.FORWARD}, {how}"
                )
                for how in (teaching.EAGER, teaching.COMPILED)
            },
            "evaluation : forward pass": self.ratio(plan.EVALUATION, EVALUATE, EVALUATE_FORWARD),
            "reserved memory, last epoch : second": states.get(health.MEMORY),
            "steps of 3 in which the host waits for the GPU": states.get(health.WAITS),
            "graph breaks": states.get(health.BREAKS),
            "compilations per size of views": states.get(health.COMPILATIONS),
        }

    def _compiled_over_eager(self) -> Estimate | None:
        """The best ratio that ffdr's step reaches in any one precision, first model and batch size."""
        ratios = [
            ratio
            for row in self.rows(plan.STEPS)
            if row["how"] == plan.STEP and row["compile"] != "off" and (eager := self._eager(row))
            if eager["batch_size"] == row["batch_size"] and (ratio := self.columns(row)["eager"])
            if not row.get("note")
        ]
        return max(ratios, key=lambda ratio: ratio.median, default=None)

    def _loops(self) -> Mapping[str, Estimate | None]:
        """The fit loop's time over that of the plain loop, of every job that has both."""
        name = "fit loop's time : plain compiled loop's"
        found = {}
        for outcome in self.jobs:
            rows = {row["how"]: row for row in outcome.rows if outcome.stage == plan.STEPS and "rate" in row}
            if {plan.FIT, plan.BARE} <= set(rows):
                ratio = rate_of(rows[plan.BARE]).over(rate_of(rows[plan.FIT]))
                found[f"{rows[plan.FIT]['model']}: {name}"] = ratio
        return found or {name: None}

    def json(self) -> dict[str, dict[str, Any]]:
        """Each job's outcome as plain data, by stage and name."""
        stages: dict[str, dict[str, Any]] = {}
        for outcome in self.jobs:
            stages.setdefault(outcome.stage, {})[outcome.name] = outcome.json()
        return stages


def rate_of(row: Row) -> Estimate:
    """Images (bytes, operations) per second."""
    return Estimate.from_json(row["rate"])
