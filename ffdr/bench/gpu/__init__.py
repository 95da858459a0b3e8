"""``ffdr bench gpu``: one command that measures the trainer on a bare GPU machine in minutes.

``run`` is the command and ``pool`` keeps its processes: every measurement lives in a process of its own (``worker``),
so that one that hangs, crashes or breaks the GPU's state costs nothing but itself. They all get ready at the same time,
beside the background that makes the files, and are then timed one after the other while all others stand still.
"""
