"""From opened betons to batches on the device: the public loaders, and the pipeline beneath them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ffdr.loader.loader import ReinforcedLoader as ReinforcedLoader


def __getattr__(name: str) -> Any:
    """``ReinforcedLoader`` on first use, for scripts that import it from here; most users need a part of this room."""
    if name != "ReinforcedLoader":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ffdr.loader.loader import ReinforcedLoader

    return ReinforcedLoader
