"""Validation during a run: several ranks agree on how it went, and a request to stop breaks it off."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from ffdr.evaluate.metrics import Scores, predict
from ffdr.loader.protocol import BatchLoader
from ffdr.loader.targets import SparseTargets
from ffdr.train.report.outputs import Outputs
from ffdr.train.tracking.callbacks import CallbackError
from ffdr.util.errors import UserError
from ffdr.util.ranks import Ranks

T = TypeVar("T")


class BrokenOffError(Exception):
    """A validation was left in the middle, because a stop was asked for."""


@dataclass(frozen=True)
class Validation:
    """One pass over the validation images, scored over all ranks."""

    loader: BatchLoader
    num_classes: int
    """columns of the model's output"""
    ranks: Ranks
    dtype: torch.dtype | None = None
    """this and the others: see ``ffdr.evaluate.metrics.predict``"""
    flip: bool = False
    forward: Callable[[torch.Tensor], torch.Tensor] | None = None
    class_names: tuple[str, ...] = ()

    def outputs(self) -> Outputs:
        """An empty one, for a pass to fill."""
        return Outputs(self.loader.num_images, self.num_classes, self.ranks, self.class_names)

    def described(self) -> dict[str, Any]:
        """What is validated on, for ``options.json``."""
        return {"num_images": self.loader.num_images, "fingerprint": self.loader.state_dict().get("fingerprint", "")}

    def __call__(
        self, model: nn.Module, stopping: Callable[[], bool], outputs: Outputs | None = None
    ) -> dict[str, float]:
        """The scores (see ``Scores``), in all ranks.

        stopping: whether a stop was asked for. A process alone looks at it before each batch; several would have to
        agree on the batch, and finish. outputs: is handed every batch.

        Raises:
            BrokenOffError: it was.
            UserError: on all ranks, if one of them can't read an image; outputs that are not finite.
        """
        forward, scores = model if self.forward is None else self.forward, Scores(self.num_classes)

        def guarded(images: torch.Tensor) -> torch.Tensor:
            if self.ranks.size == 1 and stopping():
                raise BrokenOffError
            return forward(images)

        def receive(logits: torch.Tensor, targets: SparseTargets, index: torch.Tensor) -> None:
            scores.update(logits, targets.label)
            if outputs is not None:
                outputs.update(logits, targets.label, index)

        on_all_ranks(self.ranks, lambda: predict(model, self.loader, receive, self.dtype, self.flip, guarded))
        return scores.compute()


def on_all_ranks(ranks: Ranks, work: Callable[[], T]) -> T:
    """What ``work`` returns, once it has succeeded on all ranks; where it failed on one, all of them raise."""
    failure: Exception | None = None
    try:
        result = work()
    except Exception as error:
        failure = error
    said = ranks.gather(None if failure is None else " ".join(str(failure).split()) or type(failure).__name__)
    if failure is not None:
        raise failure
    for rank, text in enumerate(said):
        if text is not None:
            raise UserError(f"rank {rank}: {text}")
    return result


def with_epoch_kept(error: Exception, epoch: int, what: str = "validation") -> Exception:
    """The error of what comes after an epoch with a note for the user: nothing of it is lost, and how to go on.

    what: failed. Errors of other kinds than expected come back as they are.
    """
    kept = f"epoch {epoch} is trained and saved; the next run goes on with what comes after it"
    if what == "validation":
        kept = (
            f"epoch {epoch} is trained and saved; the next run repeats its validation only, or goes on without one "
            "given --data.val="
        )
    if isinstance(error, CallbackError):
        return CallbackError(f"{error}; {kept}")
    if isinstance(error, UserError):
        return UserError(f"{what}: {error}; {kept}")
    if isinstance(error, OSError) and error.errno is not None:
        return OSError(error.errno, f"{error.strerror} ({kept})", error.filename)
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return type(error)(f"{kept}; {what}: {error}")
    return error
