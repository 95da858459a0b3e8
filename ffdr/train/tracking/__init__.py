"""What a run shows and tells while it runs: on the terminal, to callbacks, to trackers."""
