"""Source datasets that ``ffdr write`` turns into image betons.

``open_source(name, path, split)`` opens one. Importing this package imports neither torch nor scikit-learn.
"""

from __future__ import annotations

from ffdr.data.source import Item, Items, ReadError, Source, SourceItem, open_source

__all__ = ["Item", "Items", "ReadError", "Source", "SourceItem", "open_source"]
