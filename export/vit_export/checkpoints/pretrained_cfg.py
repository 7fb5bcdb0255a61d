"""The `pretrained_cfg` of a timm checkpoint, resolved as timm's own eval transform reads it."""

import math
from collections.abc import Mapping
from typing import Any

from vit_engine.artefact.contract import Preprocessing


def preprocessing_from_pretrained_cfg(config: Mapping[str, Any], image_size: int) -> Preprocessing:
    """Return what `timm.data.create_transform` does to an image for an input of `image_size`."""
    edge = math.floor(image_size / (config.get("crop_pct") or 0.875))
    squash = config.get("crop_mode") == "squash"
    mean = config.get("mean") or (0.485, 0.456, 0.406)
    std = config.get("std") or (0.229, 0.224, 0.225)
    return Preprocessing(
        resize=(edge, edge) if squash else None,
        shortest_edge=None if squash else edge,
        filter=config.get("interpolation") or "bicubic",
        crop=(image_size, image_size),
        mean=(mean[0], mean[1], mean[2]),
        std=(std[0], std[1], std[2]),
    )
