"""The image betons that the tests of archives share, opened."""

import pytest

from ffdr.beton.read import ImageBeton


@pytest.fixture(scope="session")
def images(photos):
    """24 photographs."""
    return ImageBeton.open(photos)


@pytest.fixture(scope="session")
def small(digits):
    """100 digits."""
    return ImageBeton.open(digits)
