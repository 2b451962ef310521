"""Rendered scenes: the same again for a seed, exact masks, questions whose answers are true."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from pixellm_model.nouns import Nouns
from pixellm_model.questions import Questioner, Thing, answer
from pixellm_model.samples import PLACEHOLDER, Question, Sample
from pixellm_model.scenes import Canvas, SceneRenderer

NOUNS = [
    {"name": "bird", "plural": "birds", "category": "animal", "attributes": ["fly"]},
    {"name": "owl", "plural": "owls", "category": "animal", "attributes": ["fly"], "parent": "bird"},
    {"name": "cat", "plural": "cats", "category": "animal", "synonyms": ["kitten"], "kin": ["lion"]},
    {"name": "lion", "plural": "lions", "category": "animal"},
    {
        "name": "cup",
        "plural": "cups",
        "category": "kitchen",
        "synonyms": ["mug"],
        "attributes": ["hold", "drink"],
    },
    {"name": "bowl", "plural": "bowls", "category": "kitchen", "attributes": ["hold?"]},
    {"name": "apple", "plural": "apples", "category": "fruit", "attributes": ["eat"]},
    {"name": "pear", "plural": "pears", "category": "fruit", "attributes": ["eat"]},
    {"name": "book", "plural": "books", "category": "stationery", "attributes": ["read"]},
    {"name": "car", "plural": "cars", "category": "vehicle"},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Discs and boxes for cut-outs; every name in both splits, and photos for some."""
    out = tmp_path_factory.mktemp("cutouts")
    (out / "vocabulary.json").write_text(json.dumps(NOUNS))
    rng = np.random.default_rng(0)
    cutouts, photos = [], []
    for index, noun in enumerate(NOUNS):
        for split in ("train", "held_out"):
            image = Image.new("RGBA", (60, 40 + 2 * index), (0, 0, 0, 0))
            draw = ImageDraw.Draw(image).ellipse if index % 2 else ImageDraw.Draw(image).rectangle
            draw((2, 2, 57, 37), fill=(*(int(c) for c in rng.integers(0, 256, 3)), 255))
            image.save(out / f"{split}_{index}.png")
            cutouts.append(
                {"file": f"{split}_{index}.png", "name": noun["name"], "source": "test", "split": split}
            )
            if index < 4:
                image.convert("RGB").resize((120, 90)).save(out / f"photo_{split}_{index}.jpg")
                image.getchannel("A").resize((120, 90)).convert("1").save(out / f"mask_{split}_{index}.png")
                files = {"file": f"photo_{split}_{index}.jpg", "mask": f"mask_{split}_{index}.png"}
                photos.append({**cutouts[-1], **files})
    (out / "cutouts.jsonl").write_text("".join(json.dumps(item) + "\n" for item in cutouts))
    (out / "photos.jsonl").write_text("".join(json.dumps(item) + "\n" for item in photos))
    return out


@pytest.fixture(scope="module")
def renderer(folder: Path) -> SceneRenderer:
    return SceneRenderer(folder, size=160)


def test_same_seed_gives_the_same_sample(folder: Path, renderer: SceneRenderer) -> None:
    again = SceneRenderer(folder, size=160)
    for seed in range(12):
        first, second = renderer.render(seed), again.render(seed)
        assert np.array_equal(first.image, second.image)
        assert [(q.text, q.answer) for q in first.questions] == [(q.text, q.answer) for q in second.questions]
        for one, other in zip(first.questions, second.questions, strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(one.masks, other.masks, strict=True))
    assert not np.array_equal(renderer.render(0).image, renderer.render(1).image)


@pytest.mark.parametrize("kind", ["render_scene", "render_photo", "render_mosaic"])
def test_every_kind_gives_disjoint_visible_masks(renderer: SceneRenderer, kind: str) -> None:
    targets = 0
    for seed in range(25):
        sample = getattr(renderer, kind)(seed)
        assert max(sample.image.shape[:2]) == 160
        for question in sample.questions:
            targets += len(question.masks)
            if question.masks:
                assert np.sum(question.masks, axis=0).max() == 1
                assert min(mask.mean() for mask in question.masks) > 0.003
    assert targets > 25


def test_masks_are_exactly_the_visible_pixels() -> None:
    rng = np.random.default_rng(3)
    pasted = 0
    for _ in range(10):
        canvas = Canvas(np.zeros((90, 120, 3), np.float32), [])
        for code in range(1, 7):
            disc = Image.new("RGBA", (50, 50))
            colour = (code & 1, (code >> 1) & 1, code >> 2)
            ImageDraw.Draw(disc).ellipse((1, 1, 48, 48), fill=(*(255 * part for part in colour), 255))
            canvas.paste(disc, str(code), rng)
        expected = np.zeros((90, 120), int)
        for thing in canvas.things():
            expected[thing.mask] = int(thing.name)
            pasted += 1
        # Shadows darken, so only which channels are lit tells whose pixel it is.
        assert np.array_equal((canvas.image > 0) @ [1, 2, 4], expected)
    assert pasted > 20


def test_a_thing_is_never_hidden_by_most_of_it() -> None:
    rng = np.random.default_rng(4)
    for _ in range(20):
        canvas = Canvas(np.zeros((80, 80, 3), np.float32), [])
        for name in "abcdef":
            canvas.paste(Image.new("RGBA", (40, 40), (9, 9, 9, 255)), name, rng)
        for thing in canvas.things():
            assert thing.mask.sum() >= 0.35 * 1600


def things(*names: str) -> list[Thing]:
    """Things side by side, from left to right, each in a column of its own."""
    made = []
    for index, name in enumerate(names):
        mask = np.zeros((10, 10 * len(names)), bool)
        mask[2:8, 10 * index + 1 : 10 * index + 8] = True
        made.append(Thing(name, mask))
    return made


@pytest.fixture(scope="module")
def nouns(folder: Path) -> Nouns:
    return Nouns(folder / "vocabulary.json")


@settings(max_examples=60, deadline=None)
@given(
    names=st.lists(st.sampled_from([noun["name"] for noun in NOUNS]), min_size=1, max_size=6),
    seed=st.integers(0, 10**6),
)
def test_answers_are_true(nouns: Nouns, names: list[str], seed: int) -> None:
    seen = things(*names)
    words = {synonym: name for name, noun in nouns.by_name.items() for synonym in (name, *noun.synonyms)}
    questioner = Questioner(nouns, list(nouns.by_name), seen, np.random.default_rng(seed))
    questions = questioner.ask(5)
    assert len({question.text for question in questions}) == len(questions) > 0
    for question in questions:
        assert question.answer.count(PLACEHOLDER) == len(question.masks) == len(question.phrases)
        for phrase, mask in zip(question.phrases, question.masks, strict=True):
            thing = next(thing for thing in seen if thing.mask is mask)
            if phrase in words:
                assert nouns.covers(words[phrase], thing.name)
                assert sum(nouns.covers(words[phrase], name) for name in names) <= question.phrases.count(
                    phrase
                ) or (question.phrases.count(phrase) < len(question.phrases))
        if "There is no" in question.answer:
            tail = question.answer.split("There is ", 1)[1].removesuffix(" in this image.")
            for absent in tail.replace(" and no ", ", no ").split(", "):
                name = words.get(absent.removeprefix("no "))
                assert name is None or not any(nouns.related(name, one) for one in names)


def test_order_of_the_question_is_the_order_of_the_answer(nouns: Nouns) -> None:
    questioner = Questioner(nouns, ["car"], things("apple", "book", "cup"), np.random.default_rng(0))
    several = [question for _ in range(60) if (question := questioner.several()) is not None]
    for question in several:
        places = [question.text.lower().index(phrase) for phrase in question.phrases]
        assert places == sorted(places)
    assert len(several) > 30


def test_places_and_groups(nouns: Nouns) -> None:
    seen = things("cat", "apple", "pear", "cat")
    questioner = Questioner(nouns, ["car"], seen, np.random.default_rng(1))
    for question in filter(None, (questioner.place() for _ in range(80))):
        left = "left" in question.text.lower()
        assert question.masks[0] is seen[0 if left else 3].mask
    fruit = [question for _ in range(200) if (question := questioner.group()) and "apple" in question.phrases]
    assert fruit and all(question.phrases == ("apple", "pear") for question in fruit)


def test_arguable_attributes_are_not_asked_about(nouns: Nouns) -> None:
    questioner = Questioner(nouns, ["car"], things("cup", "bowl"), np.random.default_rng(2))
    asked = [question.text for _ in range(300) if (question := questioner.group()) is not None]
    assert asked and not any("water" in text for text in asked)


def test_answer_wording() -> None:
    mask = np.ones((2, 2), bool)
    assert answer([("mug", mask), ("book", mask)]) == "mug is {seg} and book is {seg}."
    assert answer([("cup", mask)], ["spoon"]) == "cup is {seg}. There is no spoon in this image."
    assert answer([], ["fork", "knife"]) == "There is no fork and no knife in this image."


def test_absent_names_make_up_about_a_quarter(renderer: SceneRenderer) -> None:
    questions = [question for seed in range(60) for question in renderer.render(seed).questions]
    share = np.mean(["There is no" in question.answer for question in questions])
    assert 0.12 < share < 0.4


def test_bad_samples_are_refused() -> None:
    mask = np.ones((4, 6), bool)
    with pytest.raises(ValueError, match="placeholders for 0 masks"):
        Question("cup", "cup is {seg}.", (), ())
    with pytest.raises(ValueError, match="of bool"):
        Question("cup", "cup is {seg}.", (mask.astype(np.uint8),), ("cup",))
    question = Question("cup", "cup is {seg}.", (mask,), ("cup",))
    with pytest.raises(ValueError, match="'cup' is 6x4 pixels, the image 6x5"):
        Sample(np.zeros((5, 6, 3), np.uint8), (question,))
    with pytest.raises(ValueError, match="of uint8"):
        Sample(np.zeros((4, 6, 3), np.float32), (question,))


def test_folders_without_cutouts_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"cutouts\.jsonl"):
        SceneRenderer(tmp_path)
    with pytest.raises(ValueError, match="split 'validation'"):
        SceneRenderer(folder, split="validation")


def test_vocabulary_mistakes_are_named(tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.json"
    path.write_text(json.dumps([NOUNS[0], NOUNS[0]]))
    with pytest.raises(ValueError, match="'bird' twice"):
        Nouns(path)
    path.write_text(json.dumps([NOUNS[1]]))
    with pytest.raises(ValueError, match="parent 'bird'"):
        Nouns(path)


def test_shipped_vocabulary_is_sound() -> None:
    path = Path(__file__).parents[1] / "recipes" / "pixellm_mini" / "vocabulary.json"
    nouns = Nouns(path)
    synonyms = [synonym for noun in nouns.by_name.values() for synonym in noun.synonyms]
    assert len(nouns.by_name) > 300
    assert len(set(synonyms)) == len(synonyms)
    assert not set(synonyms) & set(nouns.by_name)
    assert {kin for noun in nouns.by_name.values() for kin in noun.kin} <= set(nouns.by_name)
