"""The canvas on which a scene is composed from cut-outs."""

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from pixellm_model.samples import Mask
from pixellm_model.synthetic.things import Thing

MIN_VISIBLE = 0.35  # share of a thing's own area
MIN_AREA = 0.004  # share of the image
MAX_PLACEMENTS = 8  # tries to place a cut-out


class Canvas:
    """A scene while it is composed. Things hide those pasted before them.

    Args:
        image: (H, W, 3), the background; converted to float32.
        behind: Things that it already shows.
    """

    def __init__(self, image: npt.NDArray[Any], behind: list[Thing]) -> None:
        self.image = image.astype(np.float32)
        self.names = [thing.name for thing in behind]
        self.masks = [thing.mask for thing in behind]
        self.areas = [int(thing.mask.sum()) for thing in behind]

    def things(self) -> list[Thing]:
        """The things with what is visible of them."""
        return [Thing(name, mask) for name, mask in zip(self.names, self.masks, strict=True)]

    def paste(self, patch: Image.Image, name: str, rng: np.random.Generator) -> None:
        """Paste an RGBA patch at a random place where it and all other things stay visible.

        Nothing is pasted after MAX_PLACEMENTS failed tries.
        """
        height, width = self.image.shape[:2]
        pixels = np.asarray(patch).astype(np.float32)
        opacity = pixels[:, :, 3] / 255
        solid = opacity > 0.5
        tall, wide = solid.shape
        for _ in range(MAX_PLACEMENTS):
            top = round(rng.uniform(-0.12 * tall, height - 0.88 * tall))
            left = round(rng.uniform(-0.12 * wide, width - 0.88 * wide))
            inside = (
                slice(max(0, -top), min(tall, height - top)),
                slice(max(0, -left), min(wide, width - left)),
            )
            if inside[0].stop <= inside[0].start or inside[1].stop <= inside[1].start:
                continue
            place = tuple(
                slice(part.start + offset, part.stop + offset)
                for part, offset in zip(inside, (top, left), strict=True)
            )
            if self._fits(place, solid[inside], int(solid.sum())):
                break
        else:
            return
        if rng.random() < 0.4:
            self._shade(place, opacity[inside], rng)
        cover = opacity[inside][:, :, None]
        self.image[place] = self.image[place] * (1 - cover) + pixels[inside][:, :, :3] * cover
        mask = np.zeros((height, width), bool)
        mask[place] = solid[inside]
        for index, other in enumerate(self.masks):
            self.masks[index] = other & ~mask
        self.names.append(name)
        self.masks.append(mask)
        self.areas.append(int(solid.sum()))

    def _fits(self, place: tuple[slice, ...], solid: Mask, area: int) -> bool:
        min_area = MIN_AREA * self.image.shape[0] * self.image.shape[1]
        if solid.sum() < max(min_area, 0.6 * area):
            return False
        for mask, full_area in zip(self.masks, self.areas, strict=True):
            hidden = int((mask[place] & solid).sum())
            if hidden and mask.sum() - hidden < max(min_area, MIN_VISIBLE * full_area):
                return False
        return True

    def _shade(
        self, place: tuple[slice, ...], opacity: npt.NDArray[np.floating], rng: np.random.Generator
    ) -> None:
        """Darken the image next to the thing to be pasted, as a soft shadow does."""
        shift = (int(rng.integers(2, 8)), int(rng.integers(-6, 7)))
        drop = np.roll(np.pad(opacity, 8), shift, axis=(0, 1))[8:-8, 8:-8]  # padding keeps it from wrapping
        soft = Image.fromarray((drop * 255).astype(np.uint8)).filter(
            ImageFilter.BoxBlur(float(rng.uniform(2, 6)))
        )
        self.image[place] *= 1 - rng.uniform(0.15, 0.5) * np.asarray(soft, np.float32)[:, :, None] / 255
