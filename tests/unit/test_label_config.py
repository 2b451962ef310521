"""Reading labeling configurations, and finding the label for a phrase."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from label_studio_sdk.label_interface import LabelInterface

from backend.prompts.request import Task
from backend.prompts.tasks import batch_prompt
from label_config import (
    ConfigError,
    ImageControl,
    Label,
    LabelConfig,
    ShapeControl,
    labels_in_prompt,
    map_label,
    read_config,
)
from label_config.reader import MAX_CONFIG_CHARS
from worker.jobs.contract import MAX_PROMPT_CHARS

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


TEN_LABELS = ("Cup", "Spoon", "Plate", "Book", "Bottle", "Cat", "Dog", "Person", "Car", "Other")


@pytest.mark.parametrize(
    ("name", "prompt", "shape", "kind"),
    [
        ("interactive", "prompt", "mask", "brushlabels"),
        ("batch", None, "mask", "brushlabels"),
        ("bitmask", "prompt", "mask", "bitmasklabels"),
        ("polygons", "prompt", "outline", "polygonlabels"),
        ("rectangles", "prompt", "box", "rectanglelabels"),
        ("coco", "prompt", "mask", "brushlabels"),
    ],
)
def test_the_templates_are_read(name: str, prompt: str | None, shape: str, kind: str) -> None:
    config = template(name)
    assert config.image == ImageControl("image", "image")
    assert [(control.name, control.kind) for control in config.shapes] == [(shape, kind)]
    assert (config.prompt, config.answer, config.task_prompt_key) == (prompt, "answer", "prompt")
    if name != "coco":
        assert tuple(label.value for label in config.labels) == TEN_LABELS


def test_templates_have_the_same_style_and_those_with_masks_the_same_pointing_tools() -> None:
    texts = {path.stem: path.read_text() for path in TEMPLATES.glob("*.xml")}
    assert len({text[text.index("<!--") : text.index("</Style>")] for text in texts.values()}) == 1
    with_tools = {name for name in texts if template(name).pointing == ("point", "box")}
    assert with_tools == {"interactive", "bitmask", "coco"}
    assert len({tuple(re.findall("<(?:KeyPoint|Rectangle) .*", texts[name])) for name in with_tools}) == 1
    assert not any(template(name).pointing for name in texts.keys() - with_tools)


@pytest.mark.parametrize("smart", ['smart="true"', 'SMART="True" smartOnly="true"', 'smartOnly="true"'])
def test_a_smart_rectangle_beside_other_controls_is_a_pointing_tool(smart: str) -> None:
    labels = '<Labels name="labels" toName="image"><Label value="Cup"/></Labels>'
    box = f'<Rectangle name="box" toName="image" {smart}/>'
    config = read_config(view(IMAGE, labels, '<Polygon name="outline" toName="image"/>', box))
    assert [shape.name for shape in config.shapes] == ["outline"] and config.pointing == ("box",)
    alone = read_config(view(IMAGE, labels, box))
    assert [shape.kind for shape in alone.shapes] == ["rectangle"] and alone.pointing == ()


def test_a_rectangle_that_is_not_smart_gets_regions() -> None:
    labels = '<Labels name="labels" toName="image"><Label value="Cup"/></Labels>'
    tags = [f'<{tag} name="{tag}" toName="image"/>' for tag in ("Brush", "Rectangle", "KeyPoint")]
    config = read_config(view(IMAGE, labels, *tags))
    assert [shape.name for shape in config.shapes] == ["Brush", "Rectangle"] and config.pointing == ()


@pytest.mark.parametrize("name", [path.stem for path in sorted(TEMPLATES.glob("*.xml"))])
def test_label_studio_accepts_the_templates(name: str) -> None:
    xml = (TEMPLATES / f"{name}.xml").read_text()
    interface = LabelInterface(xml)
    interface.validate()
    (shape,) = template(name).shapes
    assert set(interface.get_control(shape.name).labels) == {label.value for label in shape.labels}


def test_templates_with_a_prompt_share_everything_above_the_image() -> None:
    texts = {path.name: path.read_text() for path in TEMPLATES.glob("*.xml")}
    shared = {text[: text.index("<Image")] for name, text in texts.items() if name != "batch.xml"}
    assert len(shared) == 1 and len(texts) == 6
    (above_image,) = shared
    style = above_image[above_image.index("<Style>") : above_image.index("</Style>")]
    assert style in texts["batch.xml"]


def test_coco_labels_do_not_claim_each_others_names() -> None:
    labels = template("coco").labels
    assert len(labels) == 81 and labels[-1].value == "other"
    names = [name for label in labels for name in (label.value, *label.aliases)]
    assert len(set(names)) == len(names)
    phrases = {
        "the red sofa": "couch",
        "two mugs": "cup",
        "a teddy bear": "teddy bear",
        "the polar bears": "bear",
        "the man's phone": "cell phone",
        "the hot dog": "hot dog",
        "the traffic lights": "traffic light",
        "a dragon": "other",
    }
    assert {phrase: map_label(phrase, template("coco")) for phrase in phrases} == phrases
    asked = batch_prompt(Task(id=1, data={}), template("coco"))
    assert len(asked) <= MAX_PROMPT_CHARS


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
        shapes=(ShapeControl("areas", "bitmasklabels", (Label("A"),)),),
        prompt="wish",
        answer="said",
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
        (view(IMAGE, '<Brush name="mask" toName="image"/>'), "add <BrushLabels"),
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
        (view(IMAGE, MASK.replace(" toName", ' model_score_threshold="half" toName')), '"half"; .* 0 to 1'),
        (
            view(IMAGE, MASK.replace(" toName", ' model_score_threshold="2" toName')),
            '"mask" .*"2"; .* 0 to 1',
        ),
        (view("&bomb;", IMAGE, MASK), "not well-formed"),
        (view(" " * MAX_CONFIG_CHARS, IMAGE, MASK), "shorten it"),
    ],
)
def test_errors_name_the_tag_and_the_fix(xml: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        read_config(xml)


def test_each_control_has_its_own_score_threshold() -> None:
    config = read_config(
        view(
            IMAGE,
            MASK.replace(" toName", ' model_score_threshold="0.4" toName'),
            '<Polygon name="outline" toName="image"/>',
            '<Labels name="kinds" toName="image" model_score_threshold="0.6"><Label value="Box"/></Labels>',
            '<RectangleLabels name="box" toName="image"><Label value="Car"/></RectangleLabels>',
        )
    )
    assert [config.min_score_for(label, 0.2) for label in ("Cup", "Box", "Car")] == [0.4, 0.6, 0.2]


def test_two_mask_controls_of_which_one_has_the_name() -> None:
    config = read_config(view(IMAGE, MASK.replace("mask", "second"), MASK))
    assert [shape.name for shape in config.shapes] == ["mask", "second"]


def shape_tag(tag: str, name: str, *labels: str, image: str = "image", **attributes: str) -> str:
    inside = "".join(f'<Label value="{label}"/>' for label in labels)
    written = "".join(f' {key}="{value}"' for key, value in attributes.items())
    return f'<{tag} name="{name}" toName="{image}"{written}>{inside}</{tag}>'


def test_masks_come_before_polygons_and_polygons_before_rectangles() -> None:
    config = read_config(
        view(
            IMAGE,
            shape_tag("RectangleLabels", "boxes", "Sign", "Cup"),
            shape_tag("PolygonLabels", "outlines", "Road", "Cup"),
            shape_tag("BrushLabels", "first", "Cup"),
            shape_tag("BitmaskLabels", "second", "Book"),
        )
    )
    assert [shape.kind for shape in config.shapes] == [
        *("brushlabels", "bitmasklabels", "polygonlabels", "rectanglelabels")
    ]
    assert [label.value for label in config.labels] == ["Cup", "Book", "Road", "Sign"]
    names = [config.shape_for(label).name for label in ("Cup", "Book", "Road", "Sign", "Dragon", None)]
    assert names == ["first", "second", "outlines", "boxes", "first", "first"]


def test_a_drawing_control_takes_the_labels_beside_it() -> None:
    labels = shape_tag("Labels", "classes", "Cup", "Book")
    config = read_config(view(IMAGE, labels, '<Brush name="brush" toName="image"/>'))
    assert config.shapes == (ShapeControl("brush", "brush", (Label("Cup"), Label("Book")), "classes"),)
    with pytest.raises(ConfigError, match="nowhere to put masks"):
        read_config(view(IMAGE, labels.replace('toName="image"', 'toName="other"'), "<Brush/>"))


def test_controls_of_another_image_are_left_alone() -> None:
    second = '<Image name="second" value="$other"/>'
    config = read_config(view(second, IMAGE, MASK, shape_tag("BrushLabels", "areas", "Dog", image="second")))
    assert config.image.name == "image" and [shape.name for shape in config.shapes] == ["mask"]


def test_labels_come_from_the_task_as_label_studio_reads_them() -> None:
    config = read_config(view(IMAGE, shape_tag("BrushLabels", "mask", "Cup", value="$classes")))
    assert config.shapes[0].labels_key == "classes"
    classes = [{"value": "Mug", "alias": "mug"}, {"value": "Cup"}, "text", {"background": "red"}]
    assert config.for_task({"classes": classes}).labels == (Label("Cup"), Label("mug", ("Mug",)))
    assert config.for_task({"classes": "Cup"}).labels == config.for_task({}).labels == (Label("Cup"),)
    assert read_config(view(IMAGE, shape_tag("BrushLabels", "mask", value="$classes"))).labels == ()


def test_one_of_several_images_is_meant() -> None:
    images = '<Image name="image" valueList="$pages"/>'
    config = read_config(view(images, MASK, text_area("answer", perItem="true")))
    assert config.answer_per_item
    data = {"pages": ["a.png", "b.png"]}
    assert [config.for_task(data, index).image_of(data) for index in (0, 1, 2)] == ["a.png", "b.png", None]
    assert config.for_task(data).item_index == 0
    assert config.for_task({"pages": "a.png"}).item_index is None
    assert config.for_task({"pages": "a.png"}).image_of({"pages": "a.png"}) == "a.png"


def test_deep_nesting_is_read() -> None:
    depth = MAX_CONFIG_CHARS // 16
    assert read_config("<View>" * depth + IMAGE + MASK + "</View>" * depth).shapes[0].name == "mask"


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
    shape = ShapeControl("mask", "brushlabels", labels)
    return LabelConfig(ImageControl("image", "image"), (shape,), None, None)


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
