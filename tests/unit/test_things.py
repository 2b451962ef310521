"""What is measured of a thing in an image."""

import numpy as np
import pytest

from pixellm_model.synthetic.things import COLOURS, Thing


@pytest.mark.parametrize(
    ("colour", "rgb"),
    [
        ("red", (205, 25, 30)),
        ("orange", (245, 135, 20)),
        ("yellow", (240, 220, 40)),
        ("green", (40, 160, 60)),
        ("blue", (30, 70, 200)),
        ("black", (20, 22, 21)),
        ("white", (240, 238, 242)),
    ],
)
def test_colours_are_measured(colour: str, rgb: tuple[int, int, int]) -> None:
    noise = np.random.default_rng(0).normal(0, 6, (20, 20, 3))
    image = (np.array(rgb) + noise).clip(0, 255).astype(np.uint8)
    thing = Thing("cup", np.ones((20, 20), bool))
    assert thing.shows(colour, image) is True
    assert not any(thing.shows(other, image) for other in COLOURS if other != colour)
    image[:, 10:] = (128, 128, 128)  # half of it grey: no clear colour
    assert thing.shows(colour, image) is None


@pytest.mark.parametrize(
    "rgb", [(120, 40, 35), (250, 150, 160), (120, 70, 30), (60, 130, 130), (128, 128, 128)]
)
def test_shades_between_are_no_clear_colour(rgb: tuple[int, int, int]) -> None:
    """Maroon, pink, brown, teal and grey."""
    image = np.full((4, 4, 3), rgb, np.uint8)
    assert not any(Thing("cup", np.ones((4, 4), bool)).shows(colour, image) for colour in COLOURS)
