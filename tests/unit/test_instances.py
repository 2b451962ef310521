"""Two things of one name are two targets, also where the model marks them with one mask."""

from __future__ import annotations

import torch

from pixellm_model.engine.answers import display_text
from pixellm_model.engine.instances import MOST_PARTS, split, take_apart

SIDE = 40


def marked(*boxes: tuple[int, int, int, int]) -> torch.Tensor:
    """Logits of 2 inside boxes of top, left, height and width, and of -3 elsewhere."""
    logits = torch.full((SIDE, SIDE), -3.0)
    for top, left, height, width in boxes:
        logits[top : top + height, left : left + width] = 2.0
    return logits


def test_parts_from_left_to_right_and_small_pieces_with_their_nearest() -> None:
    logits = marked((20, 25, 10, 10), (2, 2, 8, 8), (2, 12, 2, 2))
    left, right = split(logits, 0.2)
    assert (left > 0).sum() == 64 + 4 and (right > 0).sum() == 100
    assert torch.equal((left > 0) | (right > 0), logits > 0), "nothing is lost"
    assert not ((left > 0) & (right > 0)).any()


def test_one_thing_with_crumbs_stays_one() -> None:
    logits = marked((20, 20, 15, 15), (2, 2, 4, 4))
    assert len(split(logits, 0.2)) == 1 and split(logits, 0.2)[0] is logits
    assert len(split(torch.full((SIDE, SIDE), -1.0), 0.2)) == 1
    assert len(split(marked((0, 0, 2, 2), (9, 9, 2, 2)), 0.2)) == 1, "crumbs alone"


def test_a_crowd_is_bounded() -> None:
    crowd = marked(*((top, left, 4, 4) for top in range(0, 36, 6) for left in range(0, 36, 6)))
    parts = split(crowd, 0.2)
    assert len(parts) == MOST_PARTS
    assert torch.equal(torch.stack(parts).amax(0) > 0, crowd > 0)


def test_answer_names_each_part() -> None:
    cups, book = marked((0, 0, 5, 5), (0, 10, 5, 5), (0, 20, 5, 5)), marked((20, 20, 9, 9))
    texts, phrases, parts = take_apart(
        ["cup is", "and book is", "."], ["cup", "book"], torch.stack([cups, book]), [0.2, 0.2], 50
    )
    assert display_text(texts) == "cup is [1], [2] and [3] and book is [4]."
    assert phrases == ["cup", "cup", "cup", "book"] and len(parts) == 4


def test_nothing_is_taken_apart_without_a_share_or_beyond_the_limit() -> None:
    sky = torch.stack([marked((0, 0, 5, 5), (0, 10, 5, 5))])
    for share, limit in ((0.0, 50), (0.2, 1)):
        texts, phrases, parts = take_apart(["sky is", "."], ["sky"], sky, [share], limit)
        assert (texts, phrases, len(parts)) == (["sky is", "."], ["sky"], 1)
    assert take_apart(["There is no sky."], [], torch.empty(0), [], 50) == (["There is no sky."], [], [])
