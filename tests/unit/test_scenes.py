"""Rendered scenes: the same again for a seed, exact masks, questions whose answers are true."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from tokenizers import Tokenizer

from pixellm_model.samples import PLACEHOLDER, Question, Sample
from pixellm_model.synthetic import followups
from pixellm_model.synthetic.canvas import Canvas
from pixellm_model.synthetic.nouns import Nouns
from pixellm_model.synthetic.questions import Questioner, Thing, answer, wordings
from pixellm_model.synthetic.scenes import SceneRenderer
from pixellm_model.synthetic.templates import NUMBERS, PLACES

MINI = Path(__file__).parents[2] / "pixellm_model" / "mini"
IN_PIECES = {most for _, most, _, _ in PLACES}  # "left" and "most"

NOUNS: list[dict[str, Any]] = [
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


@pytest.mark.parametrize("kind", ["scene", "photo", "mosaic"])
def test_every_kind_gives_disjoint_visible_masks(folder: Path, kind: str) -> None:
    scene, photo, mosaic = (float(kind == other) for other in ("scene", "photo", "mosaic"))
    renderer = SceneRenderer(folder, size=160, scene=scene, photo=photo, mosaic=mosaic)
    targets = 0
    for seed in range(25):
        sample = renderer.render(seed)
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


RELATION = re.compile(r"(\w+) (left of|right of|above|below) the (\w+)")


def apart(one: Thing, other: Thing, relation: str) -> float:
    """How far one thing's pixels are from the other's in a relation's direction, on average."""
    axis = 1 if relation in ("left of", "right of") else 0
    means = [float(np.nonzero(thing.mask)[axis].mean()) for thing in (one, other)]
    return (means[1] - means[0]) * (1 if relation in ("left of", "above") else -1)


def test_relations_are_true_of_the_masks(nouns: Nouns, renderer: SceneRenderer) -> None:
    true, refused = 0, 0
    for seed in range(150):
        picture = renderer.picture(seed)
        asker = Questioner(nouns, ["car"], picture.things, np.random.default_rng(seed))
        for question in filter(None, (asker.relation() for _ in range(8))):
            found = RELATION.search(question.answer)
            assert found is not None
            name, relation, anchor = found.groups()
            (other,) = asker.called(anchor)
            chosen = [thing for thing in asker.called(name) if any(thing.mask is m for m in question.masks)]
            rest = [thing for thing in asker.called(name) if thing not in chosen]
            assert len(chosen) == len(question.masks)
            assert all(apart(thing, other, relation) > 0 for thing in chosen)
            assert all(apart(thing, other, relation) < 0 for thing in rest)
            assert set(question.phrases) <= {f"{name} {relation} the {anchor}"}
            true += bool(chosen)
            refused += not chosen
    assert true > 50 and refused > 5


def test_questions_about_colours_are_true(nouns: Nouns) -> None:
    seen = things("cup", "book", "cup", "cat")
    image = np.full((10, 40, 3), 128, np.uint8)
    inks = [(210, 20, 20), (210, 20, 20), (20, 60, 210), (128, 128, 128)]
    for thing, ink in zip(seen, inks, strict=True):
        image[thing.mask] = ink
    asker = Questioner(nouns, ["car"], seen, np.random.default_rng(3), image=image)
    asked = [question for _ in range(400) if (question := asker.colour()) is not None]
    for question in asked:
        wanted = [
            thing
            for thing, ink in zip(seen, ("red", "red", "blue", "grey"), strict=True)
            if ink in question.text.lower()
            and (
                not any(n in question.text.lower() for n in asker.names)
                or thing.name in question.text.lower()
            )
        ]
        assert [id(mask) for mask in question.masks] == [id(thing.mask) for thing in wanted]
        assert bool(wanted) != ("There is no" in question.answer)
    assert {len(question.masks) for question in asked} == {0, 1, 2}


def test_numbers_are_those_of_the_masks(nouns: Nouns) -> None:
    asker = Questioner(nouns, ["car"], things("owl", "cup", "bird", "cup", "cup"), np.random.default_rng(5))
    asked = [question for _ in range(60) if (question := asker.number()) is not None]
    for question in asked:
        words = "two birds" if "bird" in question.text.lower() else "three cups"
        assert words in question.text.lower() and len(question.masks) == NUMBERS.index(words.split()[0])
    assert len({question.phrases[0] for question in asked}) == 2


def test_further_turns_keep_add_drop_and_replace(nouns: Nouns) -> None:
    seen = things("cup", "book", "cat", "cup")
    asker = Questioner(nouns, ["car", "pear"], seen, np.random.default_rng(6))
    by_mask = {id(thing.mask): thing for thing in seen}
    kinds = {"keep_one": 0, "add_one": 0, "drop_some": 0, "replace_with": 0, "missing": 0}
    for _ in range(400):
        first = asker.several()
        assert first is not None
        before = [by_mask[id(mask)] for mask in first.masks]
        for name in ("keep_one", "add_one", "drop_some", "replace_with"):
            question = getattr(followups, name)(asker, first)
            if question is None:
                continue
            kinds[name] += 1
            assert question.history == ((first.text, first.answer),)
            after = [by_mask[id(mask)] for mask in question.masks]
            text = question.text.lower()
            missing = "There is no" in question.answer
            kinds["missing"] += missing
            named = [thing for thing in seen if re.search(rf"\b({thing.name}|mug|kitten)\b", text)]
            if name == "keep_one":
                (kept,) = after
                assert kept in before
                if "left" in text or "right" in text:
                    columns = [thing.centre[1] for thing in before]
                    assert kept.centre[1] == (min if "left" in text else max)(columns)
            elif name == "add_one":
                assert after[: len(before)] == before and bool(after[len(before) :]) != missing
                assert all(thing.name in text and thing not in before for thing in after[len(before) :])
            elif name == "drop_some":
                assert after == [thing for thing in before if thing in after] and len(after) < len(before)
                assert not {id(t) for t in after} & {id(t) for t in named if t.name in text}
            else:
                assert bool(after) != missing and all(thing.name in text for thing in after)
                assert not any(thing in before for thing in after)
    assert min(kinds.values()) > 20


def test_harder_levels_ask_more_kinds_of_questions(folder: Path) -> None:
    """Harder levels ask what easier ones do not; a level 1 scene is the same whatever the others learn."""
    texts: dict[int, list[Question]] = {}
    for level in (1, 2, 3):
        renderer = SceneRenderer(folder, size=160, level=level)
        texts[level] = [q for seed in range(60) for q in renderer.render_scene(seed).questions]
    related = {level: sum(bool(RELATION.search(q.answer)) for q in asked) for level, asked in texts.items()}
    assert related[1] == 0 and related[2] > 5 and related[3] > 5
    turns = {level: max(len(question.history) for question in asked) for level, asked in texts.items()}
    assert turns == {1: 0, 2: 0, 3: 3}
    for question in texts[3]:
        for _, answered in question.history:
            assert PLACEHOLDER in answered or "There is no" in answered


def test_every_word_is_one_the_mini_knows() -> None:
    """Templates speak in words that are single tokens of the shipped mini, not in pieces of words."""
    tokenizer = Tokenizer.from_file(str(MINI / "tokenizer.json"))
    for text in wordings():
        plain = text.replace(PLACEHOLDER, "").replace("{", "").replace("}", "")
        assert tokenizer.decode(tokenizer.encode(" " + plain).ids).strip() == plain.strip()
        for word in re.findall(r"(?<![A-Za-z])[a-z]{2,}", plain):
            assert len(tokenizer.encode(" " + word).ids) == 1 or word in IN_PIECES, f"{word!r} in {text!r}"


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
    for placed in filter(None, (questioner.place() for _ in range(80))):
        left = "left" in placed.text.lower()
        assert placed.masks[0] is seen[0 if left else 3].mask
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


def test_cutouts_without_a_word_are_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "cutouts.jsonl").write_text((folder / "cutouts.jsonl").read_text())
    (tmp_path / "vocabulary.json").write_text(json.dumps(NOUNS[:-1]))
    with pytest.raises(ValueError, match=r"cut-outs of 'car', which its vocabulary\.json lacks"):
        SceneRenderer(tmp_path)
