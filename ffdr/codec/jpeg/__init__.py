"""JPEGs: restart segments that are decoded alone, and their coefficients, read and written without loss."""
