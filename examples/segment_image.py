"""Segment one image and save the masks: one PNG per target, and a COCO file with all of them.

    python examples/segment_image.py photo.jpg "the cup and the book" --out masks

Without `--model` the shipped pixellm-mini answers.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from pycocotools import mask as coco_mask

from pixellm_model import Segmentation, Segmenter


def to_coco(name: str, result: Segmentation, height: int, width: int) -> dict[str, Any]:
    """Convert an answer to a COCO instances dictionary with compressed RLE masks."""
    phrases = list(dict.fromkeys(target.phrase for target in result.targets))
    annotations = []
    for number, target in enumerate(result.targets, 1):
        rle = coco_mask.encode(np.asfortranarray(target.mask.astype(np.uint8)))
        left, top, right, bottom = target.box
        annotations.append(
            {
                "id": number,
                "image_id": 1,
                "category_id": phrases.index(target.phrase) + 1,
                "segmentation": {"size": [height, width], "counts": rle["counts"].decode("ascii")},
                "area": int(target.mask.sum()),
                "bbox": [left, top, right - left, bottom - top],
                "iscrowd": 0,
                "score": round(target.score, 4),
            }
        )
    return {
        "images": [{"id": 1, "file_name": name, "height": height, "width": width}],
        "categories": [{"id": number, "name": phrase} for number, phrase in enumerate(phrases, 1)],
        "annotations": annotations,
    }


def main() -> None:
    """Segment the image named on the command line."""
    parser = argparse.ArgumentParser(description="Segment one image and save the masks.")
    parser.add_argument("image", type=Path)
    parser.add_argument("prompt")
    parser.add_argument("--model", type=Path, metavar="DIR", help="a PixelLM checkpoint folder")
    parser.add_argument("--out", type=Path, default=Path("masks"), help="folder for the results")
    arguments = parser.parse_args()

    photo = ImageOps.exif_transpose(Image.open(arguments.image)).convert("RGB")
    segmenter = Segmenter.from_pretrained(arguments.model)
    result = segmenter.segment(photo, arguments.prompt)

    print(result.answer)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for number, target in enumerate(result.targets, 1):
        path = arguments.out / f"mask_{number}.png"
        Image.fromarray(target.mask.astype(np.uint8) * 255).save(path)
        print(f"  {path}: {target.phrase}, score {target.score:.2f}")
    instances = to_coco(arguments.image.name, result, photo.height, photo.width)
    (arguments.out / "instances.json").write_text(json.dumps(instances))


if __name__ == "__main__":
    main()
