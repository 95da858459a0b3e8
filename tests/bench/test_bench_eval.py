"""The evaluation bench: its passes compute the same, on as many images as they say, and it stores what it measured."""

import json

import pytest
import torch

from ffdr.bench import evaluate
from ffdr.bench.settings import Setting
from ffdr.beton.read import ImageBeton
from ffdr.config.measuring import BenchOptions

SETTING = Setting("test_efficientnet", "bfloat16", 32, 40, 2, "off", 1, torch.device("cpu"))


def test_both_passes_show_the_model_the_same_in_the_same_way(digits, monkeypatch):
    seen = []

    class Watched(torch.nn.Linear):
        def forward(self, images):
            precise = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
            seen.append((images, images.stride(), precise, torch.is_inference_mode_enabled(), self.training))
            return super().forward(images.mean((2, 3)))

    monkeypatch.setattr(evaluate, "build_model", lambda options, classes, resolution: Watched(3, classes))
    images = ImageBeton.open(digits)
    work = evaluate.passes(SETTING, images)
    work[evaluate.EVALUATION].run()
    evaluation, seen[:] = list(seen), []
    work[evaluate.FORWARD].run()
    assert work[evaluate.EVALUATION].units == work[evaluate.LOADER].units == images.num_images == 100
    assert [len(x) for x, *_ in evaluation] == [40, 40, 20]
    assert work[evaluate.FORWARD].units == 80 and [len(x) for x, *_ in seen] == [40, 40]
    for (x, *how), (y, *like) in zip(evaluation[:2], seen, strict=True):
        assert torch.equal(x, y) and x.std() > 0.1
        assert how == like and how[1:] == [torch.bfloat16, True, False]


def test_the_pass_ends_with_a_report_of_all_images(digits):
    images = ImageBeton.open(digits)
    report = evaluate.passes(SETTING, images)[evaluate.EVALUATION].run()
    assert report["images"] == 100 and 0 <= report["top1"] <= 1


def test_the_bench_stores_what_it_measured(digits, tmp_path, capsys):
    options = BenchOptions(
        models=("test_efficientnet",),
        resolutions=(32, 48),
        batch_size=40,
        steps=9,
        repeats=3,
        data=str(digits),
        json=str(tmp_path / "eval.json"),
    )
    evaluate.bench_eval(options)
    out = capsys.readouterr().out
    assert "| forward pass, cached batches |" in out
    stem = tmp_path / "eval"
    assert out.endswith(f"\n{stem}.json, {stem}.md: figures and tables; next: ffdr bench doctor\n")
    stored = json.loads((tmp_path / "eval.json").read_text())
    assert len(stored["settings"]) == len(stored["summary"]) == 2
    one = stored["settings"]["test_efficientnet, 48 px, float32"]
    assert (one["batch_size"], one["steps"]) == (40, 2)
    rates = {}
    for name, figure in one["passes"].items():
        rates[name] = [figure["images"] / seconds for seconds in figure["seconds"]]
        assert figure["images_per_second"]["values"] == pytest.approx(rates[name])
    ratios = [a / b for a, b in zip(rates[evaluate.EVALUATION], rates[evaluate.FORWARD], strict=True)]
    assert one["evaluation_to_forward"]["values"] == pytest.approx(ratios)
    name = "test_efficientnet, 48 px, float32: evaluation : forward pass on cached batches"
    assert stored["summary"][name] == one["evaluation_to_forward"]
    assert stored["environment"]["torch"] and (tmp_path / "eval.md").exists()
