"""Train the mini on cached pictures; run it again to go on where it stopped.

    python -m recipes.pixellm_mini.train --base DIR --cutouts DIR --cache DIR --out DIR --minutes 60

`--init` starts from another step's weights. `--drawn 0` leaves the pixel decoder out: the language model
learns to find names and to say what is missing several times faster that way.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from pixellm_model import checkpoint
from pixellm_model.synthetic.nouns import Nouns
from recipes.pixellm_mini.by_the_clock import Recipe, train
from recipes.pixellm_mini.cached import Cache, CachedSamples
from recipes.pixellm_mini.command import command
from recipes.pixellm_mini.state import load_state


def main() -> None:
    """Train; each line of the log goes to stdout and to `log.jsonl`."""
    parser = command(__doc__, "--base", "--cutouts", "--cache", "--out")
    parser.add_argument("--init", type=Path, help="a state to start from")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--lr", type=float, default=Recipe.lr)
    parser.add_argument("--lr-language", type=float, default=Recipe.lr_language)
    parser.add_argument("--drawn", type=int, help="targets a step that the pixel decoder draws (default all)")
    parser.add_argument("--seed", type=int, default=0, help="another one for each run on the same pictures")
    parser.add_argument("--frozen", nargs="*", default=[], help="prefixes of parameters that do not learn")
    args = parser.parse_args()
    recipe = Recipe(
        minutes=args.minutes,
        batch_size=args.batch_size,
        lr=args.lr,
        lr_language=args.lr_language,
        max_drawn=args.drawn,
        frozen=(*Recipe.frozen, *args.frozen),
    )
    model, tokenizer = checkpoint.load(args.base, dtype=torch.float32)
    load_state(model, args.init)
    args.out.mkdir(parents=True, exist_ok=True)
    log = args.out / "log.jsonl"
    seed = 1000 * args.seed + (len(log.read_text().splitlines()) if log.exists() else 0)
    nouns = Nouns(args.cutouts / "vocabulary.json")
    samples = CachedSamples(Cache(*args.cache), model, tokenizer, nouns, seed)
    for losses in train(model, tokenizer, samples, recipe, args.out):
        line = {key: round(value, 4) for key, value in losses.items()}
        with log.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
