"""Teachers, and the making of reinforced betons."""
