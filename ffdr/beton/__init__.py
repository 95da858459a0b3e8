"""Image betons and reinforced betons: layout, writing, reading, the FFCV decoders. Knows nothing of training."""
