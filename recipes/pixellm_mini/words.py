"""Write `words.json`, the words the mini was taught: `python -m recipes.pixellm_mini.words --out DIR`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from pixellm_model.engine.wording import WORDS_FILE
from pixellm_model.synthetic.nouns import Nouns
from pixellm_model.synthetic.templates import wordings
from recipes.pixellm_mini.names import chosen_names

VOCABULARY = Path(__file__).parent / "vocabulary.json"
MASSES = "surroundings"  # a category
COUNTED = ("banner", "blanket", "building", "curtain", "light", "rug", "towel", "window blind")  # but of it


def taught_names() -> list[str]:
    """The names the mini is taught, with their plurals and synonyms, sorted."""
    nouns = Nouns(VOCABULARY).by_name
    chosen = [nouns[name] for name in chosen_names() if name in nouns]
    return sorted({text for noun in chosen for text in (noun.name, noun.plural, *noun.synonyms)})


def masses() -> list[str]:
    """Those of them that have no instances, sorted."""
    nouns = Nouns(VOCABULARY).by_name
    chosen = [nouns[name] for name in chosen_names() if name in nouns]
    without = [noun for noun in chosen if noun.category == MASSES and noun.name not in COUNTED]
    return sorted({text for noun in without for text in (noun.name, noun.plural, *noun.synonyms)})


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser("python -m recipes.pixellm_mini.words", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the model folder")
    parser.add_argument(
        "--prompt", help='wording for bare names, as `canonical` measures it: "Segment {}."; as typed without'
    )
    parser.add_argument("--one-by-one", action="store_true", help="ask for several names one by one")
    arguments = parser.parse_args()
    words: dict[str, object] = {
        "names": taught_names(),
        "others": sorted(set(wordings())),
        "masses": masses(),
    }
    if arguments.prompt:
        words = {"prompt": arguments.prompt, "one_by_one": arguments.one_by_one, **words}
    (arguments.out / WORDS_FILE).write_text(json.dumps(words, indent=0, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
