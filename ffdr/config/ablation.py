"""Options of grids of runs, and of the comparison with published results."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from ffdr.config.choices import TASKS
from ffdr.config.options import Between, OneOf, Options, Processes, switched
from ffdr.util.errors import UserError, one_of


@dataclass(frozen=True)
class AblateOptions(Options, section="ablate"):
    """``ffdr ablate``: a grid of training runs, each trained, evaluated and kept once, with tables and plots."""

    out: str = ""
    """folder of the tables and plots"""
    work: str = ""
    """folder of the runs and of what they need; empty: runs/ and the last part of ablate.out"""
    data: str = "."
    """folder that {data} stands for in the grid's paths; {work} stands for ablate.work"""
    prepare: tuple[str, ...] = field(default=(), metadata={"lines": True})
    """command lines of ffdr, without the word ffdr, that make what the runs need; each is run once"""
    settings: dict[str, Any] = field(default_factory=dict)
    """options of ffdr train that all runs share, by dotted key; config-file names recipes"""
    axes: dict[str, Any] = field(default_factory=dict)
    """an option of ffdr train with a list of values; or a name with points, each a label and its own options; or a name
    with labels, which stand for {name} in other options. subset.views and subset.topk cut data.reinforced"""
    only: tuple[str, ...] = ()
    """AXIS=POINT,… to run a part of the grid; several points of one axis are alternatives"""
    compare: str = ""
    """AXIS=POINT that is set against the other points of its axis, paired by train.seed"""
    test: str = ""
    """image beton on which every model is evaluated; empty: the last validation of its run counts"""
    corruptions: bool = False
    """also evaluate on corrupted images, made as ffdr eval does (not ImageNet-C)"""
    jobs: Processes = 0
    """runs at a time; 0: one per GPU, or one on a CPU"""
    threads: Processes = 0
    """threads per run; 0: its share of the cores. On a CPU another number rounds differently"""
    dry_run: bool = False
    """only list the runs"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.axes:
            raise UserError("ablate.axes: there is no grid; give one, such as --config-file ablate/digits")
        if not self.out:
            raise UserError("ablate.out: give the folder of the tables, for example --ablate.out=results/digits")
        for text in (*self.only, *([self.compare] if self.compare else [])):
            if not all(text.partition("=")):
                raise UserError(f"ablate.{'only' if text in self.only else 'compare'}: {text!r} is not AXIS=POINT")
        if self.corruptions and not self.test:
            raise UserError("ablate.corruptions: name the images to corrupt in ablate.test")
        if not self.work:
            object.__setattr__(self, "work", str(Path("runs") / Path(self.out).name))


@dataclass(frozen=True)
class ReportOptions(Options, section="report"):
    """``ffdr report``: a run compared with the published results for its model, or any runs with each other."""

    file: str = ""
    """folder of a run, or the JSON report of ffdr eval"""
    runs: tuple[str, ...] = ()
    """folders of runs on any data, which are compared with each other: ffdr report runs/erm runs/kd"""
    reference: str = ""
    """table of published results; empty: the one that comes with ffdr, of ImageNet or of the digits"""
    model: str = ""
    """timm model to look up; empty: the run's own"""
    task: Annotated[str, OneOf(TASKS, or_empty=True)] = ""
    """erm, kd or dr: how the model was trained; empty: the run's own"""
    epochs: Annotated[int, Between(0, 10**6)] = 0
    """epochs of training; 0: the run's own. A report of ffdr eval does not hold them"""
    averaged: str = ""
    """yes or no: whether the weights are averaged ones (train.ema); empty: what the run says"""
    out: str = ""
    """Markdown file to write; empty: none"""
    csv: str = ""
    """CSV file to write, a row per run; empty: none"""
    json: str = ""
    """JSON file to write, of runs; empty: none"""
    plot: str = ""
    """PNG file to draw the curves of the runs to; empty: none"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.runs:
            self.need("file", what="give the folder of a run, several of them, or the JSON report of ffdr eval")
        for name in ("file", "reference", "model", "task", "epochs", "averaged"):
            if self.runs and getattr(self, name):
                raise UserError(f"report.{name}: is for one run beside published results; leave it or report.runs out")
        averaged = {"on": "yes", "off": "no"}.get(switched(self.averaged), self.averaged)
        object.__setattr__(self, "averaged", averaged)
        one_of("report.averaged", averaged, ("", "yes", "no"))
        for name, ending in (("out", ".md"), ("csv", ".csv"), ("json", ".json"), ("plot", ".png")):
            path = getattr(self, name)
            if path and not path.endswith(ending):
                raise UserError(f"report.{name}: {path} does not end in {ending}")
            if path and not Path(path).parent.is_dir():
                raise UserError(f"report.{name}: there is no folder {Path(path).parent}")
