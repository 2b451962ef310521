"""`python -m label_config check`: what a configuration means, in sentences."""

from __future__ import annotations

from pathlib import Path

import pytest

from label_config.__main__ import main
from label_config.explain import explain

TEMPLATES = Path(__file__).parents[2] / "label_config" / "templates"
KEEPING = """<View>
  <Text name="what" value="$what"/>
  <Image name="photo" value="$url"/>
  <TextArea name="ask" toName="photo" smart="true" transcription="true" maxSubmissions="1"/>
  <BrushLabels name="brush" toName="photo"><Label value="Cup" alias="mug"/><Label value="Book"/></BrushLabels>
  <Choices name="light" toName="photo"><Choice value="Day"/></Choices>
</View>"""


@pytest.mark.parametrize("template", sorted(TEMPLATES.glob("*.xml")), ids=lambda path: path.name)
def test_a_template_needs_no_advice(template: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(template)]) == 0
    printed = capsys.readouterr().out
    assert 'image: <Image name="image">, from the field "image"' in printed
    assert "advice" not in printed and "neither written nor learned from" not in printed
    assert 'says that nothing is missing: <Choices name="nothing_else">' in printed


def test_it_says_where_things_are_and_what_would_work_better() -> None:
    explanation = explain(KEEPING)
    facts, advice = "\n".join((*explanation.facts, *explanation.limits)), "\n".join(explanation.advice)
    assert 'masks: <BrushLabels name="brush">, 2 labels: mug, Book' in facts
    assert "other names: Cup -> mug" in facts
    assert 'typed into <TextArea name="ask">' in facts
    assert "answer and messages: shown nowhere" in facts
    assert 'neither written nor learned from: <Choices name="light">' in facts
    assert "sends nothing for a text that did not change" in advice
    assert 'smartOnly="true"' in advice and 'name="answer"' in advice and 'label "Other"' in advice
    assert 'Every task must have the field "what"' in advice


SHAPES = """<View>
  <Image name="page" valueList="$pages"/><Image name="map" value="$map"/>
  <TextArea name="ask" toName="page" smart="true" smartOnly="true"/>
  <RectangleLabels name="box" toName="page" value="$classes"/>
  <PolygonLabels name="outline" toName="page"><Label value="Cup"/></PolygonLabels>
  <Brush name="brush" toName="page"/><Labels name="classes" toName="page"><Label value="Book"/></Labels>
  <BrushLabels name="areas" toName="map"><Label value="Lake"/></BrushLabels>
  <KeyPointLabels name="points" toName="page"><Label value="Eye"/></KeyPointLabels>
</View>"""


def test_it_says_which_shapes_are_made_and_what_is_not_supported() -> None:
    facts = "\n".join((*explain(SHAPES).facts, *explain(SHAPES).limits))
    assert 'image: <Image name="page">, from the field "pages"' in facts
    assert 'masks: <Brush name="brush"> with <Labels name="classes">, 1 labels: Book' in facts
    assert 'polygons: <PolygonLabels name="outline">, 1 labels: Cup' in facts
    assert 'rectangles: <RectangleLabels name="box">, labels from the field "classes" of each task' in facts
    assert "goes to the first of these that has its label" in facts
    assert 'from: <BrushLabels name="areas">, <KeyPointLabels name="points">' in facts
    assert 'not read: <Image name="map">' in facts
    assert "only the first one is learned from" in facts
    assert "rectangles teach nothing" in facts


def test_pointing_tools_are_said_to_work_on_masks_only() -> None:
    xml = """<View><Image name="image" value="$image"/>
    <Labels name="names" toName="image"><Label value="Cup"/></Labels>
    <{0} name="shape" toName="image"/>
    <KeyPoint name="point" toName="image"/><Rectangle name="box" toName="image" smart="true"/></View>"""
    masks, polygons = explain(xml.format("Brush")), explain(xml.format("Polygon"))
    tools = '<KeyPoint name="point"> and <Rectangle name="box">'
    assert f"points and boxes: {tools} correct the mask they are on, or begin one" in masks.facts
    assert not any("Points and boxes" in line for line in masks.advice)
    assert not any("points and boxes" in fact for fact in polygons.facts)
    assert any("Points and boxes correct masks, and there are none here" in line for line in polygons.advice)
    assert not any("neither written" in fact for fact in (*masks.limits, *polygons.limits))


def test_tags_and_attributes_may_be_in_any_case() -> None:
    explanation = explain(
        """<VIEW><IMAGE NAME="photo" VALUE="$url"/>
        <TEXTAREA NAME="ask" TONAME="photo" SMART="true" SMARTONLY="true"/>
        <TEXTAREA NAME="answer" TONAME="photo" EDITABLE="false"/>
        <HEADER VALUE="$title"/><CHOICES NAME="light" TONAME="photo"/>
        <BRUSHLABELS NAME="mask" TONAME="photo"><LABEL VALUE="Cup"/><LABEL VALUE="Other"/></BRUSHLABELS>
        </VIEW>"""
    )
    assert any('<BRUSHLABELS name="mask">' in fact for fact in explanation.facts)
    assert any('<CHOICES name="light">' in limit for limit in explanation.limits)
    assert explanation.advice == ('Every task must have the field "title", because <HEADER> shows it.',)


@pytest.mark.parametrize(
    "labels",
    ['<Label value="Cup"/>', '<Label value="Cup"/><Label value="Other" alias="misc"/>'],
    ids=["only label", "alias"],
)
def test_no_label_other_is_advised_where_every_phrase_gets_a_label(labels: str) -> None:
    explanation = explain(
        f"""<View><Image name="image" value="$image"/>
        <BrushLabels name="mask" toName="image">{labels}</BrushLabels></View>"""
    )
    assert not any('label "Other"' in line for line in explanation.advice)


def test_what_cannot_be_used_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.xml").write_text("<View/>")
    assert main(["check", str(tmp_path / "empty.xml")]) == 1
    assert "<BrushLabels" in capsys.readouterr().err
    assert main(["check", str(tmp_path / "missing.xml")]) == 1
    assert "missing.xml" in capsys.readouterr().err


def test_a_project_needs_a_label_studio(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("LABEL_STUDIO_URL", raising=False)
    assert main(["check", "--project", "3"]) == 1
    assert "LABEL_STUDIO_URL" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["check"])
