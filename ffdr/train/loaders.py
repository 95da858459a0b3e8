"""The loaders of a run, as its recipe has them."""

from __future__ import annotations

import torch

from ffdr.beton.read import ImageBeton, ReinforcedBeton
from ffdr.config.learning import DataOptions
from ffdr.config.verbs import TrainRecipe
from ffdr.evaluate.evaluator import center_share
from ffdr.loader.loader import ReinforcedLoader
from ffdr.models.build import autocast_dtype
from ffdr.train.identity import check_policy
from ffdr.util.errors import UserError
from ffdr.util.ranks import Ranks


def stored_views(recipe: TrainRecipe, images: ImageBeton) -> ReinforcedBeton | None:
    """What task dr learns from: a file of its own, or the reinforcement packed with the images. None: another task.

    Raises UserError for no such thing, and for a policy that was set but is not what the only shown views are of.
    """
    data: DataOptions = recipe.data
    if recipe.train.task != "dr":
        return None
    if not data.reinforced and "aug_params" not in images.field_names:
        raise UserError(
            f"data.reinforced: task dr learns from a reinforced beton; give its path, or pack it with {images.path}, "
            "which holds none"
        )
    reinforced = ReinforcedBeton.open(data.reinforced or images.path, images)
    if recipe.train.reinforced_share == 1:
        check_policy(recipe.policy, reinforced)
    return reinforced


def draws(recipe: TrainRecipe) -> bool:
    """Whether any view of the run is drawn from the recipe's policy."""
    return recipe.train.task != "dr" or recipe.train.reinforced_share < 1


def normalisation(recipe: TrainRecipe, images: ImageBeton) -> dict[str, tuple[float, ...]]:
    """mean and std that the loaders of a run subtract and divide by."""
    return {"mean": recipe.data.mean or images.mean, "std": recipe.data.std or images.std}


def training_loader(
    recipe: TrainRecipe, images: ImageBeton, reinforced: ReinforcedBeton | None, device: torch.device, ranks: Ranks
) -> ReinforcedLoader:
    """Views to learn from. On a GPU their pixels as they are, for the step normalises them in its own graph."""
    train, data = recipe.train, recipe.data
    return ReinforcedLoader(
        images,
        reinforced,
        policy=recipe.policy if draws(recipe) else None,
        reinforced_share=train.reinforced_share,
        batch_size=train.batch_size // ranks.size,
        resolution=train.resolution,
        seed=train.seed,
        device=device,
        dtype=torch.uint8 if device.type == "cuda" else torch.float32,
        workers=ranks.threads(data.workers),
        rank=ranks.rank,
        world_size=ranks.size,
        order=data.order,
        os_cache=data.os_cache,
        **normalisation(recipe, images),
    )


def validation_loader(recipe: TrainRecipe, images: ImageBeton, device: torch.device, ranks: Ranks) -> ReinforcedLoader:
    """The evaluation views of ``data.val``. images: those that are trained on.

    Raises UserError for other classes than theirs.
    """
    train, data = recipe.train, recipe.data
    val = ImageBeton.open(data.val)
    if val.class_names != images.class_names:
        raise UserError(
            f"data.val: the classes of {val.path} ({val.num_classes}) are not those of {images.path} "
            f"({images.num_classes})"
        )
    resolution = train.eval_resolution or train.resolution
    return ReinforcedLoader(
        val,
        batch_size=train.batch_size // ranks.size,
        resolution=resolution,
        center=center_share(resolution, data.center),
        device=device,
        dtype=(autocast_dtype(train.precision, device) if device.type == "cuda" else None) or torch.float32,
        workers=ranks.threads(data.workers),
        rank=ranks.rank,
        world_size=ranks.size,
        **normalisation(recipe, images),
    )
