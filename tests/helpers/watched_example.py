"""Runs an example and keeps what its model is shown: watched_example.py OUT SCRIPT ARGUMENTS.

OUT, a .npy, becomes (B, 3, H, W): all inputs of the model that timm makes while it is trained, in order. Of several
processes, each has its rank before the name.
"""

import os
import runpy
import sys
from pathlib import Path

import numpy as np
import timm

out, script, *arguments = sys.argv[1:]
out = Path(out).with_name(os.environ.get("RANK", "") + Path(out).name)
seen, create_model = [], timm.create_model


def watched(*names, **options):
    model = create_model(*names, **options)
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].numpy()) if module.training else None)
    return model


timm.create_model = watched
sys.argv = [script, *arguments]
try:
    runpy.run_path(script, run_name="__main__")
finally:
    if seen:
        np.save(out, np.concatenate(seen))
