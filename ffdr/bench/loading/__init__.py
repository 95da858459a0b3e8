"""How fast betons are read, decoded and replayed, beside other loaders."""
