"""The model that is trained: built from the seed, and tried at every size before the first step."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from timm.layers import convert_sync_batchnorm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ffdr.config.learning import ModelOptions, TrainOptions
from ffdr.models.build import build_model
from ffdr.train.optim import resolutions
from ffdr.train.step import parts
from ffdr.util.errors import UserError, is_out_of_memory
from ffdr.util.ranks import Ranks
from ffdr.util.text import reason, warn


def build_student(options: TrainOptions, model: ModelOptions, num_classes: int, device: torch.device) -> nn.Module:
    """The model to train, on its device in channels_last; its new weights depend on ``train.seed`` only.

    Seeds torch's global generator.
    """
    torch.manual_seed(options.seed)
    student = build_model(model, num_classes, options.resolution)
    if options.sync_batchnorm:
        student = convert_sync_batchnorm(student)  # timm's: torch's drops the activation that timm's layers hold
    return student.to(device=device, memory_format=torch.channels_last)


class Trial:
    """Shows a student black images before the run, in evaluation mode: weights and batch statistics stay as they are.

    A size or a batch that would end the run in its last epochs is told before the first.
    """

    def __init__(
        self, options: TrainOptions, model: nn.Module, name: str, device: torch.device, dtype: torch.dtype | None
    ) -> None:
        """name: timm's, for messages. dtype: autocast to it; None: the model's own."""
        self.options, self.model, self.name = options, model, name
        self.device, self.dtype = device, dtype

    def sizes(self, validated: int = 0) -> None:
        """Try every size of the run that ``build_student`` has not tried.

        validated: images a batch of the validation, all of which a GPU must hold; 0: none is made.

        Raises:
            UserError: the model can't take a size; a GPU can't hold a batch of the validation.
        """
        options = self.options
        for size in sorted({*resolutions(options)} - {options.resolution}):
            self._show(size, 1, "train.min_resolution")
        size = options.eval_resolution or options.resolution
        if self.device.type == "cuda" and validated:
            self._show(size, validated, "train.eval_resolution")
            torch.cuda.empty_cache()
        elif size != options.resolution:
            self._show(size, 1, "train.eval_resolution")

    def batch_norm(self, ranks: Ranks) -> None:
        """Look at what batch norm is given when the batch goes through the model in its parts.

        One image in a part is told on standard error, for its statistics are those of one image.

        Raises:
            UserError: one value per channel, of which there are no statistics.
        """
        if self.options.sync_batchnorm and ranks.size == 1:
            warn("train.sync_batchnorm does nothing here: one rank has nobody to share with")
        norms = [module for module in self.model.modules() if isinstance(module, _BatchNorm)]
        share = self.options.batch_size // ranks.size
        least = min(len(range(share)[part]) for part in parts(share, self.options.accumulate))
        if all(isinstance(module, nn.SyncBatchNorm) for module in norms):
            least *= ranks.size
        if not norms or least > 1:
            return
        values = min(self._values(norms, size) for size in {*resolutions(self.options)})
        place = (
            f"train.batch_size, train.accumulate: {share} images{' of each rank' if ranks.size > 1 else ''} in "
            f"{self.options.accumulate} parts leave 1 image for a part"
        )
        if values == 1:
            raise UserError(f"{place}, and {self.name} has batch norm, which needs 2; take larger or fewer parts")
        if ranks.rank == 0:
            warn(f"{place}; {self.name}'s batch norm will see one image at a time")

    def _values(self, norms: list[nn.Module], size: int) -> int:
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
