"""The metrics on cases small enough to work out by hand."""

import numpy as np
import pytest

from pixellm_model.measuring.metrics import Scores


def square(left: int, width: int = 4) -> np.ndarray:
    mask = np.zeros((4, 16), bool)
    mask[:, left : left + width] = True
    return mask


def test_targets_are_matched_whatever_their_order() -> None:
    scores = Scores()
    assert scores.add([square(8), square(0)], [square(0), square(8)]) == 1.0
    assert scores.giou == scores.ciou == scores.count_accuracy == 1.0


def test_an_extra_and_a_missed_mask_both_cost() -> None:
    scores = Scores()
    assert scores.add([square(0), square(8)], [square(0)]) == 0.5
    assert scores.add([square(0)], [square(0), square(8)]) == 0.5
    assert scores.giou == 0.5
    assert scores.ciou == pytest.approx(32 / 64)
    assert scores.count_accuracy == 0


def test_half_an_overlap() -> None:
    scores = Scores()
    assert scores.add([square(2)], [square(0)]) == pytest.approx(2 / 6)
    assert scores.ciou == pytest.approx(2 / 6)


def test_absent_things() -> None:
    scores = Scores()
    assert scores.add([], []) is None
    assert scores.add([square(0)], []) == 0
    assert scores.as_dict()["none_accuracy"] == 0.5
    assert "none_accuracy" not in Scores().as_dict()
    assert scores.giou == 0 and scores.masks == 1
