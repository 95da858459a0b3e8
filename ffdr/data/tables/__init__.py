"""Sources of samples with columns, one of images and one of labels: tar shards, Parquet files, tables of paths."""
