"""``ffdr ablate``: grids of training runs, and what came of them. ``ffdr report``: a run beside published figures."""
