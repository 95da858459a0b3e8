"""``ffdr ablate``: grids of training runs, and what they show. ``ffdr report``: a run beside published results."""
