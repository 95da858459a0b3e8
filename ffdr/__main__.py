"""``python -m ffdr``."""

import sys

from ffdr.cli import main

sys.exit(main())
