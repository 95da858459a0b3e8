"""``ffdr train --dry-run``: what a run will be and how long it will take; no part of a real run."""
