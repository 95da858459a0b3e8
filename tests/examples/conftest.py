"""Files that all examples learn from."""

import pytest
from examples import make_files


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """``ExampleFiles``: images, reinforced, val."""
    return make_files(tmp_path_factory.mktemp("examples"))
