"""What of a model trains: parameters left as they are, norms among them that keep their statistics, a head alone."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from ffdr.config.training import TrainOptions
from ffdr.util.errors import UserError, nearest
from ffdr.util.text import printable


def freeze(options: TrainOptions, model: nn.Module, name: str, num_classes: int) -> None:
    """Have the parameters require no gradient that ``train.freeze`` or ``train.linear_probe`` leave as they are.

    They are then in no optimiser. name: the model's, for messages. num_classes: of its output.

    Raises:
        UserError: a pattern that is no parameter's; nothing is left to train; no head is found.
    """
    if options.linear_probe:
        head = {id(parameter) for module in _head(model, name, num_classes) for parameter in module.parameters()}
        for parameter in model.parameters():
            parameter.requires_grad_(id(parameter) in head)
    for pattern in options.freeze:
        matched = [value for key, value in model.named_parameters() if fnmatchcase(key, pattern)]
        if not matched:
            modules = [f"{key}.*" for key, module in model.named_modules() if key and _has_own(module)]
            close = nearest(pattern, [*modules, *(key for key, _ in model.named_parameters())])
            raise UserError(f"train.freeze: {printable(pattern, 80)} is no parameter of {printable(name)}{close}")
        for parameter in matched:
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(f"train.freeze: nothing of {printable(name)} is left to train; freeze less")


def set_training(options: TrainOptions, model: nn.Module) -> None:
    """Training mode; frozen norms stay in evaluation mode, and all that a linear probe learns from does: no dropout
    there, and no statistics that move."""
    model.train(not options.linear_probe)
    for _, module in frozen_norms(options, model):
        module.eval()


def kept_buffers(options: TrainOptions, model: nn.Module) -> frozenset[str]:
    """Names of the statistics that stay as they are."""
    norms = frozen_norms(options, model)
    return frozenset(name for key, norm in norms for name, _ in norm.named_buffers(key, recurse=False))


def frozen_norms(options: TrainOptions, model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules with running statistics whose parameters are frozen; without any, those of the module around them."""
    if not (options.freeze or options.linear_probe):
        return
    modules = dict(model.named_modules())
    for key, module in modules.items():
        if not any(name.startswith("running_") for name, _ in module.named_buffers(recurse=False)):
            continue
        around = key
        while around and not _has_own(modules[around]):
            around = around.rpartition(".")[0]
        if not any(parameter.requires_grad for parameter in modules[around].parameters()):
            yield key, module


def _has_own(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _head(model: nn.Module, name: str, num_classes: int) -> list[nn.Module]:
    """The classifier: as the model says itself, else its last linear layer or convolution of as many outputs.

    Some have two, as a distilled ViT.
    """
    get: Any = getattr(model, "get_classifier", None)
    if callable(get):
        said = get()
        found = [part for part in (said if isinstance(said, (tuple, list)) else [said]) if isinstance(part, nn.Module)]
    else:
        layers = [module for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
        found = [layer for layer in layers[-1:] if layer.weight.shape[0] == num_classes]
    if not any(map(_has_own, found)):
        raise UserError(
            f"train.linear_probe: no head of {num_classes} classes is found in {printable(name)}; name what stays as "
            "it is by train.freeze instead"
        )
    return found
