"""Set what was measured beside what ffdr aims at (``targets.yaml``): python results/judge.py [BENCH FILE.json]

Without arguments every committed report is judged. A median decides. Exit status 1: a target was missed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

RESULTS = Path(__file__).parent


def targets() -> dict[str, dict[str, dict[str, float]]]:
    """Bench → figure → {at_least: bound} or {at_most: bound}."""
    return yaml.safe_load((RESULTS / "targets.yaml").read_text(encoding="utf-8"))


def reports(bench: str) -> list[Path]:
    """The committed reports of a bench; of gpu one for each run."""
    found = (RESULTS / "gpu").glob("*.json") if bench == "gpu" else [RESULTS / f"{bench}.json"]
    return [file for file in sorted(found) if "summary" in json.loads(file.read_text(encoding="utf-8"))]


def matching(summary: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The figures that a target is about: of that name, or of that name behind a setting and a colon."""
    return {key: figure for key, figure in summary.items() if key == name or key.endswith(f": {name}")}


def verdict(figure: Mapping[str, Any] | None, bound: Mapping[str, float]) -> str:
    """met, missed, or not measured."""
    if figure is None:
        return "not measured"
    met = bound.get("at_least", -float("inf")) <= figure["median"] <= bound.get("at_most", float("inf"))
    return "met" if met else "missed"


def judge(bench: str, file: Path) -> bool:
    """Print each target beside the figure of a report; whether none was missed."""
    summary, missed = json.loads(file.read_text(encoding="utf-8"))["summary"], False
    print(f"{file}")
    for name, bound in targets()[bench].items():
        for key, figure in (matching(summary, name) or {name: None}).items():
            (kind, limit), said = *bound.items(), verdict(figure, bound)
            reached = "" if figure is None else "{median:.4g} [{low:.4g}, {high:.4g}]".format(**figure)
            print(f"  {said:<12}  {reached:<32}  {kind.replace('_', ' ')} {limit:<8g}  {key}")
            missed |= said == "missed"
    return not missed


if __name__ == "__main__":
    chosen = [(sys.argv[1], Path(sys.argv[2]))] if sys.argv[1:] else [(b, f) for b in targets() for f in reports(b)]
    verdicts = [judge(bench, file) for bench, file in chosen]
    sys.exit(not all(verdicts))
