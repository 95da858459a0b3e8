"""What can be wrong with a sample that is replayed, and how it is told."""

from __future__ import annotations

from ffdr.augment.check import STATUS_TEXT
from ffdr.util.errors import UserError

# Statuses of this stage; those of a bad view record come from augment.check.
BAD_JPEG = 1001
BAD_RAW_SIZE = 1002
BAD_COEFFICIENTS = 1003
_TEXT = STATUS_TEXT | {
    BAD_JPEG: "the JPEG is corrupt",
    BAD_RAW_SIZE: "the raw image does not have width × height × 3 bytes",
    BAD_COEFFICIENTS: "the coefficient image is corrupt, or of another size",
}


class ReplayError(UserError):
    """A sample that can't be turned into pixels: its number in the beton, and what is wrong with it."""

    def __init__(self, path: object, sample: int, status: int) -> None:
        super().__init__(f"{path}: sample {sample}: {_TEXT[status]}")
        self.sample = sample
        self._arguments = (path, sample, status)

    def __reduce__(self) -> tuple:
        return (ReplayError, self._arguments)  # by default pickle would call it with the message alone
