"""The frozen towers' features of photos with true masks, on disk; the click head is trained on these.

    python -m recipes.pixellm_mini.click_cache --photos DIR ... --out DIR [--evaluation]

Features are stored in half precision, masks as bits on the padded square at half its side.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pixellm_model import Segmenter
from pixellm_model.clicks.features import TowerMaps, click_size, tower_maps
from pixellm_model.learning.packing import shrink_mask
from pixellm_model.preprocess import process_image
from recipes.pixellm_mini.click_photos import AnnotatedPhoto, read_photos
from recipes.pixellm_mini.command import command

MIN_AREA = 0.003  # of an object, as a share of the photo; smaller ones are a few cells
MASK_SIDE = 256  # cells
PHOTOS_PER_MESSAGE = 100


@dataclass(frozen=True)
class CachedPhoto:
    """A photo of the cache.

    Attributes:
        maps: Its features.
        masks: The objects' masks (n, MASK_SIDE, MASK_SIDE) bool, on the padded square.
        names: Each object's name.
    """

    maps: TowerMaps
    masks: torch.Tensor
    names: list[str]


def build(photos: list[AnnotatedPhoto], out: Path) -> None:
    """Run the shipped mini's towers on photos and write their features and masks.

    Args:
        photos: The photos.
        out: The folder to write to; created if missing.
    """
    model = Segmenter.from_pretrained().model
    size = click_size(model)
    out.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, np.memmap] = {}
    records = []
    start = time.monotonic()
    for row, photo in enumerate(photos):
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            maps = tower_maps(model, process_image(photo.image, size))
        for name, values in _arrays_of(maps).items():
            if name not in arrays:
                shape = (len(photos), *values.shape)
                arrays[name] = np.lib.format.open_memmap(out / f"{name}.npy", "w+", values.dtype, shape)
            arrays[name][row] = values
        records.append(_record_of(photo, maps))
        if (row + 1) % PHOTOS_PER_MESSAGE == 0:
            print(f"{row + 1} photos in {time.monotonic() - start:.0f} s", flush=True)
    for array in arrays.values():
        array.flush()
    torch.save({"size": size, "records": records}, out / "photos.pt")


def _arrays_of(maps: TowerMaps) -> dict[str, np.ndarray]:
    """The features by the names of their files: float16, pixels uint8."""
    features = {"first": maps.first, **{str(stride): values for stride, values in maps.second.items()}}
    arrays = {name: values.half().numpy() for name, values in features.items()}
    arrays["pixels"] = (maps.pixels * 255).round().to(torch.uint8).numpy()
    return arrays


def _record_of(photo: AnnotatedPhoto, maps: TowerMaps) -> dict[str, Any]:
    """The photo's masks as bits, their names, and how it lies in the padded square."""
    masks = [
        shrink_mask(annotated.mask, maps.resized, maps.size, MASK_SIDE) > 0.5 for annotated in photo.objects
    ]
    return {
        "masks": np.packbits(torch.stack(masks).numpy(), axis=-1),
        "names": [annotated.name for annotated in photo.objects],
        "resized": maps.resized,
        "original": maps.original,
    }


class ClickCache:
    """The photos that `build` wrote to a folder, read from disk one by one.

    Attributes:
        size: Side of the padded square in pixels.
    """

    def __init__(self, folder: Path):
        self._arrays = {path.stem: np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))}
        saved = torch.load(folder / "photos.pt", weights_only=False)
        self.size, self._records = saved["size"], saved["records"]

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, row: int) -> CachedPhoto:
        record = self._records[row]
        arrays = {name: torch.from_numpy(np.array(array[row])) for name, array in self._arrays.items()}
        pixels, first = arrays.pop("pixels").float() / 255, arrays.pop("first").float()
        second = {stride: arrays[str(stride)].float() for stride in sorted(int(name) for name in arrays)}
        maps = TowerMaps(first, second, pixels, self.size, record["resized"], record["original"])
        masks = torch.from_numpy(np.unpackbits(record["masks"], axis=-1).astype(bool))
        return CachedPhoto(maps, masks, record["names"])


def main() -> None:
    """Read the arguments and build the cache."""
    parser = command(__doc__, "--out")
    parser.add_argument("--photos", type=Path, nargs="+", required=True)
    parser.add_argument("--evaluation", action="store_true", help="the photos held out for evaluation only")
    arguments = parser.parse_args()
    build(read_photos(arguments.photos, arguments.evaluation, MIN_AREA), arguments.out)


if __name__ == "__main__":
    main()
