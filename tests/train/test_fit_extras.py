"""What a run may do besides: parts of a batch, growing views, compilation, the best weights, reports."""

import pytest
import torch
from fakes import FakeLoader, options, trainer, weights

from ffdr.config.learning import ModelOptions
from ffdr.models.build import load_model
from ffdr.train.update.optim import resolution_at
from ffdr.util.errors import UserError
from ffdr.util.ranks import Ranks


@pytest.mark.parametrize("parts", [2, 3, 16])
def test_a_batch_in_parts_is_the_same_batch(tmp_path, parts):
    model = ModelOptions("test_vit")
    whole, split = (trainer(tmp_path / str(n), model=model, accumulate=n, epochs=1) for n in (1, parts))
    records = [run.fit() for run in (whole, split)]
    assert records[1]["train_loss"] == pytest.approx(records[0]["train_loss"], rel=1e-5)
    for left, right in zip(weights(whole).values(), weights(split).values(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)


def test_views_grow_with_the_schedule(tmp_path):
    run = trainer(tmp_path, epochs=10, resolution=64, min_resolution=32, ramp=(0.3, 0.7), warmup_epochs=0.0)
    run.fit()
    assert run.loader.resolutions == [32] * 5 + [64] * 5
    many = [resolution_at(options("x", epochs=100, resolution=192, min_resolution=160), epoch) for epoch in range(100)]
    assert (many[0], many[74], many[86], many[99]) == (160, 160, 192, 192)
    assert set(many) == {160, 192}
    assert many == sorted(many)


def test_compiling_is_asked_for_by_its_mode(tmp_path, monkeypatch):
    asked = []
    real = torch.compile

    def compile_eagerly(function, mode, dynamic):
        asked.append((mode, dynamic))
        return real(function, backend="eager", dynamic=dynamic)

    monkeypatch.setattr(torch, "compile", compile_eagerly)
    val = FakeLoader(n=20, shuffle=False)
    runs = [trainer(tmp_path / mode, val_loader=val, compile=mode, epochs=1) for mode in ("off", "reduce-overhead")]
    losses = [run.fit()["train_loss"] for run in runs]
    assert asked == [("reduce-overhead", False), ("default", False)]  # the step, and evaluation
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert weights(runs[0]).keys() == weights(runs[1]).keys()


def test_ranks_that_see_different_checkpoints_are_told(tmp_path):
    class Apart(Ranks):
        def gather(self, value):
            return [value, 4]

    run = trainer(tmp_path, ranks=Apart())
    with pytest.raises(UserError, match=r"see checkpoints of steps \[None, 4\]"):
        run.fit()


def test_the_best_weights_are_kept_beside_the_last(tmp_path):
    val = FakeLoader(n=50, shuffle=False)
    run = trainer(tmp_path, val_loader=val, epochs=6, lr=1.0)
    run.fit()
    scores = [record["val_top1"] for record in run.log.records()]
    model, _ = load_model(tmp_path / "best.safetensors")
    val.set_epoch(0)
    hits = sum((model(images).argmax(1) == targets.label).sum().item() for images, targets, _ in val)
    assert hits / 50 == pytest.approx(max(scores))
    assert run.best == max(scores)


def test_the_report_has_a_table_and_a_plot(tmp_path):
    run = trainer(tmp_path, val_loader=FakeLoader(n=50, shuffle=False), epochs=3)
    record = run.fit()
    text = (tmp_path / "report.md").read_text()
    assert "3 epochs, 12 steps" in text
    assert f"| 3 | {record['train_loss']:.4f} | {record['val_top1']:.2%} |" in text
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
