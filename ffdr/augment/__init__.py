"""Policies, view records, drawing and replaying. Knows nothing of files, datasets or training."""
