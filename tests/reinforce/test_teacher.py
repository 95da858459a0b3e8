"""The teacher: averaging, feeding each member as it wants, and what is stored of its predictions."""

import functools
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ffdr.beton.header import UNUSED
from ffdr.config import recipe
from ffdr.config.learning import ModelOptions, TeacherOptions
from ffdr.evaluate.classes import synsets
from ffdr.models.build import (
    ModelInfo,
    build_model,
    class_digest,
    save_model,
)
from ffdr.reinforce import teacher as teacher_module
from ffdr.reinforce.teacher import Member, Teacher
from ffdr.reinforce.topk import topk
from ffdr.util.errors import UserError

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


class Linear(torch.nn.Module):
    """A model that sees every pixel: flattens and multiplies. Records what it was fed."""

    def __init__(self, resolution, classes, seed):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = torch.nn.Parameter(torch.randn(3 * resolution**2, classes, generator=generator) / resolution)
        self.seen = []

    def forward(self, x):
        self.seen.append(x)
        return x.flatten(1) @ self.weight


def member(resolution=8, classes=5, seed=0, mean=MEAN, std=STD, fed=None):
    return Member(f"linear{seed}", Linear(resolution, classes, seed), fed if fed is not None else resolution, mean, std)


def pixels(n=6, size=8, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype=np.uint8))


def column(values):
    return torch.tensor(values)[:, None, None]


def by_hand(entry, images):
    """One image at a time, in float64."""
    x = images.permute(0, 3, 1, 2).double() / 255
    x = (x - column(entry.mean)) / column(entry.std)
    return (x.flatten(1) @ entry.model.weight.double()).softmax(1)


def test_averages_probabilities_not_logits():
    members = [member(seed=1), member(seed=2, mean=(0.0,) * 3, std=(1.0,) * 3)]
    expected = (by_hand(members[0], pixels()) + by_hand(members[1], pixels())) / 2
    answer = Teacher(members, 5, "cpu").log_probs(pixels())
    assert answer.dtype == torch.float32 and answer.shape == (6, 5)
    torch.testing.assert_close(answer.double().exp(), expected, atol=1e-5, rtol=1e-4)


def test_both_layouts_and_any_chunk_agree():
    images = pixels(7)
    whole = Teacher([member()], 5, "cpu").log_probs(images)
    for size in (1, 3, 7, 100):
        chunked = Teacher([member()], 5, "cpu", batch_size=size).log_probs(images.permute(0, 3, 1, 2).contiguous())
        torch.testing.assert_close(chunked, whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mean_std", [(MEAN, STD), ((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))])
def test_normalised_images_give_the_same_answer_as_pixels(mean_std):
    images = pixels()
    normalised = (images.permute(0, 3, 1, 2) / 255 - column(mean_std[0])) / column(mean_std[1])
    teacher = Teacher([member(), member(seed=2, mean=(0.0,) * 3)], 5, "cpu")
    torch.testing.assert_close(
        teacher.log_probs_normalised(normalised, *mean_std), teacher.log_probs(images), atol=1e-4, rtol=1e-4
    )


def test_a_member_sees_its_own_resolution():
    entry = member(resolution=4, mean=(0.0,) * 3, std=(1.0,) * 3)
    Teacher([entry], 5, "cpu").log_probs(pixels(size=8))
    expected = F.interpolate(
        pixels(size=8).permute(0, 3, 1, 2).float() / 255, (4, 4), mode="bilinear", antialias=True, align_corners=False
    )
    torch.testing.assert_close(entry.model.seen[0], expected)
    assert entry.model.seen[0].is_contiguous(memory_format=torch.channels_last)


def test_images_may_come_at_each_members_size():
    """A member takes the images of its own size untouched; one without a size of its own takes those under 0."""
    plain = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
    members = [member(resolution=4, seed=1, **plain), member(resolution=8, seed=2, fed=0, **plain)]
    sizes = {4: pixels(size=4, seed=1), 0: pixels(size=8, seed=2)}
    answer = Teacher(members, 5, "cpu", batch_size=4).log_probs_at(sizes)
    expected = (by_hand(members[0], sizes[4]) + by_hand(members[1], sizes[0])) / 2
    torch.testing.assert_close(answer.double().exp(), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("fed", [8, 0])
def test_images_of_the_right_size_are_not_resampled(fed):
    entry = member(fed=fed, mean=(0.0,) * 3, std=(1.0,) * 3)
    Teacher([entry], 5, "cpu").log_probs(pixels())
    assert torch.equal((entry.model.seen[0] * 255).round().byte(), pixels().permute(0, 3, 1, 2))


def test_a_student_can_learn_from_the_answer():
    answer = Teacher([member()], 5, "cpu").log_probs(pixels())
    student = torch.zeros(6, 5, requires_grad=True)
    F.kl_div(student.log_softmax(1), answer, log_target=True, reduction="batchmean").backward()
    assert not answer.is_inference() and student.grad.abs().sum() > 0


def test_members_are_left_in_evaluation_mode_without_gradients():
    entry = member()
    entry.model.train()
    Teacher([entry], 5, "cpu")
    assert not entry.model.training and not entry.model.weight.requires_grad


@pytest.mark.parametrize("wrong", [torch.zeros(2, 8, 8, 3), torch.zeros(8, 8, 3, dtype=torch.uint8)])
def test_other_arrays_are_refused(wrong):
    with pytest.raises(ValueError, match="uint8"):
        Teacher([member()], 5, "cpu").log_probs(wrong)


@pytest.fixture
def checkpoint(tmp_path):
    model = build_model(ModelOptions("test_resnet"), 5, 32)
    save_model(tmp_path / "teacher.safetensors", model, ModelInfo("test_resnet", 5, 40, MEAN, STD))
    return model.eval(), str(tmp_path / "teacher.safetensors")


def test_from_options_feeds_members_as_their_checkpoints_say(checkpoint):
    model, path = checkpoint
    teacher = Teacher.from_options(TeacherOptions(models=f"test_resnet:{path}, test_resnet:{path}"), 5, "cpu")
    assert teacher.names == ("test_resnet", "test_resnet")
    assert [(m.resolution, m.mean, m.std) for m in teacher.members] == [(40, MEAN, STD)] * 2
    x = (pixels(size=40).permute(0, 3, 1, 2) / 255 - column(MEAN)) / column(STD)
    torch.testing.assert_close(teacher.log_probs(pixels(size=40)), model(x).log_softmax(1), atol=1e-4, rtol=1e-4)


def test_the_resolution_asked_for_wins(checkpoint):
    options = TeacherOptions(models=f"test_resnet:{checkpoint[1]}", resolution=64)
    assert Teacher.from_options(options, 5, "cpu").members[0].resolution == 64


def test_bfloat16_is_close(checkpoint):
    options = TeacherOptions(models=f"test_resnet:{checkpoint[1]}", precision="bfloat16")
    low = Teacher.from_options(options, 5, "cpu").log_probs(pixels(size=40))
    high = Teacher.from_options(TeacherOptions(models=options.models), 5, "cpu").log_probs(pixels(size=40))
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, high, atol=0.05, rtol=0.05)


def test_a_compiled_teacher_says_the_same(monkeypatch):
    """Traced for real; the slow step, making machine code of it, is PyTorch's own."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    members = [member(seed=1), member(resolution=4, seed=2)]
    expected = Teacher(members, 5, "cpu").log_probs(pixels())
    compiled = Teacher(members, 5, "cpu", compile=True)
    torch.testing.assert_close(compiled.log_probs(pixels()), expected, atol=1e-5, rtol=1e-5)
    assert compiled.identity() != Teacher(members, 5, "cpu").identity()
    assert compiled.signatures() == Teacher(members, 5, "cpu").signatures()


def test_a_teacher_that_cannot_be_compiled_is_one_line(monkeypatch):
    from torch._dynamo.exc import TorchDynamoException

    def fail(function, **settings):
        def call(x):
            raise TorchDynamoException("no compiler\nfound")

        return call

    monkeypatch.setattr(torch, "compile", fail)
    with pytest.raises(UserError, match=r"teacher.compile: torch.compile can't run this .no compiler found.; turn"):
        Teacher([member()], 5, "cpu", compile=True).log_probs(pixels())


def test_a_path_may_hold_commas_and_colons(checkpoint, tmp_path):
    """Escaped on the command line, as they are in a list of YAML's; spaces around an entry do not count."""
    odd = tmp_path / "a,b:c, d.safetensors"
    odd.write_bytes(Path(checkpoint[1]).read_bytes())
    escaped = str(odd).replace(",", "\\,")
    file = tmp_path / "r.yaml"
    file.write_text(f"teacher: {{models: ['test_resnet:{odd}', 'test_resnet:{checkpoint[1]}']}}\n")
    flags = ["--reinforce.images=i.beton", "--reinforce.out=o.beton"]
    asked = [
        recipe.parse("reinforce", [*flags, f"--teacher.models=test_resnet:{escaped}, test_resnet:{checkpoint[1]}"]),
        recipe.parse("reinforce", [*flags, "--config-file", str(file)]),
    ]
    for options in (asked[0].teacher, asked[1].teacher, TeacherOptions(models=asked[0].teacher.models)):
        members = Teacher.from_options(options, 5, "cpu").members
        assert [member.source for member in members] == [f"test_resnet:{odd}", f"test_resnet:{checkpoint[1]}"]


def named(names, path="i.beton"):
    """What a teacher must know of the images."""
    return SimpleNamespace(class_names=tuple(names), num_classes=len(names), path=path)


def save_named(path, names, order=None):
    model = build_model(ModelOptions("test_resnet"), len(names), 32)
    save_model(path, model, ModelInfo("test_resnet", len(names), 32, MEAN, STD, classes=class_digest(order or names)))
    return TeacherOptions(models=f"test_resnet:{path}")


def test_a_teacher_of_other_class_names_is_refused(tmp_path):
    words = ["zero", "one", "two", "three", "four"]
    options = save_named(tmp_path / "t.safetensors", words)
    Teacher.from_options(options, 5, "cpu", images=named(words))
    with pytest.raises(UserError, match=r"t\.safetensors: not for i\.beton: its class names are not those") as error:
        Teacher.from_options(options, 5, "cpu", images=named("01234"))
    assert "teacher.classes=any" in str(error.value) and "\n" not in str(error.value)
    Teacher.from_options(replace(options, classes="any"), 5, "cpu", images=named("01234"))
    with pytest.raises(UserError, match=r"teacher\.classes: 'all' is not one of same, any"):
        replace(options, classes="all")


def test_an_ensemble_that_disagrees_on_the_classes_is_refused(tmp_path):
    one, two = (save_named(tmp_path / f"{name}.safetensors", list(names)) for name, names in (("a", "ab"), ("b", "ba")))
    with pytest.raises(UserError, match=r"b\.safetensors: not for"):
        Teacher.from_options(TeacherOptions(models=(*one.models, *two.models)), 2, "cpu", images=named("ab"))


@pytest.mark.parametrize(
    ("order", "text"), [(sorted, "sorted as text"), (lambda names: sorted(names, key=int), "sorted by number")]
)
def test_the_same_names_in_another_order_are_named_as_such(tmp_path, order, text):
    names = ["0", "10", "9", "1"]
    options = save_named(tmp_path / "t.safetensors", names, order(names))
    with pytest.raises(UserError, match=f"trained with: the same names, but {text}"):
        Teacher.from_options(options, 4, "cpu", images=named(names))


def test_imagenets_classes_in_another_order_than_timms(checkpoint, monkeypatch):
    """Weights without a digest: what can be known is said."""
    info = ModelInfo("resnet50.a1_in1k", 1000, 224, MEAN, STD)
    monkeypatch.setattr(teacher_module, "load_named", lambda *_, **__: (torch.nn.Identity(), info))
    options, numbers = TeacherOptions(models="resnet50.a1_in1k"), [str(number) for number in range(1000)]
    for names, text in (
        (sorted(numbers), r"not for i\.beton: its classes are numbers, but sorted as text; name the folders 0000 to"),
        (synsets()[::-1], "ImageNet's synsets, but not in timm's order"),
    ):
        with pytest.raises(UserError, match=text):
            Teacher.from_options(options, 1000, "cpu", images=named(names))
        Teacher.from_options(replace(options, classes="any"), 1000, "cpu", images=named(names))
    for names in (numbers, synsets(), [f"class {number}" for number in numbers]):
        Teacher.from_options(options, 1000, "cpu", images=named(names))


def test_a_size_at_which_timm_itself_evaluates_is_mentioned(checkpoint, monkeypatch, capsys):
    """Only of weights that are fed as timm says, and only where nobody asked for a size."""
    for name, resolution, mentioned in (
        ("convnext_tiny.fb_in1k", 0, True),
        ("convnext_tiny.fb_in1k", 224, False),
        ("resnet50.tv_in1k", 0, False),
    ):
        info = ModelInfo(name, 5, 224, MEAN, STD)
        with monkeypatch.context() as patched:
            patched.setattr(teacher_module, "load_named", lambda *_, info=info, **__: (torch.nn.Identity(), info))
            Teacher.from_options(TeacherOptions(models=name, resolution=resolution), 5, "cpu")
        said = capsys.readouterr().err
        assert (f"timm evaluates {name} at 288 px; it sees 224 px here" in said) is mentioned
        assert "teacher.resolution=288" in said or not mentioned
    Teacher.from_options(TeacherOptions(models=f"test_resnet:{checkpoint[1]}"), 5, "cpu")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ("", "give NAME"),
        ("test_resnet:{path},", "'', one of 2: give NAME"),
        ("{path}", "give NAME"),
        (
            "test_resnet:/a/b,c.pt",
            r"'test_resnet:/a/b', one of 2: /a/b: no such file; a comma within a path is",
        ),
        ("tf_efficientnet_b0_ns", r"timm now calls it tf_efficientnet_b0\.ns_jft_in1k"),
        ("test_resnet:{path}", "has 5 classes, but the data has 7"),
        ("test_vit:{path}", "holds a test_resnet, but test_vit"),
        ("test_resnt:nowhere.pt", "nowhere.pt: no such file"),
    ],
)
def test_a_list_that_cannot_be_loaded_is_one_clear_line(models, message, checkpoint):
    with pytest.raises(UserError, match=message):
        Teacher.from_options(TeacherOptions(models=models.format(path=checkpoint[1])), 7, "cpu")


def test_topk_sorts_best_first_and_gives_ties_to_the_lower_id():
    ids, logs = topk(torch.tensor([[0.1, 0.3, 0.1, 0.4, 0.1]]).log(), 4)
    assert ids.dtype == np.uint16 and logs.dtype == np.float16
    assert ids.tolist() == [[3, 1, 0, 2]]
    np.testing.assert_allclose(np.exp(logs.astype(float)), [[0.4, 0.3, 0.1, 0.1]], rtol=2e-3)
    assert topk(torch.full((1, 5000), 1 / 5000).log(), 100)[0][0].tolist() == list(range(100))


def test_topk_marks_slots_without_probability_as_unused():
    ids, logs = topk(torch.tensor([[-torch.inf, 0.0, -1e6]]), 5)
    assert ids.tolist() == [[1, 0, 0, 0, 0]]
    assert logs.tolist() == [[0, UNUSED, UNUSED, UNUSED, UNUSED]]


@pytest.mark.parametrize("C", [2, 10, 1000, 60000])
def test_topk_never_exceeds_one(C):
    rng = torch.Generator().manual_seed(C)
    flat = torch.full((1, C), 1 / C).log()
    peaked = (torch.randn(20, C, generator=rng) * 4).log_softmax(1)
    nearly_flat = (torch.randn(20, C, generator=rng) * 0.1).log_softmax(1)
    for k in (1, 10, C):
        _, logs = topk(torch.cat([flat, peaked, nearly_flat]), k)
        assert np.isfinite(logs).all()
        assert (np.diff(logs.astype(float)) <= 0).all()
        assert np.exp(logs.astype(np.float64)).sum(1).max() <= 1 + 1e-3


def test_topk_rounds_to_nearest_where_it_can():
    logp = torch.tensor([[0.9, 0.06, 0.04]]).log()
    np.testing.assert_array_equal(topk(logp, 2)[1], logp[:, :2].numpy().astype(np.float16))


def test_topk_refuses_what_it_cannot_store():
    with pytest.raises(ValueError, match="not a number"):
        topk(torch.tensor([[0.0, torch.nan]]), 2)
    with pytest.raises(ValueError, match="65537 classes"):
        topk(torch.zeros(1, 65537), 2)
