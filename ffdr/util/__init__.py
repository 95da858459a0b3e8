"""What every room may use: errors and texts, files and locks, processes, the machine. Knows nothing of datasets."""
