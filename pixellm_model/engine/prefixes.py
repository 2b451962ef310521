"""The prefixes of images, from the cache or computed."""

from __future__ import annotations

from collections.abc import Sequence

from pixellm_model.engine.generate import prefill
from pixellm_model.engine.prefix_cache import Prefix, PrefixCache, image_key
from pixellm_model.model import PixelLM
from pixellm_model.preprocess import ProcessedImage


def find_prefixes(
    model: PixelLM,
    cache: PrefixCache,
    prefix_ids: list[int],
    images: Sequence[ProcessedImage],
    version: str,
) -> list[Prefix]:
    """Look up the prefix of each image; compute those not in the cache, each once.

    Args:
        model: The model.
        cache: The cache; computed prefixes are added.
        prefix_ids: The prompt's tokens up to the image's end, as `split_prompt` returns them.
        images: The prepared images.
        version: Name of the weights, part of the cache's keys.

    Returns:
        One prefix per image, in their order.
    """
    keys = [image_key(image, version) for image in images]
    prefixes = {key: prefix for key in dict.fromkeys(keys) if (prefix := cache.get(key)) is not None}
    missing = {key: image for key, image in zip(keys, images, strict=True) if key not in prefixes}
    # A batch fills a GPU; on a CPU it only exceeds the processor's caches.
    batches = [list(missing)] if missing and model.device.type == "cuda" else [[key] for key in missing]
    for batch in batches:
        features = model.encode_image([missing[key] for key in batch])
        for key, prefix in zip(batch, prefill(model, prefix_ids, features), strict=True):
            cache.put(key, prefix)
            prefixes[key] = prefix
    return [prefixes[key] for key in keys]
