"""What the frozen towers see in photos with true masks, on disk: the click head is trained from these.

    python -m recipes.pixellm_mini.click_cache --photos DIR ... --out DIR [--kept]

Features are half precision, masks are bits on the padded square at half its side.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pixellm_model import Segmenter
from pixellm_model.clicks.features import TowerMaps, click_size, tower_maps
from pixellm_model.learning.packing import shrink_mask
from pixellm_model.preprocess import process_image
from recipes.pixellm_mini.click_photos import MarkedPhoto, read_photos
from recipes.pixellm_mini.command import command

SMALLEST = 0.003  # of the photo: what is smaller is a few cells
SIDE = 256  # of a mask


@dataclass(frozen=True)
class CachedPhoto:
    """`maps` of the photo; `masks` (n, SIDE, SIDE) bool of its objects and the name of each."""

    maps: TowerMaps
    masks: torch.Tensor
    names: list[str]


def build(photos: list[MarkedPhoto], out: Path) -> None:
    """Run the shipped mini's towers on the photos and write what they give to `out`."""
    model = Segmenter.from_pretrained().model
    size = click_size(model)
    out.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, np.memmap] = {}
    records = []
    began = time.monotonic()
    for row, photo in enumerate(photos):
        prepared = process_image(photo.image, size)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            maps = tower_maps(model, prepared)
        streams = {"first": maps.first, **{str(stride): one for stride, one in maps.second.items()}}
        for name, tensor in streams.items():
            if name not in arrays:
                shape = (len(photos), *tensor.shape)
                arrays[name] = np.lib.format.open_memmap(out / f"{name}.npy", "w+", np.float16, shape)
            arrays[name][row] = tensor.half().numpy()
        if "pixels" not in arrays:
            shape = (len(photos), *maps.pixels.shape)
            arrays["pixels"] = np.lib.format.open_memmap(out / "pixels.npy", "w+", np.uint8, shape)
        arrays["pixels"][row] = (maps.pixels * 255).round().to(torch.uint8).numpy()
        masks = [shrink_mask(thing.mask, maps.resized, size, SIDE) > 0.5 for thing in photo.objects]
        records.append(
            {
                "masks": np.packbits(torch.stack(masks).numpy(), axis=-1),
                "names": [thing.name for thing in photo.objects],
                "resized": maps.resized,
                "original": maps.original,
            }
        )
        if row % 100 == 99:
            print(f"{row + 1} photos in {time.monotonic() - began:.0f} s", flush=True)
    for array in arrays.values():
        array.flush()
    torch.save({"size": size, "records": records}, out / "photos.pt")


class ClickCache:
    """What `build` wrote, photo by photo."""

    def __init__(self, folder: Path):
        self._arrays = {path.stem: np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))}
        kept = torch.load(folder / "photos.pt", weights_only=False)
        self.size, self._records = kept["size"], kept["records"]

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, row: int) -> CachedPhoto:
        record = self._records[row]
        maps = {name: torch.from_numpy(np.array(array[row])) for name, array in self._arrays.items()}
        pixels, first = maps.pop("pixels").float() / 255, maps.pop("first").float()
        second = {int(stride): one.float() for stride, one in sorted(maps.items(), key=lambda kv: int(kv[0]))}
        towers = TowerMaps(first, second, pixels, self.size, record["resized"], record["original"])
        masks = torch.from_numpy(np.unpackbits(record["masks"], axis=-1).astype(bool))
        return CachedPhoto(towers, masks, record["names"])


def main() -> None:
    parser = command(__doc__, "--out")
    parser.add_argument("--photos", type=Path, nargs="+", required=True)
    parser.add_argument("--kept", action="store_true", help="the photos kept for evaluation, not the others")
    args = parser.parse_args()
    build(read_photos(args.photos, args.kept, SMALLEST), args.out)


if __name__ == "__main__":
    main()
