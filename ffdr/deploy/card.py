"""The model card: ``README.md`` with a head in YAML that the Hugging Face hub reads, and what a user must know."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
import yaml
from huggingface_hub import EvalResult, ModelCardData

from ffdr import __version__
from ffdr.deploy.deployed import Deployed
from ffdr.deploy.origin import Origin
from ffdr.evaluate.report import rows
from ffdr.evaluate.settings import KEYS, settings_text
from ffdr.util.errors import UserError
from ffdr.util.foreign import read_json
from ffdr.util.text import MOST_LINE, brief, markdown, printable, table_lines

TASK = "image-classification"
PAPER = "2303.08983"
"""Of dataset reinforcement, on arXiv."""
_METRICS = {
    "top1": ("accuracy", "top-1", 100),
    "top5": ("top5_accuracy", "top-5", 100),
    "nll": ("nll", "NLL", 1),
    "ece": ("ece", "ECE", 100),
    "brier": ("brier", "Brier", 1),
}
"""Scores of reports: what the hub calls them, what we call them, and the factor to what tables show."""
_TASKS = {
    "erm": "on labels alone",
    "kd": "by knowledge distillation from a live teacher",
    "dr": "by [dataset reinforcement](https://arxiv.org/abs/2303.08983), on stored views and outputs of a teacher",
}
_USE = """import timm
import torch
from PIL import Image

# A copy of this folder; on the hub: "hf-hub:OWNER/NAME".
model = timm.create_model("local-dir:.", pretrained=True).eval()
view = timm.data.resolve_model_data_config(model)
transform = timm.data.create_transform(**view, is_training=False)

image = Image.open("image.jpg").convert("RGB")
with torch.inference_mode():
    probabilities = model(transform(image)[None]).softmax(1)[0]
names = model.pretrained_cfg["label_names"]
for probability, number in zip(*probabilities.topk(min(5, len(names)))):
    print(f"{names[number]}: {probability:.1%}")
"""

Scores = Mapping[str, Mapping[str, Any]]
"""Scores by the name of a set, as reports have them, with ``settings``: how the model was fed."""


@dataclass(frozen=True)
class Card:
    """What the card of a model says beside what the model itself knows."""

    title: str
    license: str
    """as the hub calls it; empty: none is named"""
    origin: Origin
    scores: Scores = field(default_factory=dict)
    """of ``read_scores``"""

    def text(self, deployed: Deployed, architecture: str) -> str:
        """The card of a model, whose name timm knows as ``architecture``."""
        parts = [
            f"---\n{self._head(deployed).to_yaml()}\n---\n",
            f"# {markdown(self.title)}\n",
            *self._about(deployed, architecture),
            f"## Use\n\n```python\n{_USE}```\n",
            *_view(deployed),
            *self._scores(deployed),
            *self._training(deployed),
        ]
        return "\n".join(parts)

    def _head(self, deployed: Deployed) -> ModelCardData:
        tags = [TASK, "timm", "ffdr"]
        if self.origin.value("train", "task") == "dr":
            tags += ["dataset-reinforcement", f"arxiv:{PAPER}"]
        results = list(self._results(deployed))
        return ModelCardData(
            license=self.license or None,
            library_name="timm",
            pipeline_tag=TASK,
            tags=tags,
            metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
            model_name=printable(self.title) if results else None,
            eval_results=results or None,
        )

    def _about(self, deployed: Deployed, architecture: str) -> Iterator[str]:
        info, task = deployed.info, str(self.origin.value("train", "task"))
        size = sum(value.numel() for value in deployed.model.parameters()) / 1e6
        how = f" It was trained {_TASKS[task]}." if task in _TASKS else ""
        yield (
            f"{markdown(architecture)} of timm with {info.num_classes:,} classes and {size:,.1f} million parameters, "
            f"for images of {info.resolution} px.{how}\n"
        )
        if not self.license:
            yield "No license is named. Those of the images and teachers that they were learned from may bind them.\n"

    def _all_scores(self, deployed: Deployed) -> Scores:
        """Scores by set: those of the run's validation, then those of the report."""
        found: dict[str, Mapping[str, Any]] = {}
        values = {key: self.origin.record.get(f"val_{key}") for key in _METRICS}
        known = {key: value for key, value in values.items() if value is not None and math.isfinite(value)}
        if known:
            settings = self.origin.settings
            said = settings_text(settings) if _are_settings(settings) else ""
            found[self.origin.validated_on] = {**known, "settings": said}
        return found | dict(self.scores)

    def _results(self, deployed: Deployed) -> Iterator[EvalResult]:
        for name, scores in self._all_scores(deployed).items():
            kind = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "images"
            for key, (metric, title, _) in _METRICS.items():
                if key in scores:
                    yield EvalResult(
                        task_type=TASK,
                        dataset_type=kind,
                        dataset_name=printable(name),
                        metric_type=metric,
                        metric_name=title,
                        metric_value=round(scores[key], 6),
                    )

    def _scores(self, deployed: Deployed) -> Iterator[str]:
        found = self._all_scores(deployed)
        if not found:
            return
        keys = [key for key in _METRICS if any(key in scores for scores in found.values())]
        body = [
            [name, str(scores.get("images", "")), *(_cell(scores, key) for key in keys), str(scores["settings"])]
            for name, scores in found.items()
        ]
        headings = ["set", "images", *(_METRICS[key][1] for key in keys), "fed with"]
        yield "## Scores\n\n" + "\n".join(table_lines(headings, body)) + "\n"

    def _training(self, deployed: Deployed) -> Iterator[str]:
        value, info = self.origin.value, deployed.info
        facts = {
            "images": f"{value('data', 'num_images'):,}" if isinstance(value("data", "num_images"), int) else "",
            "fingerprint of the images": info.fingerprint,
            "learned from": value("data", "lessons"),
            "versions in training": _versions(value("resolved", "versions")),
            "versions in export": _versions(
                {"ffdr": __version__, "torch": str(torch.__version__), "timm": timm.__version__}
            ),
        }
        known = [[name, printable(str(fact))] for name, fact in facts.items() if fact]
        yield "## Training\n\n" + "\n".join(table_lines(["what", ""], known)) + "\n"
        if self.origin.recipe:
            text = yaml.safe_dump(self.origin.recipe, sort_keys=False, default_flow_style=None, width=100)
            lines = [printable(line, MOST_LINE) for line in text.splitlines()]
            yield "\n".join(["<details><summary>Recipe</summary>\n", *_fenced(lines, "yaml"), "\n</details>\n"])


def _view(deployed: Deployed) -> Iterator[str]:
    """How images must be prepared, for those who do it themselves."""
    info = deployed.info
    short = math.floor(info.resolution / info.center)
    mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (info.mean, info.std))
    yield (
        "## Images\n\nAs `config.json` has it, and timm's transforms do: the short side resized to "
        f"{short} px (bilinear, antialiased), the centre {info.resolution} × {info.resolution} px cut out, values in "
        f"[0, 1], minus {mean}, divided by {std} (red, green, blue).\n"
    )


def _versions(found: Any) -> str:
    """Libraries with their versions, as text."""
    return ", ".join(f"{name} {version}" for name, version in found.items()) if isinstance(found, Mapping) else ""


def _fenced(lines: list[str], language: str) -> list[str]:
    """A block of code, whatever stands in its lines."""
    longest = max((len(ticks) for line in lines for ticks in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}{language}", *lines, fence]


def _cell(scores: Mapping[str, Any], key: str) -> str:
    if key not in scores:
        return ""
    factor = _METRICS[key][2]
    return f"{scores[key]:.2%}" if factor == 100 else f"{scores[key]:.4f}"


def read_scores(path: str) -> tuple[str, Any, Scores]:
    """The model's name, how many parameters it has, and its scores, of a report of ``ffdr eval``, which may be
    anybody's; the number is None in reports without it.

    Raises:
        UserError: no such report; a score that is no number.
    """
    report = read_json(path)
    is_report = isinstance(report, dict) and isinstance(report.get("model"), str)
    if not is_report or not (isinstance(report.get("data"), str) or isinstance(report.get("sets"), dict)):
        raise UserError(f"export_model.report: {path} is not what ffdr eval writes with --eval.json")
    found = {}
    for name, scores in rows(report).items():
        if not isinstance(scores, dict):
            raise UserError(f"export_model.report: {path}: {brief(name, 80)} has no scores")
        kept = {key: scores[key] for key in (*_METRICS, "images") if key in scores}
        for key, value in kept.items():
            if type(value) not in (int, float) or not 0 <= value < math.inf:
                raise UserError(f"export_model.report: {path}: {key}: {brief(value, 80)} is no score")
        settings = {key: report.get(key) for key in KEYS} | {key: scores[key] for key in KEYS if key in scores}
        if not _are_settings(settings):
            raise UserError(f"export_model.report: {path}: its settings are not those that ffdr eval writes")
        found[Path(name).stem or name] = {**kept, "settings": settings_text(settings)}
    return report["model"], report.get("parameters"), found


def _are_settings(settings: Mapping[str, Any]) -> bool:
    kinds: dict[str, tuple[type, ...]] = {"resolution": (int,), "center": (int, float), "flip_average": (bool,)}
    kinds |= {"averaged": (bool,), "interpolation": (str,), "precision": (str,)}
    return all(value is None or type(value) in kinds[key] for key, value in settings.items())
