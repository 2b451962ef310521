"""Refinement by clicks and boxes, with the shipped click head and with the training-free method."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pixellm_model import Click, ClickError, Segmenter
from pixellm_model.clicks.adjust import Adjustment, clicks_inside, moved_border
from pixellm_model.clicks.cache import PhotoCache
from pixellm_model.clicks.head import CLICK_HEAD_FILE, ClickHead
from pixellm_model.clicks.postprocess import accepted_changes, enforce_clicks
from pixellm_model.engine.refiner import Refiner
from pixellm_model.engine.segmenter import MINI
from pixellm_model.errors import CheckpointError
from pixellm_model.measuring.robot_user import iou, next_click
from pixellm_model.samples import Mask
from support.tiny_model import write_tiny

HEIGHT, WIDTH = 240, 320


@pytest.fixture(scope="module")
def with_head() -> Segmenter:
    return Segmenter.from_pretrained()


@pytest.fixture(scope="module")
def training_free(with_head: Segmenter) -> Segmenter:
    """The mini's towers with the training-free method."""
    return Segmenter(
        with_head.model, with_head.tokenizer, with_head.version, refiner=Refiner(with_head.model)
    )


@pytest.fixture(params=["with_head", "training_free"])
def segmenter(request: pytest.FixtureRequest) -> Segmenter:
    segmenter: Segmenter = request.getfixturevalue(request.param)
    return segmenter


def disk(x: int, y: int, radius: int) -> Mask:
    rows, columns = np.ogrid[:HEIGHT, :WIDTH]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    """A red and a blue disk on green with some noise."""
    pixels = np.full((HEIGHT, WIDTH, 3), (60, 140, 70), float)
    pixels[disk(100, 120, 55)] = (200, 40, 40)
    pixels[disk(250, 90, 40)] = (40, 60, 210)
    pixels += np.random.default_rng(0).normal(0, 6, pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def test_the_shipped_head_loads(with_head: Segmenter) -> None:
    head = ClickHead.load(MINI / CLICK_HEAD_FILE)
    assert sum(p.numel() for p in head.parameters()) < 1_500_000
    assert (MINI / CLICK_HEAD_FILE).stat().st_size < 4 * 2**20


def test_one_click_segments_a_plain_disk_without_training(
    training_free: Segmenter, photo: Image.Image
) -> None:
    target = training_free.refine(photo, [Click(100, 120)])
    assert iou(target.mask, disk(100, 120, 55)) >= 0.9
    assert target.mask.shape == (HEIGHT, WIDTH) and target.mask.dtype == bool
    assert 0.5 < target.score <= 1
    assert target.box[0] <= 50 and target.box[2] >= 150


def test_the_mask_agrees_with_every_click(segmenter: Segmenter, photo: Image.Image) -> None:
    rng = np.random.default_rng(1)
    for _ in range(3):
        clicks = [
            Click(float(rng.uniform(0, WIDTH)), float(rng.uniform(0, HEIGHT)), bool(k % 2 == 0))
            for k in range(6)
        ]
        target = segmenter.refine(photo, clicks)
        for click in clicks:
            assert target.mask[click.pixel] == click.positive


@pytest.mark.parametrize("tower", ["clip", "dinov2"])
def test_a_checkpoint_with_one_tower_is_refined_without_training(
    tower: str, photo: Image.Image, tmp_path: Path
) -> None:
    tiny = Segmenter.from_pretrained(write_tiny(tmp_path, tower))
    clicks = [Click(100, 120), Click(20, 20, positive=False)]
    for mask in (None, disk(100, 120, 40)):
        refined = tiny.refine(photo, clicks, mask=mask).mask
        assert refined[120, 100] and not refined[20, 20]


def test_of_clicks_on_one_pixel_the_latest_counts(segmenter: Segmenter, photo: Image.Image) -> None:
    on, off = Click(100.2, 120.9), Click(100, 120, positive=False)
    assert segmenter.refine(photo, [off, on]).mask[120, 100]
    assert not segmenter.refine(photo, [on, off], mask=disk(100, 120, 55)).mask[120, 100]


def test_a_box_bounds_the_result(segmenter: Segmenter, photo: Image.Image) -> None:
    for clicks in ([], [Click(100, 120)]):
        refined = segmenter.refine(photo, clicks, box=(60.5, 80, 130, 160)).mask
        assert refined.any()
        outside = refined.copy()
        outside[80:160, 60:130] = False
        assert not outside.any()


def test_far_from_the_clicks_nothing_changes(segmenter: Segmenter, photo: Image.Image) -> None:
    current = disk(100, 120, 55) | disk(250, 90, 40)
    current[200:230, 10:60] = True  # right or wrong, nobody clicked on it
    refined = segmenter.refine(photo, [Click(250, 90, positive=False)], mask=current).mask
    assert not refined[90, 250]
    assert (refined[:, :190] == current[:, :190]).all()
    unchanged = segmenter.refine(photo, [Click(100, 120), Click(5, 5, positive=False)], mask=current).mask
    assert (unchanged == current).all()


def test_the_current_mask_is_not_changed_in_place(segmenter: Segmenter, photo: Image.Image) -> None:
    current = disk(250, 90, 40)
    before = current.copy()
    segmenter.refine(photo, [Click(100, 120)], mask=current)
    assert (current == before).all()


def test_clicks_give_the_same_mask_one_by_one_and_at_once(with_head: Segmenter, photo: Image.Image) -> None:
    clicks = [Click(100, 120), Click(20, 20, positive=False), Click(130, 130)]
    with_head.forget()
    for count in (1, 2, 3):
        step_by_step = with_head.refine(photo, clicks[:count]).mask
    with_head.forget()
    assert (with_head.refine(photo, clicks).mask == step_by_step).all()


def test_negative_clicks_alone_give_an_empty_mask(segmenter: Segmenter, photo: Image.Image) -> None:
    target = segmenter.refine(photo, [Click(3, 3, positive=False)])
    assert not target.mask.any() and target.score == 0 and target.box == (0, 0, 0, 0)


def test_the_towers_run_once_per_photo(with_head: Segmenter, photo: Image.Image) -> None:
    with_head.refiner.forget()
    runs: list[None] = []
    hits = with_head.refiner.cache.hits
    handle = with_head.model.model.vision_tower.register_forward_hook(lambda *_: runs.append(None))
    try:
        with_head.warm_clicks(photo)
        with_head.refine(photo, [Click(100, 120)])
        with_head.refine(with_head.prepare(photo), [Click(100, 120), Click(20, 20, positive=False)])
        assert len(runs) == 1 and with_head.refiner.cache.hits == hits + 2
        with_head.forget()
        with_head.refine(photo, [Click(100, 120)])
        assert len(runs) == 2
    finally:
        handle.remove()


def test_photos_of_any_size(segmenter: Segmenter) -> None:
    for size in ((1, 1), (9, 700), (1500, 1000)):
        mask = segmenter.refine(Image.new("RGB", size, "teal"), [Click(size[0] - 1, size[1] - 1)]).mask
        assert mask.shape == size[::-1] and mask[-1, -1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"clicks": [Click(320, 10)]}, "outside the photo"),
        ({"clicks": [Click(-0.5, 10)]}, "outside the photo"),
        ({"clicks": []}, "click or a box"),
        ({"clicks": [Click(5, 5)], "box": (50, 50, 90, 90)}, "outside the box"),
        ({"clicks": [], "box": (90, 50, 90, 90)}, "nothing of the photo"),
        ({"clicks": [Click(5, 5)], "mask": np.ones((5, 5), bool)}, "240 rows"),
    ],
)
def test_clicks_boxes_and_masks_that_do_not_fit_the_photo_are_refused(
    training_free: Segmenter, photo: Image.Image, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(ClickError, match=message):
        training_free.refine(photo, **arguments)  # type: ignore[arg-type]


def test_a_file_that_is_no_head_is_refused(tmp_path: Path) -> None:
    path = tmp_path / CLICK_HEAD_FILE
    path.write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match="not a click head"):
        ClickHead.load(path)


def test_a_head_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    torch.manual_seed(0)
    head = ClickHead(8, 4, 4, 4)
    head.save(tmp_path / CLICK_HEAD_FILE)
    loaded = ClickHead.load(tmp_path / CLICK_HEAD_FILE)
    for key, value in head.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value.half().float())


def test_a_changed_component_is_accepted_where_a_click_asks_for_it() -> None:
    current = np.zeros((20, 20), bool)
    current[2:6, 2:6] = True
    proposed = np.zeros((20, 20), bool)
    proposed[10:14, 10:14] = proposed[17:19, 2:4] = True
    accepted = accepted_changes(proposed, current, np.array([[11.0, 11.0]]), np.array([True]))
    assert accepted[10:14, 10:14].all() and accepted.sum() == 16


def test_contradicted_clicks_get_a_disk_up_to_clicks_of_the_other_sign() -> None:
    mask = np.zeros((20, 20), bool)
    enforce_clicks(mask, [Click(10, 10), Click(12, 10, positive=False)], 5)
    assert mask[10, 10] and not mask[10, 12] and mask[10, 7]


def test_the_cache_keeps_the_latest_within_its_bound() -> None:
    cache: PhotoCache[torch.Tensor] = PhotoCache(10)
    for key in "abc":
        cache.put(key, torch.zeros(4, dtype=torch.uint8))
    assert cache.get("a") is None and cache.get("b") is not None and cache.nbytes == 8
    cache.put("large", torch.zeros(40, dtype=torch.uint8))
    assert len(cache) == 1 and cache.get("large") is not None


def test_the_robot_user_clicks_into_the_thickest_error() -> None:
    truth, mask = disk(100, 120, 55), disk(250, 90, 30)
    first = next_click(truth, mask)
    assert first is not None and first.positive and abs(first.x - 100) < 2 and abs(first.y - 120) < 2
    second = next_click(truth, truth | mask)
    assert second is not None and not second.positive and abs(second.x - 250) < 2
    assert next_click(truth, truth) is None
    again = next_click(truth, mask, [(first.x, first.y)])
    assert again is not None and (again.x, again.y) != (first.x, first.y)


def test_a_mask_becomes_tighter_and_looser_by_a_small_step(with_head: Segmenter, photo: Image.Image) -> None:
    mask = disk(100, 120, 50)
    tighter = with_head.refine(photo, [], mask, adjust="tighter").mask
    looser = with_head.refine(photo, [], mask, adjust="looser").mask
    assert not (tighter & ~mask).any() and not (mask & ~looser).any()
    assert 0.9 < tighter.sum() / mask.sum() < 0.99 and 1.01 < looser.sum() / mask.sum() < 1.1


@pytest.mark.parametrize("adjust", ["tighter", "looser", "whole"])
def test_no_mask_is_refused_and_the_smallest_stays(
    with_head: Segmenter, photo: Image.Image, adjust: Adjustment
) -> None:
    with pytest.raises(ClickError, match="no mask"):
        with_head.refine(photo, [], np.zeros((HEIGHT, WIDTH), bool), adjust=adjust)
    assert with_head.refine(photo, [], disk(100, 120, 0), adjust=adjust).mask.any()
    everything = np.ones((HEIGHT, WIDTH), bool)
    assert with_head.refine(photo, [], everything, adjust=adjust).mask.any()


def test_half_an_object_grows_to_the_whole(segmenter: Segmenter, photo: Image.Image) -> None:
    whole = disk(100, 120, 55)
    half = whole.copy()
    half[:, 100:] = False
    grown = segmenter.refine(photo, [], half, adjust="whole").mask
    assert not (half & ~grown).any() and iou(grown, whole) > 0.85


def test_borders_of_large_masks_move_alike() -> None:
    small, large = disk(100, 120, 50), np.kron(disk(100, 120, 50), np.ones((8, 8), bool))
    ratios = [moved_border(mask, outwards=True).sum() / mask.sum() for mask in (small, large)]
    assert ratios[0] == pytest.approx(ratios[1], abs=0.04)
    corner = np.zeros((60, 80), bool)
    corner[:30, :40] = True
    assert moved_border(corner, outwards=False)[0, 0], "the image's own border is no border of the mask"


def test_clicks_lie_inside_and_apart() -> None:
    mask = disk(60, 120, 40) | disk(200, 120, 20)
    clicks = clicks_inside(mask)
    assert len(clicks) == 5 and all(mask[click.pixel] for click in clicks)
    assert clicks[0].pixel == pytest.approx((120, 60), abs=3)
    assert any(click.x > 150 for click in clicks)
