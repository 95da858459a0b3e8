"""Pictures of many sizes in class folders, and the beton made of them."""

import fkd_oracle as oracle
import pytest

from ffdr.beton.read import ImageBeton, ReinforcedBeton
from ffdr.config.files import ImportOptions, WriteOptions
from ffdr.fkd.importing import import_archives
from ffdr.write.images import write_images


@pytest.fixture(scope="session")
def pictures(folder):
    return oracle.make_pictures(folder / "named")


@pytest.fixture(scope="session")
def images(folder, pictures):
    out = folder / "named.beton"
    write_images(WriteOptions(source="imagefolder", path=str(pictures), split="", out=str(out), workers=1), False)
    return ImageBeton.open(out)


@pytest.fixture
def paths(pictures):
    """Of the images in the beton's order."""
    return [path.relative_to(pictures).as_posix() for path in sorted(pictures.glob("*/*"))]


@pytest.fixture
def load(images, tmp_path):
    """Function that imports archives."""

    def run(*archives, out="out.beton", images=images, **options):
        given = ImportOptions(
            archive=tuple(map(str, archives)),
            images=str(images.path),
            out=str(tmp_path / out),
            format="fkd",
            **options,
        )
        return ReinforcedBeton.open(import_archives(given, progress=False), images)

    return run
