"""``ffdr bench gpu``: one command that measures the trainer on a bare GPU machine in minutes (map: README.md)."""
