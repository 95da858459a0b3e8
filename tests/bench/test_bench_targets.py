"""The targets name figures that the benches report, and the committed reports hold them."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ffdr.augment.laps import STAGES
from ffdr.augment.view import OPS
from ffdr.bench import evaluate, train
from ffdr.bench.gpu.outcomes import Outcomes
from ffdr.bench.loading import files, kernels, loader, pipelines
from ffdr.bench.settings import Setting
from ffdr.bench.statistics import Estimate
from ffdr.bench.timing import Timing
from ffdr.config.choices import BENCHES

RESULTS = Path(__file__).parents[2] / "results"
SETTING = Setting("resnet50", "float32", 224, 8, 2, "off", 1, torch.device("cpu"))
ONE, TIMING = Estimate.of([1.0, 2.0, 3.0]), Timing((1.0, 2.0, 1.0), 10)


@pytest.fixture(scope="module")
def judge():
    spec = importlib.util.spec_from_file_location("judge", RESULTS / "judge.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def loader_summary():
    timings = {value: TIMING for name, value in vars(pipelines).items() if name.isupper() and isinstance(value, str)}
    stages = {pipelines.DR: loader.stage_costs(TIMING, np.zeros((3, len(STAGES))))}
    sizes = dict.fromkeys((loader.PLAIN, loader.COEFFICIENTS_90, loader.COEFFICIENTS_80), 1.0)
    starts = {f"{form}{start} start": ONE for form in ("", "coefficients, ") for start in ("first", "second")}
    return loader.summary(loader.LoadingResults(timings, stages, sizes, {}, starts))


def kernels_summary():
    ours = {(step, kernels.OURS): TIMING for step in (kernels.RESIZE, kernels.TWO_OPS, *OPS[1:])}
    peers = {(kernels.RESIZE, who): TIMING for who in (kernels.PILLOW, kernels.OPENCV)}
    return kernels.summary(ours | peers)


def files_summary():
    names = ("import, plain", "import, mixing", "read, plain", "read, mixing", "write, coefficients")
    return files.summary(dict.fromkeys(names, ONE), ONE, ONE)


def train_summary():
    timings = dict.fromkeys((train.BOTH, train.STEP, train.FIT, train.TIMM), TIMING)
    return train.summary([train.TrainingTimes(SETTING, timings, {}, {}, ONE, 1)])


def eval_summary():
    timings = dict.fromkeys((evaluate.EVALUATION, evaluate.FORWARD), TIMING)
    return evaluate.summary([evaluate.EvaluationTimes(SETTING, timings)])


@pytest.fixture(scope="module")
def summaries():
    """What each bench reports, of made-up timings."""
    return {
        "loader": loader_summary(),
        "kernels": kernels_summary(),
        "files": files_summary(),
        "train": train_summary(),
        "eval": eval_summary(),
        "gpu": Outcomes([]).summary(),
    }


def test_every_target_names_a_figure_that_its_bench_reports(judge, summaries):
    targets = judge.targets()
    assert set(targets) == set(summaries) < set(BENCHES)
    for bench, bounds in targets.items():
        unknown = [name for name in bounds if not judge.matching(summaries[bench], name)]
        assert not unknown, f"{bench}: reports {list(summaries[bench])}"
        assert all(len(bound) == 1 and set(bound) <= {"at_least", "at_most"} for bound in bounds.values())


def test_committed_reports_hold_every_target(judge):
    for bench, bounds in judge.targets().items():
        found = judge.reports(bench)
        assert found
        for file in found:
            summary = json.loads(file.read_text(encoding="utf-8"))["summary"]
            assert [name for name in bounds if not judge.matching(summary, name)] == [], file


def test_a_target_stands_for_every_setting(judge):
    summary = {"resnet50, 224 px: a : b": 1, "a : b": 2, "resnet50: other a : b": 3, "a : b, compiled": 4}
    assert list(judge.matching(summary, "a : b")) == ["resnet50, 224 px: a : b", "a : b"]


@pytest.mark.parametrize(
    ("median", "bound", "verdict"),
    [
        (3.0, {"at_least": 3}, "met"),
        (2.9, {"at_least": 3}, "missed"),
        (3.0, {"at_most": 3}, "met"),
        (3.1, {"at_most": 3}, "missed"),
    ],
)
def test_the_median_decides(judge, median, bound, verdict):
    assert judge.verdict({"median": median, "low": 0.0, "high": 9.0}, bound) == verdict
    assert judge.verdict(None, bound) == "not measured"


def test_a_report_is_judged_line_by_line(judge, tmp_path, capsys):
    figures = {"crop-resize : Pillow": Estimate.of([7.0, 7.5, 9.0]).json(), "crop-resize : OpenCV INTER_LINEAR": None}
    (tmp_path / "kernels.json").write_text(json.dumps({"summary": figures}))
    assert judge.judge("kernels", tmp_path / "kernels.json") is False
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["missed", "7.5", "[7,", "9]", "at", "least", "8", "crop-resize", ":", "Pillow"]
    assert [line.split()[0] for line in lines[2:]] == ["not"] * 3
