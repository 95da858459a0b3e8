"""How the files that torchvision downloads are checked: whether they are there, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ffdr.util.errors import UserError
from ffdr.util.text import reason


def need_files(root: Path, folder: str, files: Iterable[str], title: str, dataset: str) -> Path:
    """``root/folder``, in which torchvision keeps a dataset; where a file is missing, refuse it and say how to get it.

    title: the dataset's name; dataset: torchvision's class.
    """
    for file in files:
        if not (root / folder / file).exists():
            raise UserError(
                f"write.path: no {title} in {root} ({folder}/{file} is missing); get it with "
                f"torchvision.datasets.{dataset}({str(root)!r}, download=True)"
            )
    return root / folder


@contextmanager
def damage_named(place: Path, what: str, kinds: tuple[type[Exception], ...] = (Exception,)) -> Iterator[None]:
    """Turn whatever goes wrong with a file or folder, of these kinds, into a UserError of one line: ``what`` it is."""
    try:
        yield
    except kinds as error:
        raise UserError(f"write.path: {place}: {what}: {reason(error)}") from None
