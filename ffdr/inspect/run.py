"""``ffdr inspect``: what a file holds, as a table, as JSON, as a picture, and as a page for the browser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ffdr.beton.read import ImageBeton, ReinforcedBeton, check_same_images, contents_of
from ffdr.beton.tables import read_tables
from ffdr.config.files import InspectOptions
from ffdr.inspect.statistics import file_facts, image_facts, reinforced_facts
from ffdr.inspect.text import render
from ffdr.util.errors import UserError
from ffdr.util.opening import check_final
from ffdr.util.text import command, say

RESOLUTION = 224
"""Pixels of a drawn view whose teachers saw several resolutions."""


def inspect(options: InspectOptions) -> None:
    """Print what a file holds, and draw a picture of it with ``grid``.

    Raises:
        UserError: an unreadable file; images that are not those of the views; a picture that can't be made or written.
    """
    if options.grid:
        _check_grid(options.grid)
    path = Path(options.file)
    tables = read_tables(path)
    own_images, reinforced = contents_of(tables)
    if own_images is not None and options.images:
        raise UserError(f"inspect.images: {path} holds its own images; leave it out")
    images = ImageBeton.open(options.images) if options.images else own_images
    if reinforced is not None and images is not None:
        check_same_images(path, reinforced.header, images)
    if options.grid and images is None:
        raise UserError(f"inspect.grid: {path} holds views without images; give the images with --images=X.beton")
    kind = "reinforced beton" if own_images is None else "image beton" if reinforced is None else "merged beton"
    facts: dict[str, Any] = {
        "path": str(path),
        "kind": kind,
        "file": file_facts(tables),
        "images": None if own_images is None else image_facts(own_images),
        "reinforced": None if reinforced is None else reinforced_facts(reinforced, images),
    }
    if options.grid and images is not None:
        _draw(Path(options.grid), images, reinforced, options.samples)
    if options.json:
        print(json.dumps(facts, indent=2))
        return
    say(render(facts))
    drawn = f", drawn in {options.grid}" if options.grid else ""
    is_bare = own_images is not None and own_images.manifest is None
    then = command("adopt", path, "--classes=NAMES.txt") if is_bare else command("verify", path)
    say(f"\n{path}: {kind}{drawn}; next: {then}")


def _check_grid(grid: str) -> None:
    """Refuse a picture or page that could not be written, before anything slow."""
    if not grid.endswith((".png", ".html")):
        raise UserError(f"inspect.grid: {grid} ends neither in .png nor in .html")
    if not Path(grid).parent.is_dir():
        raise UserError(f"inspect.grid: there is no folder {Path(grid).parent}")
    check_final(Path(grid))


def _draw(file: Path, images: ImageBeton, reinforced: ReinforcedBeton | None, samples: int) -> None:
    from ffdr.inspect import grid  # imports matplotlib
    from ffdr.inspect.page import write_page
    from ffdr.loader.dataset import ReinforcedDataset  # imports torch

    dataset = None if reinforced is None else ReinforcedDataset(images, reinforced)
    resolution = RESOLUTION if reinforced is None else reinforced.header.resolution or RESOLUTION
    if file.suffix == ".html":
        write_page(file, images, dataset, resolution, samples)
    elif dataset is None:
        grid.draw_images(file, images)
    else:
        grid.draw_views(file, dataset, resolution)
