"""Short ways of the tests to import an archive."""

import archive_oracle as oracle

from ffdr.beton.read import ReinforcedBeton
from ffdr.config.files import ImportOptions
from ffdr.mldr.importing import import_archives


def sizes_of(images):
    return [tuple(map(int, size)) for size in images.original_sizes]


def run(images, out, *archives):
    options = ImportOptions(archive=tuple(map(str, archives)), images=str(images.path), out=str(out))
    return ReinforcedBeton.open(import_archives(options, progress=False), images)


def imported(images, tmp_path, transforms, entries, **config):
    files = oracle.files_of(oracle.config_of(transforms, views=len(entries[0][1]), **config), entries)
    return run(images, tmp_path / "out.beton", oracle.write_folder(tmp_path / "archive", files))
