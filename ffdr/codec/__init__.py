"""From the bytes of one stored image to its pixels, and the way there."""
