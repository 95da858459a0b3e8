"""What the machine has."""

from __future__ import annotations

import os
from pathlib import Path


def machine_memory() -> int:
    """Bytes that this process may have: the machine's, or its control group's."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else ""
    return min(whole, int(text)) if text.isdecimal() else whole
