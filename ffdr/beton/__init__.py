"""The file: layout, tables, header, opened and checked. Knows nothing of training; the map is README.md."""
