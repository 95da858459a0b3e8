"""The training bench: ratios on known numbers, operations counted by hand, passes that do what they say."""

import json
from dataclasses import replace

import pytest
import timm
import torch
from torch import nn

from ffdr.augment.policy import Policy
from ffdr.bench import capacity, loops, published, settings, train
from ffdr.bench.loops import BareLoop, CachedBatches
from ffdr.bench.settings import Setting, TrainingFiles
from ffdr.bench.statistics import Estimate
from ffdr.bench.timing import Timing
from ffdr.config.measuring import BenchOptions
from ffdr.loader.loader import ReinforcedLoader
from ffdr.train.student import build_student
from ffdr.util.errors import UserError

CPU = torch.device("cpu")
SETTING = Setting("test_efficientnet", "float32", 32, 25, 2, "off", 1, CPU)


def figures(**changes):
    """Three rounds of 50 images; the machine halves its speed in the second."""
    seconds = {
        train.STEP: 1.0,
        train.FIT: 1.02,
        train.BOTH: 1.25,
        train.LOADER: 0.1,
        train.TIMM: 1.0,
        train.TIMM_COMPILED: 0.5,
    }
    timings = {name: Timing((x, 2 * x, x), 50) for name, x in seconds.items()}
    timings[train.PRODUCTS] = Timing((0.1, 0.2, 0.1), 10**9)
    setting = Setting(**(SETTING.__dict__ | changes))
    memory = dict.fromkeys(seconds, 2**30)
    return train.TrainingTimes(setting, timings, {train.VISION: "none"}, memory, Estimate.of([0.1, 0.2, 0.1]), 10**7)


def test_ratios_compare_the_same_round():
    known = figures()
    assert known.end_to_end.values == pytest.approx([0.8] * 3)
    assert known.loop_time.values == pytest.approx([1.02] * 3)
    assert figures(compile="default").loop_time.values == pytest.approx([2.04] * 3)
    # 50 images/s of 10 MFLOPs on a device that does 10 GFLOP/s.
    assert known.utilisation(train.STEP).values == pytest.approx([0.05] * 3)


def test_the_summary_compares_the_fastest_step_with_the_published_rate_of_the_card(monkeypatch):
    label = "test_efficientnet, 32 px, float32"
    resnets = [figures(model="resnet50", resolution=224, precision=x) for x in ("float32", "bfloat16")]
    faster = resnets[1].timings | {train.STEP: Timing((0.5,) * 3, 50)}
    resnets[1] = replace(resnets[1], timings=faster)
    here = train.summary([figures(), *resnets])
    assert here["step : published rate"] is None and len(here) == 7
    assert here[f"{label}: end to end : step on cached batches"].median == pytest.approx(0.8)
    assert here[f"{label}: fit loop's time : plain loop's, both on cached batches"].median == pytest.approx(1.02)
    for card, rate in (("NVIDIA H200", 3079), ("NVIDIA H100 80GB HBM3", 2790)):
        monkeypatch.setattr(published, "published_rates", lambda device, card=card: published.rates_of(card))
        assert train.summary([figures(), *resnets])["step : published rate"].median == pytest.approx(100 / rate)
        assert train.summary([figures()])["step : published rate"] is None


def test_the_table_shows_what_was_skipped():
    text = str(train._table(figures()))
    assert "| none" in text and "1,024" in text and "| 5.0 [2.5, 5.0]" not in text
    assert "10.0 % of the time" in text


@pytest.mark.parametrize("name", ["test_efficientnet", "resnet18"])
def test_operations_are_those_of_all_convolutions(name):
    total, size = 0, 64
    model = timm.create_model(name, num_classes=10).eval()

    def count(layer, given, out):
        nonlocal total
        places = out[0, 0].numel() if isinstance(layer, nn.Conv2d) else 1
        total += 2 * layer.weight.numel() * places

    for layer in model.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.register_forward_hook(count)
    model(torch.zeros(1, 3, size, size))
    assert capacity.training_flops(name, 10, size) == 3 * total


def test_matrix_products_count_their_operations(monkeypatch):
    monkeypatch.setitem(capacity._SIDE, "cpu", 10)
    monkeypatch.setitem(capacity._PRODUCTS, "cpu", 3)
    work = capacity.matrix_products(CPU, torch.bfloat16)
    work.run()
    assert work.units == 3 * 2 * 1000
    assert torch.get_float32_matmul_precision() == "highest"


def test_memory_is_the_highest_since_the_restart():
    peak = capacity.PeakMemory(CPU)
    if peak.bytes is None:
        pytest.skip("the system does not let a process reset its highest memory")
    torch.ones(200 * 2**20)  # 800 MiB
    high = peak.bytes
    peak.restart()
    base = peak.bytes
    torch.ones(50 * 2**20)  # 200 MiB
    assert 700 < (high - base) / 2**20 < 900
    assert 150 < (peak.bytes - base) / 2**20 < 250


def test_the_last_batches_of_an_epoch_are_read_and_learned_from(digits, tmp_path):
    trainer = loops.new_trainer(SETTING, TrainingFiles(digits, 100, "", "erm"), tmp_path)
    whole = ReinforcedLoader(digits, policy=Policy(), batch_size=25, resolution=32, workers=1)
    epochs = [[index for _, _, index in whole] for _ in range(3)]
    read = [index for _, _, index in loops.read_last(trainer.loader, 2)]
    assert torch.equal(torch.stack(read), torch.stack(epochs[0][2:]))
    seen = []
    learn = trainer._train_batch
    trainer._train_batch = lambda images, targets: (seen.append(targets.label), learn(images, targets))
    before = trainer.model.get_classifier().weight.clone()
    for epoch in (0, 1):
        record = loops.train_on_last(trainer, 2)
        assert record["epoch"] == epoch + 1 and record["step"] == 4 * (epoch + 1)
        assert 0 < record["data_wait"] < 1
    labels = torch.from_numpy(whole.images.labels.copy())
    expected = [labels[index] for batches in epochs[:2] for index in batches[2:]]
    assert torch.equal(torch.stack(seen), torch.stack(expected))
    assert not torch.equal(before, trainer.model.get_classifier().weight)


def test_the_plain_loop_learns_what_ffdrs_step_learns(digits, tmp_path):
    """Same start, same batches, labels: after a pass the weights agree."""
    trainer = loops.new_trainer(SETTING, TrainingFiles(digits, 100, "", "erm"), tmp_path)
    batches = loops.read_last(trainer.loader, 4)
    ours = loops.on_cached(trainer, batches, 4)
    start = ours.model.state_dict()["conv_stem.weight"].clone()
    loops.step_through(ours)
    plain = BareLoop(build_student(trainer.options, trainer.model_options, 10, CPU).model, trainer.options, None, "off")
    plain(CachedBatches(batches, 4, 10))
    for (name, mine), theirs in zip(ours.model.state_dict().items(), plain.model.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5, msg=name)
    assert not torch.equal(start, plain.model.state_dict()["conv_stem.weight"])


def test_cached_batches_come_again_and_again():
    batches = [(torch.full((3, 1), x), None, None) for x in (1, 2)]
    loader = CachedBatches(batches, 5, 10)
    assert [int(images[0]) for images, _, _ in loader] == [1, 2, 1, 2, 1]
    assert len(loader) == 5 and loader.num_images == 15


def test_every_combination_is_planned(monkeypatch):
    options = BenchOptions(models=("resnet18", "resnet50"), precisions=("auto", "bfloat16"), resolutions=(64, 96))
    labels = [setting.label for setting in settings.plan(options, CPU)]
    assert len(labels) == 8 and labels[0] == "resnet18, 64 px, float32" and labels[-1] == "resnet50, 96 px, bfloat16"
    monkeypatch.setattr(settings, "why_not_compile", lambda device: "")
    default = settings.plan(BenchOptions(), torch.device("cuda"))[0]
    assert (default.model, default.resolution, default.batch_size) == ("resnet50", 224, 256)
    assert default.compile == "default"
    monkeypatch.setattr(settings, "why_not_compile", lambda device: "no compiler")
    assert settings.plan(BenchOptions(), torch.device("cuda"))[0].compile == "off"


def test_a_pass_has_no_more_steps_than_the_images_fill():
    assert SETTING.within(1000).steps == 2 and SETTING.within(49).steps == 1
    assert SETTING.within(49).images == 25
    with pytest.raises(UserError, match="24 images do not fill one batch of 25"):
        SETTING.within(24)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"models": ("resnet5",)}, r"timm has no model 'resnet5' \(did you mean resnet50"),
        ({"precisions": ("float16",)}, "bench.precisions: float16 needs a GPU"),
        ({"compile": "default"}, r"bench.compile: torch.compile does not work here \(no compiler\); use off"),
    ],
)
def test_impossible_plans_are_refused(options, message, monkeypatch):
    monkeypatch.setattr(settings, "why_not_compile", lambda device: "no compiler")
    with pytest.raises(UserError, match=message):
        settings.plan(BenchOptions(**options), CPU)


def test_options_that_do_not_go_together_are_refused():
    with pytest.raises(UserError, match=r"bench.data: bench.reinforced needs"):
        BenchOptions(reinforced="x.beton")
    with pytest.raises(UserError, match=r"bench.compile: 'of' is not one of .* \(did you mean off\?\)"):
        BenchOptions(compile="of")


def test_the_bench_stores_what_it_measured(digits, reinforced_digits, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(settings, "why_not_compile", lambda device: "no compiler")
    monkeypatch.setitem(capacity._SIDE, "cpu", 256)
    options = BenchOptions(
        models=("resnet18",),
        resolutions=(32,),
        batch_size=10,
        steps=2,
        repeats=3,
        data=str(digits),
        reinforced=str(reinforced_digits),
        json=str(tmp_path / "train.json"),
    )
    train.bench_train(options)
    assert "torchvision, plain loop, compiled, cached batches" in capsys.readouterr().out
    stored = json.loads((tmp_path / "train.json").read_text())
    one = stored["settings"]["resnet18, 32 px, float32"]
    assert one["batch_size"] == 10 and one["steps"] == 2
    assert one["skipped"] == dict.fromkeys(
        (train.TIMM_COMPILED, train.VISION_COMPILED), "torch.compile does not work here: no compiler"
    )
    passes = one["passes"]
    assert set(passes) == {train.STEP, train.FIT, train.LOADER, train.BOTH, train.TIMM, train.VISION}
    for figure in passes.values():
        rates = [figure["images"] / seconds for seconds in figure["seconds"]]
        assert figure["images"] == 20 and figure["images_per_second"]["values"] == pytest.approx(rates)
    both, step = (passes[name]["images_per_second"]["values"] for name in (train.BOTH, train.STEP))
    assert one["end_to_end"]["values"] == pytest.approx([a / b for a, b in zip(both, step, strict=True)])
    assert 0 < one["data_wait"]["median"] < 1 and len(one["data_wait"]["values"]) == 3
    assert len(stored["summary"]) == 3 and stored["environment"]["torch"]
