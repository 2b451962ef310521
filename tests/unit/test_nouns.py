"""The vocabulary of rendered scenes."""

import json
from pathlib import Path

import pytest

from pixellm_model.synthetic.nouns import Nouns

BIRD = {"name": "bird", "plural": "birds", "category": "animal", "attributes": ["fly"]}
OWL = {"name": "owl", "plural": "owls", "category": "animal", "attributes": ["fly"], "parent": "bird"}


def test_vocabulary_mistakes_are_named(tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.json"
    path.write_text(json.dumps([BIRD, BIRD]))
    with pytest.raises(ValueError, match="'bird' twice"):
        Nouns(path)
    path.write_text(json.dumps([OWL]))
    with pytest.raises(ValueError, match="parent 'bird'"):
        Nouns(path)


def test_shipped_vocabulary_is_sound() -> None:
    path = Path(__file__).parents[2] / "recipes" / "pixellm_mini" / "vocabulary.json"
    nouns = Nouns(path)
    synonyms = [synonym for noun in nouns.by_name.values() for synonym in noun.synonyms]
    assert len(nouns.by_name) > 300
    assert len(set(synonyms)) == len(synonyms)
    assert not set(synonyms) & set(nouns.by_name)
    assert {kin for noun in nouns.by_name.values() for kin in noun.kin} <= set(nouns.by_name)
