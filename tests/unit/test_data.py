"""Readers of annotated images, on small files in the true formats, and on broken ones."""

from __future__ import annotations

import copy
import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from pixellm_model.data import SampleSet, read_samples
from pixellm_model.data.records import inside
from pixellm_model.errors import DataError

COCO_PHOTOS = Path(__file__).parents[3] / "shared" / "data" / "coco_photos"
WIDTH, HEIGHT = 40, 30
SQUARE = [[10, 5, 20, 5, 20, 15, 10, 15]]


def rle(mask: np.ndarray) -> dict[str, Any]:
    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode("ascii")}


def disc() -> np.ndarray:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return (rows - 15) ** 2 + (columns - 30) ** 2 < 40


def write_image(path: Path, size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (200, 100, 50)).save(path)


def muse_entry() -> dict[str, Any]:
    cup = {"category_name": "cup", "rephrased_name": "red cup", "segmentation": SQUARE}
    ball = {"category_name": "ball", "segmentation": rle(disc())}
    return {
        "id": "picture-1",
        "file_name": "a.png",
        "height": HEIGHT,
        "width": WIDTH,
        "split": "train",
        "questions": ["the cup and the ball", "What could I drink from?", "the dog", "only the left one"],
        "answers": [[cup, ball], [cup], [], [cup]],
        "text_answers": [None, "You could use {seg}.", "There is no dog in this image.", None],
        "history": [None, None, [], [["all things", "cup is [1] and ball is [2]."]]],
    }


def write_muse(folder: Path, *entries: Any) -> Path:
    write_image(folder / "images" / "a.png")
    (folder / "dataset.json").write_text(json.dumps(entries))
    return folder


def test_a_corrections_data_set_is_read_whole(tmp_path: Path) -> None:
    held_out = {**muse_entry(), "split": "held_out", "id": "picture-2"}
    folder = write_muse(tmp_path, muse_entry(), held_out)
    samples = read_samples(folder)
    assert len(samples) == 2 and not samples.skipped
    first, drink, dog, left = samples[0].questions
    assert samples[0].image.shape == (HEIGHT, WIDTH, 3)
    assert first.answer == "red cup is {seg} and ball is {seg}." and first.phrases == ("red cup", "ball")
    assert first.masks[0][5:15, 10:20].all() and first.masks[0].sum() == 100
    assert (first.masks[1] == disc()).all()
    assert drink.answer == "You could use {seg}." and dog.masks == ()
    assert left.history == (("all things", "cup is [1] and ball is [2]."),)
    held_out_samples = read_samples(folder, split="held_out")
    assert isinstance(held_out_samples, SampleSet)
    assert [record.name for record in held_out_samples.records] == ["record 1 (picture-2)"]
    with pytest.raises(DataError, match="no usable record of split 'test'"):
        read_samples(folder, split="test")


def test_muse_names_images_by_coco_s_url_too(tmp_path: Path) -> None:
    entry = muse_entry()
    del entry["file_name"]
    entry["coco_url"] = "http://images.example/train2017/000009.png"
    write_image(tmp_path / "coco" / "train2017" / "000009.png")
    (tmp_path / "muse_train.json").write_text(json.dumps([entry]))
    assert len(read_samples(tmp_path / "muse_train.json", images=tmp_path / "coco")[0].questions) == 4


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"file_name": "../a.png"}, "outside its folder"),
        ({"file_name": "/etc/passwd"}, "outside its folder"),
        ({"file_name": "lost.png"}, "missing"),
        ({"file_name": 7}, "not a file name"),
        ({"height": 31}, "the image has 40x30"),
        ({"questions": ["one"]}, "as many answers as questions"),
        ({"text_answers": ["{seg}", "{seg}", "", None]}, "has 1 {seg} for 2 targets"),
        ({"answers": [[{"category_name": "cup", "segmentation": [[1, 2, 3]]}], [], [], []]}, "three points"),
        ({"answers": [[{"category_name": "cup"}], [], [], []]}, "no polygon"),
        ({"answers": [[{"segmentation": SQUARE}], [], [], []]}, "no category_name"),
        ({"answers": [[{"category_name": "c", "segmentation": rle(disc()[:9])}], [], [], []]}, "of size"),
        (
            {
                "answers": [
                    [{"category_name": "c", "segmentation": {**rle(disc()), "counts": "0"}}],
                    [],
                    [],
                    [],
                ]
            },
            "not COCO RLE",
        ),
        ({"history": [None, None, None, ["x"]]}, "turn of a history"),
    ],
)
def test_a_malformed_record_is_named_and_costs_no_other(
    tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    samples = read_samples(write_muse(tmp_path, muse_entry(), {**muse_entry(), **change}, 5))
    assert len(samples) == 1 and len(samples.skipped) == 2
    assert samples.skipped[0].startswith("record 1 (picture-1): ") and reason in samples.skipped[0]
    with pytest.raises(DataError, match="no usable record"):
        read_samples(write_muse(tmp_path, {**muse_entry(), **change}))


def test_a_picture_that_turns_out_broken_is_left_out_of_a_pass(tmp_path: Path) -> None:
    folder = write_muse(tmp_path, muse_entry(), {**muse_entry(), "file_name": "b.jpg"})
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)).save(
        folder / "images" / "b.jpg"
    )
    file = folder / "images" / "b.jpg"
    file.write_bytes(file.read_bytes()[:-300])
    samples = read_samples(folder)
    assert len(samples) == 2
    for _ in range(2):
        assert len(list(samples)) == 1 and len(samples.skipped) == 1
    with pytest.raises(DataError, match=r"b\.jpg cannot be read"):
        samples[1]


def test_exif_orientation_is_applied_before_masks_are_compared(tmp_path: Path) -> None:
    folder = write_muse(tmp_path, {**muse_entry(), "file_name": "a.jpg"})
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (HEIGHT, WIDTH)).save(folder / "images" / "a.jpg", exif=exif)
    assert read_samples(folder)[0].image.shape == (HEIGHT, WIDTH, 3)


def write_coco(folder: Path) -> dict[str, Any]:
    write_image(folder / "images" / "1.png")
    content = {
        "images": [{"id": 1, "file_name": "1.png"}],
        "categories": [{"id": 1, "name": "cup"}, {"id": 2, "name": "dog"}, {"id": 3, "name": "ball"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "segmentation": SQUARE},
            {"id": 2, "image_id": 1, "category_id": 1, "segmentation": [[30, 5, 38, 5, 38, 12, 30, 12]]},
            {"id": 3, "image_id": 1, "category_id": 3, "segmentation": rle(disc())},
        ],
    }
    (folder / "instances.json").write_text(json.dumps(content))
    return content


def test_answers_made_from_coco_are_true(tmp_path: Path) -> None:
    write_coco(tmp_path)
    asked = {question.text: question for question in read_samples(tmp_path)[0].questions}
    assert len(asked["Segment every cup."].masks) == 2
    assert asked["Segment the dog."].answer == "There is no dog in this image."
    side = next(text for text in asked if "cup on the" in text)
    (outermost,) = asked[side].masks
    assert outermost[:, :25].any() == ("left" in side)
    assert list(asked) == [question.text for question in read_samples(tmp_path)[0].questions]


@pytest.mark.skipif(not COCO_PHOTOS.is_dir(), reason="the COCO photos are not next to the project")
def test_real_coco_photos_are_read() -> None:
    samples = read_samples(COCO_PHOTOS)
    assert len(samples) == 50 and not samples.skipped
    question = next(q for q in samples[0].questions if q.masks)
    assert question.masks[0].any() and question.masks[0].shape == samples[0].image.shape[:2]


def write_refer(folder: Path, refs: Any) -> None:
    write_coco(folder)
    with (folder / "refs(unc).p").open("wb") as file:
        pickle.dump(refs, file, protocol=2)


def ref(**fields: Any) -> dict[str, Any]:
    sentences = [{"sent": "left cup", "sent_id": 1}, {"sent": "the nearer one", "sent_id": 2}]
    return {"ref_id": 7, "ann_id": 1, "image_id": 1, "split": "val", "sentences": sentences, **fields}


def test_referring_expressions_are_questions_of_their_image(tmp_path: Path) -> None:
    write_refer(tmp_path, [ref(), ref(ref_id=8, split="train"), ref(ref_id=9, ann_id=99)])
    samples = read_samples(tmp_path)
    assert len(samples) == 1 and samples.skipped == [
        "ref 9: its image or annotation is not among the instances"
    ]
    assert [q.text for q in samples[0].questions][:2] == [
        "What is left cup in this image?",
        "What is the nearer one in this image?",
    ]
    assert samples[0].questions[0].masks[0].sum() == 100
    assert len(read_samples(tmp_path, split="val")[0].questions) == 2


class Harm:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("harm",)


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_refer(tmp_path, [Harm()])
    with pytest.raises(DataError, match="mkdir"):
        read_samples(tmp_path)
    assert not (tmp_path / "harm").exists()


def test_a_pickle_that_asks_for_much_memory_is_refused(tmp_path: Path) -> None:
    write_refer(tmp_path, [])
    (file,) = tmp_path.glob("refs*.p")
    file.write_bytes(b"Nr" + (50_000_000).to_bytes(4, "little") + b"0.")
    with pytest.raises(DataError, match="more values than it has bytes"):
        read_samples(tmp_path)


def test_a_link_out_of_the_images_folder_is_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "secret.png")
    (tmp_path / "set" / "images").mkdir(parents=True)
    (tmp_path / "set" / "images" / "a.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(DataError, match="a link out of its folder"):
        inside(tmp_path / "set" / "images", "a.png")


def test_reason_seg_cuts_out_what_is_to_be_ignored(tmp_path: Path) -> None:
    write_image(tmp_path / "x.jpg")
    entry = {
        "text": ["What holds the tea?"],
        "is_sentence": True,
        "shapes": [
            {"label": "target", "points": [[10, 5], [20, 5], [20, 15], [10, 15]]},
            {"label": "ignore", "points": [[10, 5], [20, 5], [20, 10], [10, 10]]},
        ],
    }
    (tmp_path / "x.json").write_text(json.dumps(entry))
    (tmp_path / "y.json").write_text(json.dumps(entry))
    samples = read_samples(tmp_path)
    (question,) = samples[0].questions
    assert question.text == "What holds the tea?" and question.masks[0].sum() == 50
    assert len(samples.skipped) == 1 and "no image y.jpg" in samples.skipped[0]


def test_what_cannot_be_read_says_why(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "no", "does not exist"), (tmp_path, "holds neither")):
        with pytest.raises(DataError, match=reason):
            read_samples(path)
    (tmp_path / "broken.json").write_text("[")
    with pytest.raises(DataError, match="not JSON"):
        read_samples(tmp_path / "broken.json")
    with pytest.raises(DataError, match="use one of"):
        read_samples(tmp_path, kind="pascal")


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=True) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_damage_raises_anything_but_a_data_error(tmp_path: Path, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["muse", "coco"]))
    content: Any = [muse_entry()] if kind == "muse" else write_coco(tmp_path)
    content = copy.deepcopy(content)
    place = content
    while True:  # walk down to a random place and put junk there
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.booleans()):
            place[key] = data.draw(JUNK)
            break
        place = place[key]
    write_image(tmp_path / "images" / "a.png")
    file = tmp_path / "damaged.json"
    file.write_text(json.dumps(content))
    try:
        samples = read_samples(file, kind=kind)
    except DataError:
        return
    for sample in samples:
        assert sample.questions
