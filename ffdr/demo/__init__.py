"""``ffdr demo``: the whole path on scikit-learn's handwritten digits, and its results."""
