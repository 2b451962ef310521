"""The gate: what is promoted, what is not, and that its words say why."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from worker.learning.gate import Pair, Rules, judge

RULES = Rules(margin=0.01, regression=0.03, min_images=5)


def pairs(serving: list[float], candidate: list[float]) -> list[Pair]:
    return [Pair(str(n), s, c) for n, (s, c) in enumerate(zip(serving, candidate, strict=True))]


STEADY = pairs([0.8] * 6, [0.8] * 6)


def test_a_clear_gain_is_promoted() -> None:
    verdict = judge(pairs([0.4] * 8, [0.5, 0.6, 0.45, 0.7, 0.5, 0.42, 0.6, 0.55]), STEADY, RULES)
    assert verdict.promote and verdict.ahead == 1.0 and verdict.candidate > verdict.serving


def test_a_gain_on_one_image_is_chance() -> None:
    verdict = judge(pairs([0.5] * 8, [0.5] * 6 + [0.45, 1.0]), STEADY, RULES)
    assert not verdict.promote and "chance" in verdict.why


def test_a_tiny_gain_is_not_enough() -> None:
    verdict = judge(pairs([0.5] * 8, [0.505] * 8), STEADY, RULES)
    assert not verdict.promote and "+0.01 is needed" in verdict.why


def test_with_too_little_data_nothing_is_promoted_and_the_reason_says_so() -> None:
    verdict = judge(pairs([0.1] * 4, [0.9] * 4), STEADY, RULES)
    assert not verdict.promote and verdict.why == "too little data: 4 held-out images, 5 are needed"


def test_questions_of_one_image_count_as_one() -> None:
    many = [Pair("same", 0.1, 0.9)] * 100
    assert not judge(many, STEADY, RULES).promote


def test_a_fall_on_the_regression_set_stops_it() -> None:
    better = pairs([0.1] * 8, [0.9] * 8)
    assert judge(better, pairs([0.8] * 6, [0.78] * 6), RULES).promote
    verdict = judge(better, pairs([0.8] * 6, [0.7] * 6), RULES)
    assert not verdict.promote and "regression set falls by 0.100" in verdict.why


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=30))
def test_nothing_that_lowers_held_out_giou_is_promoted(values: list[tuple[float, float]]) -> None:
    verdict = judge(pairs([v[0] for v in values], [v[1] for v in values]), STEADY, Rules(margin=0))
    if np.mean([v[1] - v[0] for v in values]) <= 0:
        assert not verdict.promote
    assert verdict == judge(pairs([v[0] for v in values], [v[1] for v in values]), STEADY, Rules(margin=0))
