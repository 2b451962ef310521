"""Teach the language model to look: whether what is named is there.

    python -m recipes.pixellm_mini.look --base DIR --cutouts DIR --cache DIR --init FILE --out FILE

An answer decides it with its first words ("dog is ..." or "There is no dog ..."), a few tokens among the many
of a whole answer. Here nothing else is asked: many short questions about each picture, half of them for what
is missing, and only the first words of their answers are learned. That is many times the decisions a minute
that whole answers give.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from pixellm_model import checkpoint
from pixellm_model.learning.training import answer_states
from pixellm_model.model import PixelLM
from pixellm_model.pyramid import PyramidDecoder
from pixellm_model.samples import PLACEHOLDER
from pixellm_model.synthetic.nouns import Nouns
from pixellm_model.synthetic.questions import NAMED
from pixellm_model.tokenizer import PromptTokenizer
from recipes.pixellm_mini.cached import Cache, CachedPicture
from recipes.pixellm_mini.command import command
from recipes.pixellm_mini.pause import Clock
from recipes.pixellm_mini.state import load_state, save_state

PICTURES = 6  # a step
FIRST_WORDS = 3  # tokens of each answer
MOST_PRESENT, FEWEST_MISSING = 6, 2
BARE = 0.3  # of the questions are the name alone or with "the"


def decisions(
    picture: CachedPicture, cache: Cache, nouns: Nouns, rng: np.random.Generator
) -> list[tuple[str, str]]:
    """Questions with answers about one picture: as many for what is missing as for what is there."""
    present = [str(name) for name in rng.permutation(sorted(set(picture.names)))[:MOST_PRESENT]]
    categories = {nouns[name].category for name in present}
    alike = [name for name in cache.names if nouns[name].category in categories]
    texts = []
    for name in present:
        word = str(rng.choice([name, name, *nouns[name].synonyms]))
        texts.append((word, f"{word} is {PLACEHOLDER}."))
    missing: list[str] = []
    for _ in range(60):
        if len(missing) == max(len(present), FEWEST_MISSING):
            break
        pool = alike if alike and rng.random() < 0.5 else cache.askable(rng)
        name = str(rng.choice(pool))
        if name not in missing and nouns.absent(name, picture.names, picture.backdrop):
            missing.append(name)
    for name in missing:
        word = str(rng.choice([name, name, *nouns[name].synonyms]))
        texts.append((word, f"There is no {word} in this image."))
    asked = []
    for word, answer in texts:
        form = NAMED[int(rng.integers(2 if rng.random() < BARE else len(NAMED)))]
        asked.append((form.format(x=word), answer))
    return asked


def look(
    model: PixelLM,
    tokenizer: PromptTokenizer,
    cache: Cache,
    nouns: Nouns,
    minutes: float,
    lr: float,
    seed: int,
) -> None:
    """Train language model and `mm_projector` of `model` in place."""
    model.requires_grad_(False)
    parts = [model.model.layers, model.model.embed_tokens, model.model.norm, model.model.mm_projector]
    if isinstance(model.model.mask_decoder, PyramidDecoder):
        parts.append(model.model.mask_decoder.hints)
    parameters = [p for part in parts for p in part.parameters()]
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.01, betas=(0.9, 0.98))
    rng, clock, step = np.random.default_rng(seed), Clock(), 0
    no = tokenizer.encode("There")[1]
    counts = [0.0] * 4
    while (progress := clock.spent() / (60 * minutes)) < 1:
        batch = []
        for index in rng.choice(len(cache), PICTURES, replace=False):
            picture = cache[int(index)]
            packed = picture.asked(decisions(picture, cache, nouns, rng), model.config, tokenizer)
            packed.branches = [(ids[: at + FIRST_WORDS], at) for ids, at in packed.branches]
            batch.append(packed)
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1, (step + 1) / 40) * (0.03 + 0.97 * np.cos(np.pi / 2 * progress))
        with torch.autocast("cpu", torch.bfloat16):
            answers = answer_states(model, batch)
            logits = model.lm_head(answers.hidden).float()
        loss = F.cross_entropy(logits, answers.tokens)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        first = answers.tokens.reshape(-1, FIRST_WORDS)[:, 0]
        said = logits.argmax(-1).reshape(-1, FIRST_WORDS)[:, 0]
        missing, denied = first == no, said == no
        for number, event in enumerate((~missing, ~missing & ~denied, missing, missing & denied)):
            counts[number] = 0.95 * counts[number] + int(event.sum())
        if step % 20 == 0:
            print(
                f"{step}: loss {loss:.3f} found {counts[1] / counts[0]:.3f} "
                f"refused {counts[3] / counts[2]:.3f}",
                flush=True,
            )


def main() -> None:
    """Train and write the weights."""
    parser = command(__doc__, "--base", "--cutouts", "--cache", "--init", "--out")
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(0)
    model, tokenizer = checkpoint.load(args.base, dtype=torch.float32)
    load_state(model, args.init)
    nouns = Nouns(args.cutouts / "vocabulary.json")
    look(model, tokenizer, Cache(*args.cache), nouns, args.minutes, args.lr, args.seed)
    save_state(model, args.out)


if __name__ == "__main__":
    main()
