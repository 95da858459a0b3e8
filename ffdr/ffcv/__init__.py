"""Decoders for the pipelines of FFCV's own Loader: reinforced data in a script that stays as it is.

A merged beton (``ffdr pack``) holds images, views and logits. The script's ``pipelines`` say what becomes of them::

    from ffcv.fields.decoders import IntDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.pipeline import PipelineSpec
    from ffcv.transforms import Squeeze, ToTensor, ToTorchImage

    from ffdr import SparseTargetLoss, SparseTargets
    from ffdr.ffcv import CUSTOM_FIELDS, ReplayImageDecoder, TargetIdsDecoder, TargetLogProbsDecoder

    beton = "merged.beton"
    loader = Loader(
        beton, batch_size=256, num_workers=8, order=OrderOption.RANDOM, seed=0, drop_last=True,
        custom_fields=CUSTOM_FIELDS,
        pipelines={
            "image": [ReplayImageDecoder(beton, resolution=224, seed=0), ToTensor(), ToTorchImage()],
            "label": [IntDecoder(), ToTensor(), Squeeze(1)],
            "origin": None, "aug_params": None, "logits": None,
            "ids": PipelineSpec("logits", TargetIdsDecoder(beton, seed=0), [ToTensor()]),
            "log_probs": PipelineSpec("logits", TargetLogProbsDecoder(beton, seed=0), [ToTensor()]),
        },
    )
    loss_fn = SparseTargetLoss(num_classes=1000)
    for images, label, ids, log_probs in loader:
        targets = SparseTargets(ids, log_probs, label)

Images and reinforcement may also be two files: the Loader reads the images (then without ``custom_fields``), each
decoder is given both paths, and the targets' pipelines take any field, such as ``PipelineSpec("label", ...)``.
"""

from ffdr.beton.fields import CUSTOM_FIELDS
from ffdr.ffcv.decoders import ReplayImageDecoder, TargetIdsDecoder, TargetLogProbsDecoder

__all__ = ["CUSTOM_FIELDS", "ReplayImageDecoder", "TargetIdsDecoder", "TargetLogProbsDecoder"]
