"""timm's models: built, compiled, saved, and loaded from files that may be a stranger's."""
