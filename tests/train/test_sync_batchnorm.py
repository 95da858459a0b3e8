"""train.sync_batchnorm: every model of the recipes computes what it does without, and its batch norms are converted.

A conversion that loses what a layer holds beside the norm, such as timm's activations, changes the outputs.
"""

from dataclasses import replace

import pytest
import torch
from recipes import RUNS, load, verb
from torch import nn

from ffdr.train.student import build_student

PX = 64
WITHOUT = ("vit_", "swin_")
"""How the names of the models begin that have no batch norm."""


def recipes():
    """One training recipe for each model name."""
    found = {}
    for recipe in (load(file) for file in RUNS if verb(file) == "train"):
        found.setdefault(recipe.model.name, recipe)
    return found


def build(recipe, sync):
    options = replace(recipe.train, resolution=PX, min_resolution=0, sync_batchnorm=sync)
    return build_student(options, recipe.model, 10, torch.device("cpu")).model


def norms(model, kind):
    return [name for name, module in model.named_modules() if isinstance(module, kind)]


@pytest.mark.parametrize("name", [name for name in recipes() if not name.startswith(WITHOUT)])
def test_sync_batchnorm_changes_no_output(name):
    plain, shared = (build(recipes()[name], sync) for sync in (False, True))
    assert norms(shared, nn.SyncBatchNorm) == norms(plain, nn.BatchNorm2d) != []
    assert not norms(shared, nn.BatchNorm2d)
    generator = torch.Generator().manual_seed(0)
    for key, value in plain.state_dict().items():
        if key.endswith(("running_mean", "running_var")):  # as after training: 0 and 1 would hide a mix-up
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    shared.load_state_dict(plain.state_dict())
    images = torch.randn(2, 3, PX, PX, generator=generator)
    with torch.inference_mode():
        expected, found = (model.eval()(images) for model in (plain, shared))
    assert expected.isfinite().all() and expected.std() > 0
    assert torch.equal(found, expected)


@pytest.mark.parametrize("name", [name for name in recipes() if name.startswith(WITHOUT)])
def test_a_model_without_batch_norm_stays_as_it_is(name):
    assert not norms(build(recipes()[name], sync=True), (nn.SyncBatchNorm, nn.modules.batchnorm._BatchNorm))
