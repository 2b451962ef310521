"""Reading labeling configurations, and finding the label for a phrase."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from label_studio_sdk.label_interface import LabelInterface

from label_config import (
    ConfigError,
    ImageControl,
    Label,
    LabelConfig,
    MaskControl,
    labels_in_prompt,
    map_label,
    read_config,
)
from label_config.reader import MAX_CONFIG_CHARS

TEMPLATES = Path(__file__).parents[2] / "label_config" / "templates"
IMAGE = '<Image name="image" value="$image"/>'
MASK = '<BrushLabels name="mask" toName="image"><Label value="Cup"/></BrushLabels>'


def view(*tags: str) -> str:
    return f"<View>{''.join(tags)}</View>"


def text_area(name: str, **attributes: str) -> str:
    given_attributes = "".join(f' {key}="{value}"' for key, value in attributes.items())
    return f'<TextArea name="{name}" toName="image"{given_attributes}/>'


def template(name: str) -> LabelConfig:
    return read_config((TEMPLATES / f"{name}.xml").read_text())


@pytest.mark.parametrize(("name", "prompt"), [("interactive", "prompt"), ("batch", None)])
def test_the_templates_are_read(name: str, prompt: str | None) -> None:
    config = template(name)
    assert config.image == ImageControl("image", "image")
    assert config.mask == MaskControl("mask", "brushlabels")
    assert (config.prompt, config.answer, config.task_prompt_key) == (prompt, "answer", "prompt")
    assert [label.value for label in config.labels] == [
        *("Cup", "Spoon", "Plate", "Book", "Bottle", "Cat", "Dog", "Person", "Car", "Other")
    ]


@pytest.mark.parametrize("name", ["interactive", "batch"])
def test_label_studio_accepts_the_templates(name: str) -> None:
    xml = (TEMPLATES / f"{name}.xml").read_text()
    interface = LabelInterface(xml)
    interface.validate()
    assert set(interface.get_control("mask").labels) == {label.value for label in read_config(xml).labels}


def test_controls_are_found_by_what_they_do() -> None:
    config = read_config(
        view(
            '<Image name="photo" value="$url"/><Image name="other" value="$second"/>',
            '<TextArea name="wish" toName="photo" smart="true"/>',
            '<TextArea name="notes" toName="photo" smart="false"/>',
            '<TextArea name="said" toName="photo" editable="False"/>',
            '<TextArea name="elsewhere" toName="other" smart="true"/>',
            '<TextArea name="each" toName="photo" smart="true" perRegion="true"/>',
            '<BitmaskLabels name="areas" toName="photo"><Label value="A"/></BitmaskLabels>',
        )
    )
    assert config == LabelConfig(
        image=ImageControl("photo", "url"),
        mask=MaskControl("areas", "bitmasklabels"),
        prompt="wish",
        answer="said",
        labels=(Label("A"),),
    )


@pytest.mark.parametrize(
    ("areas", "prompt", "answer"),
    [
        ([], None, None),
        ([text_area("prompt")], "prompt", None),
        ([text_area("notes")], None, None),
        ([text_area("notes", smart="false")], None, None),
        ([text_area("answer")], None, "answer"),
        ([text_area("a", smart="true"), text_area("prompt", smart="true")], "prompt", None),
        ([text_area("prompt"), text_area("ask", smart="true")], "ask", None),
        ([text_area("x", editable="false"), text_area("answer", editable="false")], None, "answer"),
        ([text_area("x", smart="true", editable="false")], "x", None),
    ],
)
def test_text_areas(areas: list[str], prompt: str | None, answer: str | None) -> None:
    config = read_config(view(*areas, IMAGE, MASK))
    assert (config.prompt, config.answer) == (prompt, answer)


@pytest.mark.parametrize(
    ("tag", "key"),
    [
        ("", "prompt"),
        ('<Header value="$title"/>', "prompt"),
        ('<Text name="task_prompt" value="$question"/>', "question"),
        ('<Header name="prompt" value="$wish"/>', "wish"),
        ('<TextArea name="ask" toName="image" smart="true" value="$filled"/>', "filled"),
    ],
)
def test_where_a_task_keeps_its_prompt(tag: str, key: str) -> None:
    assert read_config(view(tag, IMAGE, MASK)).task_prompt_key == key


def test_labels_have_the_value_that_results_carry() -> None:
    labels = (
        '<Label value="Cup" predicted_values="mug, teacup,,Cup"/>'
        '<View><Label value="Red car" alias="car"/></View><Label value=" "/>'
    )
    config = read_config(view(IMAGE, f'<BrushLabels name="m" toName="image">{labels}</BrushLabels>'))
    assert config.labels == (Label("Cup", ("mug", "teacup")), Label("car", ("Red car",)))
    assert map_label("the red cars", config) == "car"


def test_names_of_tags_and_attributes_in_any_case() -> None:
    mask = '<brushlabels NAME="m" TONAME="i"><label VALUE="A"/></brushlabels>'
    assert read_config(view('<IMAGE NAME="i" VALUE="$x"/>', mask)).image == ImageControl("i", "x")


def test_the_same_text_is_read_once() -> None:
    assert read_config(view(IMAGE, MASK)) is read_config(view(IMAGE, MASK))


@pytest.mark.parametrize(
    ("xml", "sentence"),
    [
        ("", "not well-formed"),
        ("<View>", "not well-formed"),
        ("<View>\ud800</View>", "not well-formed"),
        (view(IMAGE), "add <BrushLabels"),
        (
            view(IMAGE, MASK.replace("mask", "a"), MASK.replace("mask", "b")),
            '"a", "b".*; keep one or name one "mask"',
        ),
        (view(IMAGE, '<BrushLabels toName="image"><Label value="A"/></BrushLabels>'), "has no name"),
        (view(MASK), 'no <Image> has that name; add <Image name="image"'),
        (view(IMAGE, MASK.replace('toName="image"', "")), 'toName=""'),
        (view('<Video name="image" value="$v"/>', MASK), "no <Image> has that name"),
        (view('<Image name="image"/>', MASK), 'value="\\$image"'),
        (view('<Image name="image" value="$"/>', MASK), 'value="\\$image"'),
        (view('<Image name="image" value="a.png"/>', MASK), 'value="\\$image"'),
        (view(IMAGE, '<BrushLabels name="mask" toName="image"/>'), "has no labels"),
        (view(IMAGE, MASK, text_area("a", smart="true"), text_area("b", smart="true")), 'name one "prompt"'),
        (
            view(IMAGE, MASK, text_area("a", editable="false"), text_area("b", editable="false")),
            'one "answer"',
        ),
        ('<!DOCTYPE View [<!ENTITY a "b">]>' + view(IMAGE, MASK), "remove the declaration"),
        ('<!DOCTYPE View SYSTEM "http://127.0.0.1/x.dtd">' + view(IMAGE, MASK), "remove the declaration"),
        (view("&bomb;", IMAGE, MASK), "not well-formed"),
        (view(" " * MAX_CONFIG_CHARS, IMAGE, MASK), "shorten it"),
    ],
)
def test_errors_name_the_tag_and_the_fix(xml: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        read_config(xml)


def test_two_mask_controls_of_which_one_has_the_name() -> None:
    assert read_config(view(IMAGE, MASK, MASK.replace("mask", "second"))).mask.name == "mask"


def test_deep_nesting_is_read() -> None:
    depth = MAX_CONFIG_CHARS // 16
    assert read_config("<View>" * depth + IMAGE + MASK + "</View>" * depth).mask.name == "mask"


@given(st.text(st.sampled_from("<>/\"'= &;$!View Image BrushLabels Label name toName")))
def test_any_text_is_a_config_or_a_config_error(text: str) -> None:
    with pytest.raises(ConfigError):
        read_config(text)


@pytest.mark.parametrize(
    ("phrase", "label"),
    [
        ("Cup", "Cup"),
        ("cup", "Cup"),
        ("  CUPS ", "Cup"),
        ("mug", "Cup"),
        ("the red mugs", "Cup"),
        ("a Coffee Cup", "Cup"),
        ("two small white tea-cups", "Cup"),
        ("a pair of cups", "Cup"),
        ("one of the mugs", "Cup"),
        ("the cup on the plate", "Cup"),
        ("a plate with two cups", "Plate"),
        ("the bottle of water", "Bottle"),
        ("dishes", "Plate"),
        ("people wearing hats", "Person"),
        ("the woman's notebook", "Book"),
        ("Children", "Person"),
        ("kitties", "Cat"),
        ("taxis", "Car"),
        ("cup 2", "Cup"),
        ("cup, the left one", "Cup"),
        ('"the dog"', "Dog"),
        ("the cupboard", "Other"),
        ("the cat's bowl", "Other"),
        ("the left one", "Other"),
        ("on the table", "Other"),
        ("", "Other"),
        ("的猫", "Other"),
    ],
)
def test_a_phrase_gets_the_label_that_it_names(phrase: str, label: str) -> None:
    assert map_label(phrase, template("interactive")) == label


def labelled(*labels: Label) -> LabelConfig:
    return LabelConfig(ImageControl("image", "image"), MaskControl("mask", "brushlabels"), None, None, labels)


@pytest.mark.parametrize(
    ("labels", "phrase", "expected"),
    [
        ([Label("Traffic light"), Label("Light")], "the green traffic lights", "Traffic light"),
        ([Label("Traffic light"), Label("Light")], "a lamp's light", "Light"),
        ([Label("traffic_light"), Label("b")], "Traffic-Lights", "traffic_light"),
        ([Label("Glasses"), Label("Bus")], "glass", "Glasses"),
        ([Label("Glass"), Label("Bus")], "glasses", "Glass"),
        ([Label("Glass"), Label("Bus")], "buses", "Bus"),
        ([Label("Bus"), Label("House")], "two houses", "House"),
        ([Label("Knife"), Label("Leaf")], "knives", "Knife"),
        ([Label("Knife"), Label("Leaf")], "leaves", "Leaf"),
        ([Label("Knives"), Label("Leaf")], "knife", "Knives"),
        ([Label("Cap"), Label("Cup")], "cape", None),
        ([Label("cat"), Label("Cat")], "Cat", "Cat"),
        ([Label("Mug", ("cup",)), Label("Cup")], "a cup", "Cup"),
        ([Label("Tool"), Label("Unknown")], "dragon", "Unknown"),
        ([Label("Thing", ("object",)), Label("Cup")], "dragon", "Thing"),
        ([Label("Defect")], "the scratch", "Defect"),
        ([Label("Cup"), Label("Plate")], "the scratch", None),
        ([Label("Кошка"), Label("猫")], "кошка", "Кошка"),
        ([Label("Кошка"), Label("猫")], "猫", "猫"),
        ([Label("+"), Label("-")], "-", "-"),
        ([Label("+"), Label("-")], "!", None),
    ],
)
def test_labels_of_many_kinds(labels: list[Label], phrase: str, expected: str | None) -> None:
    assert map_label(phrase, labelled(*labels)) == expected


@pytest.mark.parametrize(
    ("prompt", "asked"),
    [
        ("the sign", {}),
        ("Segment the red mugs and the book.", {"Cup": "mugs", "Book": "book"}),
        ("the cup on the book, people or dogs", {"Cup": "cup", "Person": "people", "Dog": "dogs"}),
        ("a cup and two cups", {"Cup": "cup"}),
        ("", {}),
    ],
)
def test_labels_a_prompt_asks_for(prompt: str, asked: dict[str, str]) -> None:
    assert labels_in_prompt(prompt, template("interactive")) == asked


WORD = st.text(st.characters(categories=("Ll", "Lu")), min_size=1, max_size=8)
NAMES = st.lists(st.lists(WORD, min_size=1, max_size=3).map(" ".join), min_size=1, max_size=5, unique=True)


@given(NAMES, st.data())
def test_a_label_is_found_by_its_own_name(names: list[str], data: st.DataObject) -> None:
    config = labelled(*map(Label, names))
    name = data.draw(st.sampled_from(names))
    assert map_label(name, config) == name
    found = map_label(f"the small {name}", config)
    assert found is None or found in names


@given(st.text(max_size=60), NAMES)
def test_any_phrase_gives_a_label_of_the_project_or_none(phrase: str, names: list[str]) -> None:
    assert map_label(phrase, labelled(*map(Label, names))) in {*names, None}
