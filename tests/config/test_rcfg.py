"""The recipes in rcfg/: each resolves, each model builds for the recipe's sizes, no file repeats what its base says."""

from dataclasses import replace

import pytest
import timm
import torch
from recipes import FILES, RUNS, bases, load, merged, name, own, verb

from ffdr.train.dry_run.summary import KnownData, plan_work

MODELS = {
    "resnet50": 25.6,
    "resnet50d": 25.6,
    "mobilenetv3_large_100": 5.5,
    "efficientnet_b2": 9.1,
    "vit_tiny_patch16_224": 5.7,
    "vit_small_patch16_224": 22.1,
    "vit_base_patch16_224": 86.6,
    "swin_tiny_patch4_window7_224": 28.3,
}
"""Millions of parameters with 1,000 classes, as timm publishes them."""
SMALL = {"cifar100": (50000, 100, 1000), "flowers102": (1020, 102, 10000), "food101": (75750, 101, 1000)}
"""Training images, classes, epochs."""


@pytest.mark.parametrize("file", RUNS, ids=name)
def test_every_recipe_resolves_to_what_its_files_say(file):
    options = load(file)
    for key, value in merged(file).items():
        section, _, option = key.partition(".")
        found = getattr(getattr(options, section, options), option)
        if isinstance(found, tuple):
            value = tuple(value.split(",") if isinstance(value, str) else value)
        assert found == value


@pytest.mark.parametrize("file", FILES, ids=name)
def test_a_file_holds_only_what_differs_from_its_bases(file):
    inherited = {}
    for base in bases(file):
        inherited |= merged(base)
    assert not [key for key, value in own(file).items() if inherited.get(key) == value]


def test_every_part_belongs_to_a_recipe():
    used = set()
    todo = list(RUNS)
    while todo:
        found = bases(todo.pop())
        used.update(found)
        todo.extend(found)
    assert {file.resolve() for file in FILES} - {file.resolve() for file in RUNS} <= used


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("suffix", "budgets"), [("-short", (16, 32, 88)), ("", (150, 300, 1000))])
def test_imagenet_has_every_model_task_and_budget(model, suffix, budgets):
    for epochs in budgets:
        erm, plus = (load(f"imagenet/{model}/{task}{suffix}", f"--train.epochs={epochs}") for task in ("erm", "plus"))
        assert (erm.train.task, plus.train.task) == ("erm", "dr")
        assert erm.train.epochs == plus.train.epochs == epochs
        assert erm.model.name in (model, {"resnet50": "resnetblur50"}.get(model))
        same = {"task": "erm", "label_smoothing": 0.1, "reinforced_share": 1.0}
        assert replace(plus.train, **same) == erm.train
        assert plus.model == erm.model and plus.data == erm.data
    assert load(f"imagenet/{model}/erm{suffix}").train.epochs == budgets[0]


def shapes():
    """One recipe for each model and set of sizes, with a readable name."""
    found = {}
    for file in RUNS:
        if verb(file) == "train":
            r = load(file)
            found.setdefault((r.model, r.train.resolution, r.train.min_resolution, r.train.eval_resolution), file)
    return list(found.values())


@pytest.mark.parametrize("file", shapes(), ids=name)
def test_every_model_builds_and_takes_the_sizes_of_its_recipe(file):
    options = load(file)
    data = KnownData(options.data.images, options.data.classes, "")
    work = plan_work(replace(options, train=replace(options.train, batch_size=1)), data)
    sizes = {options.train.resolution, options.train.min_resolution, options.train.eval_resolution}
    assert sizes - {0} <= set(work.flops)
    assert all(flops > 0 for flops in work.flops.values())


@pytest.mark.parametrize("model", MODELS)
def test_imagenet_models_have_their_published_size(model):
    with torch.device("meta"):
        built = timm.create_model(load(f"imagenet/{model}/erm").model.name)
    assert sum(p.numel() for p in built.parameters()) / 1e6 == pytest.approx(MODELS[model], abs=0.05)


def test_settings_of_the_paper():
    run = load("imagenet/resnet50d/plus").train
    assert (run.batch_size, run.optimizer, run.lr, run.momentum) == (1024, "sgd", 0.4, 0.9)
    assert (run.weight_decay, run.warmup_epochs, run.resolution, run.reinforced_share) == (1e-4, 5, 224, 0.99)
    policy = load("imagenet/resnet50d/erm").policy
    assert (policy.randaugment, policy.erase, policy.mixup_alpha, policy.cutmix_alpha) == (1, 0.25, 0.2, 1.0)
    short = load("imagenet/resnet50/erm-short")
    assert (short.train.min_resolution, short.train.resolution, short.train.eval_resolution) == (160, 192, 256)
    assert short.train.lr * 4096 / short.train.batch_size == pytest.approx(1.7)
    assert not short.policy.mixes and short.policy.randaugment == short.policy.erase == 0


def test_settings_of_fkd():
    """Those of its train_FKD.py."""
    run = load("imagenet/resnet50/fkd").train
    assert (run.task, run.epochs, run.batch_size, run.optimizer, run.lr) == ("dr", 300, 1024, "sgd", 0.1)
    assert (run.momentum, run.nesterov, run.weight_decay, run.decay_norms) == (0.9, False, 1e-4, True)
    assert (run.warmup_epochs, run.scheduler, run.residual, run.reinforced_share) == (0, "cosine", "smooth", 1)


@pytest.mark.parametrize("data", SMALL)
def test_small_data_sets_have_every_kind_of_run(data):
    images, classes, epochs = SMALL[data]
    for kind in ("erm", "plus", "ft", "ft_plus", "teacher"):
        run = load(f"{data}/{kind}")
        assert run.train.task == ("dr" if "plus" in kind else "erm")
        assert run.train.lr == (0.2 if kind in ("erm", "plus") else 0.002)
        assert (run.train.epochs, run.train.batch_size) == (epochs, 256)
        assert (run.train.weight_decay, run.train.resolution) == (5e-4, 224)
        assert (run.data.images, run.data.classes) == (images, classes)
        assert run.policy.mixup_alpha == (1.0 if kind == "teacher" else 0.2)
    views = load(f"{data}/reinforce")
    assert views.reinforce.views == (8000 if data == "flowers102" else 800)
    assert (views.policy.crop, views.policy.erase) == ("padded" if data == "cifar100" else "resized", 0.25)
    for split in ("train", "test"):
        written = load(f"{data}/write-{split}")
        assert (written.source, written.split) == (data, split)


def test_imagenet_is_reinforced_with_four_policies():
    kinds = {kind: load(f"imagenet/reinforce/{kind}") for kind in ("rrc", "m", "rare", "mr")}
    for kind, options in kinds.items():
        policy = options.policy
        assert policy.mixes == (kind in ("m", "mr"))
        assert (policy.randaugment, policy.erase) == ((1.0, 0.25) if kind in ("rare", "mr") else (0, 0))
        assert (options.reinforce.views, options.reinforce.topk, options.reinforce.resolution) == (400, 10, 224)
        assert set(options.teacher.models) <= set(timm.list_pretrained())


def test_the_demos_digits_are_never_flipped():
    for kind in ("erm", "kd", "plus", "teacher", "reinforce"):
        policy = load(f"digits/{kind}").policy
        assert (policy.crop, policy.flip, policy.padding) == ("padded", 0, 0.125)
