"""Every option of every verb, as frozen dataclasses, and the recipes and flags that fill them."""
