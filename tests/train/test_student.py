"""Every size and every part of a batch is tried before the first step, and that leaves no trace."""

import pytest
import torch
from fakes import FakeLoader, FakeTeacher, options, same, trainer, weights

from ffdr.config.learning import ModelOptions
from ffdr.train.student import Trial, build_student
from ffdr.util.errors import UserError
from ffdr.util.ranks import Ranks

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eval_resolution": 8}, r"train\.eval_resolution: test_convnext can't take images of 8 px"),
        ({"resolution": 64, "min_resolution": 8}, r"train\.min_resolution: test_convnext can't take images of 8 px"),
    ],
)
def test_a_size_that_comes_late_is_tried_first(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        trainer(tmp_path / "run", model=ModelOptions("test_convnext"), **changes)
    assert not (tmp_path / "run").exists()


def test_every_size_of_the_run_is_shown_once(tmp_path, monkeypatch):
    shown = []
    real = Trial._show
    monkeypatch.setattr(Trial, "_show", lambda trial, size, *rest: (shown.append(size), real(trial, size, *rest)))
    trainer(tmp_path, epochs=10, resolution=96, min_resolution=32, ramp=(0.1, 0.9), eval_resolution=128)
    assert shown == [32, 64, 128]  # 96: build_model has shown that


def test_trying_leaves_the_student_as_it_was(tmp_path):
    """Same bits and same mode, batch statistics and the generator's state included."""
    plain = trainer(tmp_path / "plain", epochs=1)
    untouched = build_student(plain.options, plain.model_options, 4, CPU)
    state = torch.get_rng_state()
    trial = Trial(plain.options, untouched, None)
    trial._show(64, 2, "train.resolution")
    assert torch.equal(state, torch.get_rng_state())
    assert untouched.model.training and same(dict(untouched.model.state_dict()), dict(plain.model.state_dict()))
    ends = []
    for name, size in (("without", 0), ("with", 48)):
        run = trainer(tmp_path / name, model=ModelOptions("test_efficientnet"), eval_resolution=size, epochs=1)
        run.fit()
        ends.append(weights(run))
    assert same(*ends)


@pytest.mark.parametrize(
    ("given", "ranks"),
    [
        ({"batch_size": 1}, Ranks()),
        ({"batch_size": 4, "accumulate": 4}, Ranks()),
        ({"batch_size": 7, "accumulate": 3}, Ranks()),  # 3, 3 and 1
        ({"batch_size": 8, "accumulate": 4}, Ranks(0, 2)),
    ],
)
@pytest.mark.parametrize(("size", "name"), [(32, "test_resnet"), (64, "test_resnet"), (32, "test_vit")])
def test_one_image_for_batch_norm_is_told(given, ranks, size, name, capfd):
    """test_resnet's last maps have one value of a 32 px image, four of a 64 px one; test_vit has no batch norm."""
    given = options("run", resolution=size, **given)
    student = build_student(given, ModelOptions(name), 4, CPU)
    trial = Trial(given, student, None)
    if (name, size) == ("test_resnet", 32):
        with pytest.raises(UserError, match=r"train\.batch_size, train\.accumulate: .* batch norm, which needs 2"):
            trial.batch_norm(ranks)
        student.model.train()
        with pytest.raises(ValueError, match="more than 1 value"):  # so says torch
            student.model(torch.zeros(1, 3, size, size))
        return
    trial.batch_norm(ranks)
    err = capfd.readouterr().err
    assert ("one image at a time" in err and err.count("\n") == 1) == (name == "test_resnet")


@pytest.mark.parametrize("given", [{"batch_size": 16, "accumulate": 8}, {"batch_size": 7, "accumulate": 2}])
def test_two_images_for_batch_norm_are_enough(tmp_path, given, capfd):
    trainer(tmp_path, **given)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("lazy", [False, True])
def test_a_teacher_that_answers_nan_is_named(tmp_path, lazy):
    class Broken(FakeTeacher):
        names = ("resnet50",)

        def log_probs_normalised(self, images, mean, std):
            answer = super().log_probs_normalised(images, mean, std)
            return answer * torch.nan if len(self.asked) > 5 else answer

    run = trainer(tmp_path, FakeLoader(), teacher=Broken(), task="kd")
    run.step.guard._lazy = lazy
    with pytest.raises(UserError) as caught:
        run.fit()
    text = str(caught.value)
    assert text.startswith("teacher.models: the teacher's outputs (resnet50) are not finite by step ")
    assert "teacher.precision" in text and "normalisation" in text and "train.lr" not in text
    assert all(parameter.isfinite().all() for parameter in run.model.parameters())


def test_batch_norm_of_one_rank_is_not_shared_in_silence(capfd):
    given = options("run", sync_batchnorm=True)
    Trial(given, build_student(given, ModelOptions("test_resnet"), 4, CPU), None).batch_norm(Ranks())
    assert capfd.readouterr().err.startswith("train.sync_batchnorm does nothing here")
