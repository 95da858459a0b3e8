"""All that makes betons: from datasets or from other betons, resumably, and the check of what was made."""
