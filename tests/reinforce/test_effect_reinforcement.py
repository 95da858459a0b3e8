"""``ffdr reinforce`` with every effect: what is drawn is stored and labelled; killed runs end with the same bytes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from betons import EFFECTS, FLIPPED, MIXING_EFFECTS, PLAIN, student_recipe
from recipes import load

from ffdr import ReinforcedDataset
from ffdr.augment.draw import draw
from ffdr.augment.policy import Policy
from ffdr.augment.view import record_dtype
from ffdr.beton.read import ImageBeton, ReinforcedBeton
from ffdr.config.learning import ReinforceOptions, TeacherOptions
from ffdr.reinforce import collect
from ffdr.reinforce.generate import generate
from ffdr.reinforce.shards import ShardFolder
from ffdr.reinforce.teacher import Teacher
from ffdr.reinforce.topk import topk
from ffdr.train.build import check_policy, supervision_id
from ffdr.train.run import run
from ffdr.util.errors import UserError

VIEWS, TOPK, SIDE = 3, 4, 32


def reinforced(images, out, policy, teacher, **changes):
    options = ReinforceOptions(images=str(images), out=str(out), views=VIEWS, topk=TOPK, seed=7, workers=1)
    options = replace(options, **changes)
    return generate(options, policy, TeacherOptions(models=teacher, batch_size=16), progress=False)


@pytest.mark.parametrize("policy", [EFFECTS, MIXING_EFFECTS, FLIPPED], ids=["effects", "mixing", "flipped"])
def test_what_is_drawn_is_stored_and_was_labelled(digits, teacher, tmp_path, policy):
    out = reinforced(digits, tmp_path / "r.beton", policy, teacher)
    images, file = ImageBeton.open(digits), ReinforcedBeton.open(out)
    assert file.record_dtype == record_dtype(policy.mixes, policy.has_effects)
    assert out.read_bytes()[24 + 17 :].startswith(b"FFDRRNF2")
    assert Policy(**file.header.policy) == policy
    dataset = ReinforcedDataset(digits, out)
    asked = Teacher.from_options(TeacherOptions(models=teacher, batch_size=16), 10, "cpu")
    for image in (0, 41, 99):
        drawn = [draw(policy, 7, k, image, images.original_sizes) for k in range(VIEWS)]
        for k in range(VIEWS):
            found = file.views(image)[k]
            for name in found.dtype.names:
                expected = drawn[k][name] if name in drawn[k].dtype.names else drawn[k]["first"][name]
                assert found[name].tobytes() == expected.tobytes()
        pixels = torch.stack([torch.from_numpy(dataset.view(image, k, SIDE)[0]) for k in range(VIEWS)])
        _, log_probs = topk(asked.log_probs_at({SIDE: pixels}), TOPK)
        stored = file.logits(image)[1].astype(np.float32)
        assert np.allclose(stored, log_probs.astype(np.float32), atol=2e-3)


def test_killed_runs_threads_and_shards_give_the_same_bytes(digits, teacher, tmp_path, monkeypatch):
    whole = reinforced(digits, tmp_path / "whole.beton", MIXING_EFFECTS, teacher).read_bytes()
    assert reinforced(digits, tmp_path / "two.beton", MIXING_EFFECTS, teacher, workers=2).read_bytes() == whole
    real, finished = ShardFolder.write, []

    def write(folder, labelled):
        real(folder, labelled)
        finished.append(labelled.first)
        if len(finished) == 7:
            raise KeyboardInterrupt

    monkeypatch.setattr(collect, "_COLLECT_EVERY", 1e9)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(ShardFolder, "write", write)
        reinforced(digits, tmp_path / "x.beton", MIXING_EFFECTS, teacher)
    shards = sorted((tmp_path / "x.beton.shards").glob("*.shard"))
    assert len(shards) == 7
    shards[2].write_bytes(shards[2].read_bytes()[:-1] + b"?")
    assert reinforced(digits, tmp_path / "x.beton", MIXING_EFFECTS, teacher).read_bytes() == whole


def test_another_policy_is_other_work(digits, teacher, tmp_path):
    reinforced(digits, tmp_path / "r.beton", EFFECTS, teacher)
    with pytest.raises(UserError, match=r"r\.beton: .*made with"):
        reinforced(digits, tmp_path / "r.beton", PLAIN, teacher)
    with pytest.raises(UserError, match=r"r\.beton: .*made with policy\.blur=0\.5, not 0\.4"):
        reinforced(digits, tmp_path / "r.beton", replace(EFFECTS, blur=0.4), teacher)


def test_identities_of_earlier_policies_are_what_they_were():
    """As ffdr named them before there were effects."""
    assert supervision_id(Policy(), None, None) == "policy 01eae4593d54"
    assert supervision_id(Policy(mixup=0.5, scale=(0.3, 1.0)), None, None) == "policy 7b5236976897"
    assert supervision_id(Policy(blur=0.5), None, None) != supervision_id(Policy(), None, None)


def test_a_policy_that_is_not_the_stored_one_is_refused(digits, teacher, tmp_path):
    file = ReinforcedBeton.open(reinforced(digits, tmp_path / "r.beton", EFFECTS, teacher))
    check_policy(EFFECTS, file)
    check_policy(Policy(), file)  # nothing was set
    with pytest.raises(UserError, match=r"policy\.blur=0\.25: .*--policy\.blur=0\.5;"):
        check_policy(Policy(blur=0.25), file)
    plain = ReinforcedBeton.open(reinforced(digits, tmp_path / "p.beton", PLAIN, teacher))
    with pytest.raises(UserError, match=r"policy\.grayscale=0\.3: .*--policy\.grayscale=0\.0;"):
        check_policy(Policy(grayscale=0.3), plain)


@pytest.mark.parametrize("task", ["erm", "kd", "dr"])
def test_tasks_learn_from_views_with_effects(digits, teacher, tmp_path, task):
    """Twice, with one thread and two: the same weights."""
    out, losses = reinforced(digits, tmp_path / "r.beton", EFFECTS, teacher), []
    for workers in (1, 2):
        recipe = student_recipe(task, digits, out, teacher, tmp_path / f"run{workers}", epochs=1)
        policy = Policy() if task == "dr" else EFFECTS
        recipe = replace(recipe, policy=policy, data=replace(recipe.data, workers=workers))
        losses.append(run(recipe, progress=False)["train_loss"])
    assert losses[0] == losses[1] and np.isfinite(losses[0])


def test_the_recipe_of_three_augment():
    policy = load("imagenet/reinforce/three-augment").policy
    assert (policy.augment, policy.color_jitter, policy.erase) == ("three_augment", (0.3, 0.3, 0.3, 0.0), 0)
    assert policy.has_effects and not policy.mixes
