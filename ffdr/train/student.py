"""The model that is trained: built from the seed, and tried at every size before the first step."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property

import torch
from timm.layers import convert_sync_batchnorm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ffdr.config.learning import ModelOptions
from ffdr.config.training import TrainOptions
from ffdr.models.build import architecture_of, build_model, fixed_size
from ffdr.models.catalog import is_known
from ffdr.models.given import check_given
from ffdr.train.plan import EpochPlan, all_sides
from ffdr.train.update.freezing import freeze, frozen_norms
from ffdr.train.update.recomputing import checkpoint_gradients
from ffdr.train.update.step import parts
from ffdr.util.errors import UserError, is_out_of_memory
from ffdr.util.ranks import Ranks
from ffdr.util.text import reason, warn


@dataclass(frozen=True)
class Student:
    """A model to train, and the options that it was built from."""

    options: ModelOptions
    model: nn.Module
    """on its device, in channels_last"""

    @cached_property
    def architecture(self) -> ModelOptions:
        """The options with the name and the options of the architecture, by which its weights are stored."""
        return architecture_of(self.options)

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return next(self.model.parameters()).device


def build_student(
    options: TrainOptions,
    model: ModelOptions,
    num_classes: int,
    device: torch.device,
    given: nn.Module | None = None,
) -> Student:
    """The model to train, on its device in channels_last; its new weights depend on ``train.seed`` only.

    given: a module of a caller in Python, which is trained as it is, in place of one that is built. It is moved, not
    copied.

    Seeds torch's global generator.

    Raises:
        UserError: what ``build_model`` refuses; nothing left to train; gradient checkpointing that it can't do.
    """
    if given is not None:
        check_given(given, model.name, num_classes, options.resolution)
    torch.manual_seed(options.seed)
    built = build_model(model, num_classes, options.resolution) if given is None else given.train()
    if options.sync_batchnorm:
        built = convert_sync_batchnorm(built)  # timm's: torch's drops the activation that timm's layers hold
    freeze(options, built, model.name, num_classes)
    if options.grad_checkpointing:
        checkpoint_gradients(built, model.name)
    return Student(model, built.to(device).to(memory_format=torch.channels_last))


def check_student(options: TrainOptions, student: Student) -> None:
    """Raise UserError for options that don't go with the model or its device."""
    name = student.architecture.name
    if options.sync_batchnorm and student.device.type != "cuda":
        raise UserError("train.sync_batchnorm: needs GPUs; leave it out on a CPU")
    asked = [("eval_resolution", options.eval_resolution), ("min_resolution", options.min_resolution)]
    for key, size in asked + [("resolutions", size) for size in options.resolutions]:
        if size not in (0, options.resolution) and is_known(name) and fixed_size(name):
            raise UserError(
                f"train.{key}: {name} takes images of one size only, so {size} must be "
                f"train.resolution={options.resolution}"
            )


class Trial:
    """Shows a student black images before the run, in evaluation mode: weights and batch statistics stay as they are.

    So a size or a batch that would end the run in its last epochs is refused before the first.
    """

    def __init__(self, options: TrainOptions, student: Student, dtype: torch.dtype | None) -> None:
        """dtype: autocast to it; None: the model's own."""
        self.options, self.model, self.dtype = options, student.model, dtype
        self.name, self.device = student.options.name, student.device

    def sizes(self, val_batch: int = 0) -> None:
        """Try every size of the run that ``build_student`` has not tried.

        val_batch: images per batch of the validation, all of which a GPU must hold; 0: there is no validation.

        Raises:
            UserError: the model can't take a size; a GPU can't hold a batch of the validation.
        """
        options = self.options
        for size in all_sides(options):
            if size != options.resolution:
                self._show(size, 1, "train.resolutions" if options.resolutions else "train.min_resolution")
        size = options.eval_resolution or options.resolution
        if self.device.type == "cuda" and val_batch:
            self._show(size, val_batch, "train.eval_resolution")
            torch.cuda.empty_cache()
        elif size != options.resolution:
            self._show(size, 1, "train.eval_resolution")

    def batch_norm(self, ranks: Ranks, plan: EpochPlan | None = None) -> None:
        """Look at what batch norm is given when the batch goes through the model in its parts.

        Warns of one image per part: the statistics are then those of a single image.

        plan: says whether the last batch is smaller; None: it is not.

        Raises:
            UserError: one value per channel, of which there are no statistics; ranks that can't share them.
        """
        if self.options.sync_batchnorm and ranks.size == 1:
            warn("train.sync_batchnorm does nothing here: one rank has nobody to share with")
        frozen = {key for key, _ in frozen_norms(self.options, self.model)}  # to which a batch means nothing
        modules = self.model.named_modules()
        norms = [module for key, module in modules if isinstance(module, _BatchNorm) and key not in frozen]
        if not norms:
            return
        share = self.options.batch_size // ranks.size
        if plan is None or plan.images >= plan.batch_size:
            each = " of each rank" if ranks.size > 1 else ""
            self._least_part(
                norms, [share] * ranks.size, f"train.batch_size, train.accumulate: {share} images{each}", ranks
            )
        if plan is not None and plan.tail:
            each = f" on {ranks.size} ranks" if ranks.size > 1 else ""
            place = f"train.drop_last, train.accumulate: the last {plan.tail} images of an epoch{each}"
            self._least_part(norms, plan.tail_parts(ranks.size), place, ranks)

    def _least_part(self, norms: Sequence[nn.Module], shares: Sequence[int], place: str, ranks: Ranks) -> None:
        """The same for one batch. shares: its images on each rank; place: what it is, for messages."""
        counts = [[len(range(share)[part]) for part in parts(share, self.options.accumulate)] for share in shares]
        if all(isinstance(module, nn.SyncBatchNorm) for module in norms):
            if len({len(count) for count in counts}) > 1:
                raise UserError(
                    f"{place} go through the model in different numbers of parts, so that train.sync_batchnorm can't "
                    "share their statistics; leave one of the two out"
                )
            counts = [[sum(part) for part in zip(*counts, strict=True)]]
        if min(min(count) for count in counts if count) > 1:
            return
        place = f"{place} in {self.options.accumulate} parts leave 1 image for a part"
        if min(self._values(norms, size) for size in all_sides(self.options)) == 1:
            raise UserError(f"{place}, and {self.name} has batch norm, which needs 2; take larger or fewer parts")
        if ranks.rank == 0:
            warn(f"{place}; {self.name}'s batch norm will see one image at a time")

    def _values(self, norms: Sequence[nn.Module], size: int) -> int:
        """The fewest values per channel and image that one of the layers sees."""
        seen: list[int] = []
        hooks = [norm.register_forward_pre_hook(lambda _, x: seen.append(x[0][0, 0].numel())) for norm in norms]
        try:
            self._show(size, 1, "train.resolution")
        finally:
            for hook in hooks:
                hook.remove()
        return min(seen, default=2)

    def _show(self, size: int, count: int, key: str) -> None:
        """One forward pass. key: the option that asks for the size, for the message."""
        training = self.model.training
        images = torch.zeros(count, 3, size, size, device=self.device).to(memory_format=torch.channels_last)
        try:
            with (
                torch.inference_mode(),
                torch.autocast(self.device.type, self.dtype) if self.dtype else nullcontext(),
            ):
                self.model.eval()(images)
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"{key}: {self.name} can't take images of {size} px, {count} at once, for want of memory; lower "
                "train.batch_size or the size"
            ) from error
        except (AssertionError, RuntimeError, ValueError) as error:
            if is_out_of_memory(error):
                raise
            cause = reason(error)
            raise UserError(
                f"{key}: {self.name} can't take images of {size} px, which the run has ({cause})"
            ) from error
        finally:
            self.model.train(training)
