"""The image cache: its limits of memory and age, and what identifies an image."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pixellm_model import Picture
from worker.images.decode import ImageError
from worker.serving import image_cache
from worker.serving.image_cache import ImageCache

SIDE = 4
PICTURE = 3 * SIDE * SIDE


@dataclass(frozen=True)
class Prepared:
    fetched: int  # how often it was
    original: tuple[int, int]
    nbytes: int


def prepared(image: Image.Image) -> Prepared:
    red = int(np.asarray(image)[0, 0, 0])
    return Prepared(red, (image.height, image.width), 3 * image.width * image.height)


def fetched(picture: Picture) -> int:
    """How often the source had been asked for this picture when it was prepared."""
    assert isinstance(picture, Prepared)
    return picture.fetched


class Source:
    """Pictures whose colour says how often theirs was fetched; "lost" is not to be had."""

    def __init__(self) -> None:
        self.fetched: Counter[tuple[str, str | None]] = Counter()

    def load(self, reference: str, task: str | None = None) -> Image.Image:
        self.fetched[reference, task] += 1
        if reference == "lost":
            raise ImageError("It is lost.", "not_found")
        side = 10 * SIDE if reference == "large" else SIDE
        return Image.new("RGB", (side, side), (self.fetched[reference, task], 0, 0))


@pytest.fixture
def source() -> Source:
    return Source()


def test_the_images_used_last_are_kept(source: Source) -> None:
    images = ImageCache(source, prepared, 2 * PICTURE)
    for reference in ("a", "b", "a", "c", "a", "b"):
        images.load(reference)
    assert source.fetched == {("a", None): 1, ("b", None): 2, ("c", None): 1}


def test_a_picture_over_the_bound_is_not_kept_and_costs_no_other_its_place(source: Source) -> None:
    images = ImageCache(source, prepared, 2 * PICTURE)
    for reference in ("a", "large", "a", "large"):
        images.load(reference)
    assert source.fetched == {("a", None): 1, ("large", None): 2}


def test_a_cache_without_memory_keeps_no_image(source: Source) -> None:
    images = ImageCache(source, prepared, 0)
    assert [fetched(images.load("a")) for _ in range(2)] == [1, 2]


def test_an_old_picture_is_fetched_anew(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    images = ImageCache(source, prepared, PICTURE)
    images.load("a")
    monkeypatch.setattr(image_cache, "MAX_AGE_S", -1.0)
    assert fetched(images.load("a")) == 2


def test_tasks_are_told_apart_and_failures_are_not_kept(source: Source) -> None:
    images = ImageCache(source, prepared, 10 * PICTURE)
    for task in ("1", "2", "1", None):
        images.load("s3://bucket/cup.png", task)
    assert set(source.fetched.values()) == {1} and len(source.fetched) == 3
    for _ in range(2):
        with pytest.raises(ImageError):
            images.load("lost")
    assert source.fetched["lost", None] == 2


@given(st.lists(st.sampled_from("abcde"), max_size=30), st.integers(0, 4))
def test_it_fetches_exactly_what_is_not_among_the_last(references: list[str], room: int) -> None:
    source, kept = Source(), list[str]()
    images = ImageCache(source, prepared, room * PICTURE)
    for reference in references:
        before = source.fetched.total()
        images.load(reference)
        assert source.fetched.total() - before == (reference not in kept)
        kept = ([one for one in kept if one != reference] + [reference])[-room:] if room else []
