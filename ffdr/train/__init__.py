"""Tasks, losses, the fit loop and its state."""
