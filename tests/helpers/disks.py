"""A disk that is full, without one."""

import resource
from contextlib import contextmanager


@contextmanager
def full_disk(room):
    """No file of this process may grow beyond so many bytes: writing fails with EFBIG, as with ENOSPC elsewhere."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
