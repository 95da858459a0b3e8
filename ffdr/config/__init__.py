"""Every option of every verb, as frozen dataclasses: one class per section of a recipe.

``recipe.py`` fills them from YAML files and flags and checks types; the classes check ranges and combinations, and the
rest of the package sees nothing but them. The text below a field is its help on the command line.
"""
