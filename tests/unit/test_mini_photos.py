"""The recipe's photos: what is kept aside, what is missing for sure, and views of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle

from pixellm_model.synthetic.nouns import Nouns
from recipes.pixellm_mini.photos import PhotoViews, held_out, read, shippable
from recipes.pixellm_mini.wording import varied

NOUNS = Nouns(Path(__file__).parents[2] / "recipes" / "pixellm_mini" / "vocabulary.json")
WHOLE, PARTIAL, UNKNOWN = "zzowenzz/COCO_Tiny", "Tuestag/COAD", "somebody/else"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    names = ["person", "dining table", "pedestrian"]
    images, marks = [], []
    for number in range(40):
        source = (WHOLE, PARTIAL, UNKNOWN)[number % 3]
        file = f"{number}.png"
        Image.new("RGB", (60, 40), (number, 80, 90)).save(tmp_path / "images" / file)
        images.append(
            {"id": number, "file_name": file, "width": 60, "height": 40, "source": source}
            | {"partial": source != WHOLE}
        )
        for category, left in ((1, 0), (1, 30), (3, 20)):
            mask = np.zeros((40, 60), np.uint8)
            mask[10:30, left : left + 10] = 1
            found = rle.encode(np.asfortranarray(mask))
            found["counts"] = found["counts"].decode()
            marks.append({"image_id": number, "category_id": category, "segmentation": found})
    categories = [{"id": number + 1, "name": name} for number, name in enumerate(names)]
    written = {"images": images, "annotations": marks, "categories": categories}
    (tmp_path / "instances.json").write_text(json.dumps(written))
    return tmp_path


def test_photos_are_kept_aside_for_good_and_other_sources_left_out(folder: Path) -> None:
    kept, others = read(folder, kept=True), read(folder, kept=False)
    assert not {p.file for p in kept} & {p.file for p in others}
    assert {int(p.file.stem) % 3 for p in kept + others} == {0, 1}
    assert kept and all(int(p.file.stem) % 3 == 0 for p in kept), "of partial photos none is kept"
    assert held_out({"id": 102}) and not held_out({"id": 103})


def test_one_mask_a_name_under_the_names_that_are_taught(folder: Path) -> None:
    for photo in shippable([folder], NOUNS):
        masks = photo.decoded()
        assert set(masks) == {"person"}, "a pedestrian is a person"
        assert masks["person"].sum() == 20 * 30
        whole = int(photo.file.stem) % 3 == 0
        assert photo.universe == (frozenset({"person", "table"}) if whole else frozenset())


def test_views_are_repeatable_and_say_what_they_do_not_know(folder: Path) -> None:
    views = PhotoViews(shippable([folder], NOUNS), [0, 1], 96)
    assert len(views) == 2 * len(views.photos)
    for number in (0, len(views) - 1):
        one, other = views.picture(number), views.picture(number)
        assert np.array_equal(one.image, other.image) and max(one.image.shape) == 96
        assert not one.complete and "dog" in one.backdrop
    first = views.picture(0)
    assert [thing.name for thing in first.things] == ["person"]
    assert first.things[0].mask.mean() == pytest.approx(0.25, abs=0.02)


def test_wordings_keep_the_words() -> None:
    rng = np.random.default_rng(0)
    seen = {varied("Segment the cup.", rng) for _ in range(300)}
    assert {"segment the cup.", "SEGMENT THE CUP.", "Segment the cup", "Segment cup."} <= seen
    assert all("cup" in text.lower() for text in seen)
