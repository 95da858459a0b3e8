"""What was measured so far: rows by stage and job, and the columns and targets that follow from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ffdr.bench import cards
from ffdr.bench.cards import Card, published_target
from ffdr.bench.evaluate import EVALUATION as EVALUATE
from ffdr.bench.evaluate import FORWARD as EVALUATE_FORWARD
from ffdr.bench.gpu import hardware, health, loading, plan, teaching
from ffdr.bench.gpu.place import Row
from ffdr.bench.report import Target
from ffdr.bench.statistics import Estimate


@dataclass
class Outcome:
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
class Results:
    """Of all jobs."""

    outcomes: list[Outcome]
    card: Card | None

    def rows(self, stage: str) -> Iterator[Row]:
        """Of a stage, without those that failed."""
        for outcome in self.outcomes:
            if outcome.stage == stage:
                yield from (row for row in outcome.rows if "failed" not in row)

    def rate(self, stage: str, name: str) -> Estimate | None:
        """Of a row by its name."""
        return next((rate_of(row) for row in self.rows(stage) if row["name"] == name and "rate" in row), None)

    def ratio(self, stage: str, name: str, base: str) -> Estimate | None:
        """How many times as fast as another row of the same job, round by round; None: one of them is missing."""
        first, second = self.rate(stage, name), self.rate(stage, base)
        return first.over(second) if first and second else None

    def value(self, name: str) -> Estimate | None:
        """A number of the health stage."""
        found = next((row["value"] for row in self.rows(plan.HEALTH) if row["name"] == name), None)
        return None if found is None else Estimate.of([found])

    def columns(self, row: Row) -> dict[str, Estimate | None]:
        """What is told of a row of the steps, by column; None: does not apply, or its base is missing."""
        rate, eager = rate_of(row), self._eager(row)
        known = (row["model"], row["resolution"]) == (cards.MODEL, cards.RESOLUTION)
        copies = self.rate(plan.SETUP, hardware.COPIES)
        products = self.rate(plan.SETUP, hardware.PRODUCTS)
        return {
            "eager": rate.beside(rate_of(eager)) if eager else None,
            "published": rate.times(1 / self.card.pytorch) if self.card and known else None,
            "traffic": rate.times(100 * cards.FUSED_BYTES / copies.median) if copies and known else None,
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

    def targets(self) -> list[Target]:
        """What is promised."""
        best = self.best()
        judged = best and (best["model"], best["resolution"]) == (cards.MODEL, cards.RESOLUTION)
        dr = next((row for row in self.rows(plan.EPOCHS) if row["name"] == loading.DR), None)
        flat = self.value(health.MEMORY)
        return [
            published_target(rate_of(best) if best and judged else None, self.card),
            Target("compiled step : eager step", self._compiled_over_eager(), 1.25),
            *self._loops(),
            Target("end to end : cached step", self.ratio(plan.EPOCHS, loading.DR, loading.CACHED), 0.97),
            Target("DR : ERM, epoch time", self.ratio(plan.EPOCHS, loading.ERM, loading.DR), 1.02, at_most=True),
            Target("starvation, %", dr and Estimate.of([100 * x for x in dr["data_wait"]]), 1, at_most=True),
            *[
                Target(
                    f"teacher's labelling : forward pass, {how}",
                    self.ratio(plan.TEACHER, f"{teaching.LABELLING}, {how}", f"{teaching.FORWARD}, {how}"),
                    0.9,
                )
                for how in (teaching.EAGER, teaching.COMPILED)
            ],
            Target("evaluation : forward pass", self.ratio(plan.EVALUATION, EVALUATE, EVALUATE_FORWARD), 0.9),
            Target("reserved memory, last epoch : second", flat, 1.02, at_most=True),
            Target("steps of 3 in which the host waits for the GPU", self.value(health.WAITS), 0, at_most=True),
            Target("graph breaks", self.value(health.BREAKS), 0, at_most=True),
            Target("compilations per size of views", self.value(health.COMPILATIONS), 1, at_most=True),
        ]

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

    def _loops(self) -> list[Target]:
        """The fit loop's time over that of the plain loop, of every job that has both."""
        found = []
        for outcome in self.outcomes:
            rows = {row["how"]: row for row in outcome.rows if outcome.stage == plan.STEPS and "rate" in row}
            if {plan.FIT, plan.BARE} <= set(rows):
                ratio = rate_of(rows[plan.BARE]).over(rate_of(rows[plan.FIT]))
                name = f"fit loop's time : plain compiled loop's, {rows[plan.FIT]['model']}"
                found.append(Target(name, ratio, 1.03, at_most=True))
        return found or [Target("fit loop's time : plain compiled loop's", None, 1.03, at_most=True)]


def rate_of(row: Row) -> Estimate:
    """Images (bytes, operations) per second."""
    return Estimate.from_json(row["rate"])


def content(results: Results, facts: dict[str, Any], profile: Sequence[Row]) -> dict[str, Any]:
    """All of it as plain data."""
    stages: dict[str, dict[str, Any]] = {}
    for outcome in results.outcomes:
        stages.setdefault(outcome.stage, {})[outcome.name] = outcome.json()
    targets = {target.name: target.json() for target in results.targets()}
    return {**facts, "stages": stages, "profile": list(profile), "targets": targets}
