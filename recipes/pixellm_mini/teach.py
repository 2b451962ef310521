"""Teach the language model to answer each name with the embedding that the pyramid knows it by.

    python -m recipes.pixellm_mini.teach --base DIR --cutouts DIR --cache DIR ... --rehearsed DIR ...
        --init FILE --out DIR

`--init` is what `ground` wrote, `--language` another state to take the language model from. Names are asked
for in many wordings, whatever the picture shows: many short questions share one, so that this sees far more
names a minute than real samples do. That every name gets a target is meant: whether it is there, the
pyramid's presence decides. Every other step is a real sample of a `--rehearsed` cache, with its masks and one
target a name (`Claimer`), so that places, groups and the coarse scale are kept. Run again, it goes on
where it stopped.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from pixellm_model import checkpoint
from pixellm_model.learning.training import LossRecipe, answer_states, forward_losses
from pixellm_model.model import PixelLM
from pixellm_model.pyramid import PyramidDecoder
from pixellm_model.samples import PLACEHOLDER
from pixellm_model.synthetic.nouns import Noun, Nouns
from pixellm_model.synthetic.questions import NAMED, listed
from pixellm_model.synthetic.templates import PLURAL
from pixellm_model.tokenizer import PromptTokenizer
from recipes.pixellm_mini.by_the_clock import learned_weights
from recipes.pixellm_mini.cached import Cache, CachedSamples
from recipes.pixellm_mini.command import command
from recipes.pixellm_mini.pause import Clock
from recipes.pixellm_mini.state import load_state
from recipes.pixellm_mini.wording import varied

QUESTIONS = 16  # a step
SHARPNESS = 15.0  # of the cosine between an answer and the names' embeddings
PAIRS, PLURALS = 0.3, 0.15  # of the questions
REHEARSED = LossRecipe(ce_weight=1.0, bce_weight=2.0, dice_weight=1.0, max_drawn=6)
LANGUAGE = ("model.layers.", "model.embed_tokens.", "model.norm.")
FRESH = (
    *(
        "model.text_hidden_fcs.",
        "model.mm_projector.",
        "model.out_mm_projector.",
        "model.image_feature_neck.",
    ),
    *("model.mask_decoder.transformer.", "model.mask_decoder.hints.", "model.mask_decoder.weights"),
    *("model.mask_decoder.output_", "model.mask_decoder.mask_tokens.", "model.mask_decoder.level_embed."),
)
PYRAMID = ("model.mask_decoder.pyramid.",)
PYRAMIDS = ("model.mask_decoder.hints.", "model.mask_decoder.weights")  # go with one pyramid
SAVE_EVERY = 120.0  # seconds


def question(nouns: list[Noun], rng: np.random.Generator) -> tuple[str, str]:
    """A question about one or two names, with the answer as it would be were they there."""
    if len(nouns) == 1 and rng.random() < PLURALS:
        noun = nouns[0]
        form = str(rng.choice(PLURAL)).format(x=noun.plural, one=noun.name)
        return varied(form, rng), f"{noun.name} is {PLACEHOLDER}."
    words = [str(rng.choice([noun.name, noun.name, *noun.synonyms])) for noun in nouns]
    form = NAMED[int(rng.integers(len(NAMED)))].format(x=listed(words))
    return varied(form, rng), listed([f"{word} is {PLACEHOLDER}" for word in words]) + "."


class Teacher:
    """The losses of both kinds of steps."""

    def __init__(
        self, model: PixelLM, tokenizer: PromptTokenizer, cache: Cache, nouns: Nouns, table: torch.Tensor
    ):
        assert isinstance(model.model.mask_decoder, PyramidDecoder)
        self.model, self.tokenizer, self.cache, self.nouns, self.table = model, tokenizer, cache, nouns, table
        self.decoder = model.model.mask_decoder
        self.unit = F.normalize(table[:, 1], dim=-1)
        with torch.no_grad():
            self.wanted = self.decoder.choose(table[:, 1])
        self.spread = self.wanted.var(0).mean()

    def naming(self, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """The losses of a step that asks for names; "wrong" is the share of names mistaken for others."""
        names = self.cache.names
        texts, asked = [], []
        pool = rng.permutation(len(names)).tolist()
        for _ in range(QUESTIONS):
            chosen = [pool.pop() for _ in range(2 if rng.random() < PAIRS else 1)]
            texts.append(question([self.nouns[names[index]] for index in chosen], rng))
            asked += chosen
        picture = self.cache[int(rng.integers(len(self.cache)))]
        packed = picture.asked(texts, self.model.config, self.tokenizer)
        with torch.autocast("cpu", torch.bfloat16):
            answers = answer_states(self.model, [packed])
            ce = F.cross_entropy(self.model.lm_head(answers.hidden).float(), answers.tokens)
            states = answers.target_states(self.tokenizer)
            targets = self.tokenizer.codebook.fuse(
                self.model.target_embeddings(states)
            ).float()  # (N, 2, dim)
        index = torch.tensor(asked)
        cosine = F.normalize(targets[:, 1], dim=-1) @ self.unit.T
        off = self.decoder.choose(targets[:, 1]) - self.wanted[index]
        return {
            "ce": ce,
            "naming": F.cross_entropy(SHARPNESS * cosine, index),
            "distance": 2 * off.square().mean() / self.spread,
            "wrong": (cosine.argmax(1) != index).float().mean().detach(),
        }


def teach(
    teacher: Teacher,
    rehearsed: CachedSamples | None,
    minutes: float,
    out: Path,
    lr: float,
    seed: int,
    every: int = 2,
    pyramid_lr: float = 0.0,
) -> None:
    """Train the language model of the teacher's model in place."""
    model = teacher.model
    named = dict(model.named_parameters())
    for name, parameter in named.items():
        parameter.requires_grad_(name.startswith((*LANGUAGE, *FRESH, *PYRAMID[: pyramid_lr > 0])))
    fresh = [p for name, p in named.items() if name.startswith(FRESH)]
    language = [p for name, p in named.items() if name.startswith(LANGUAGE)]
    groups: list[dict[str, Any]] = [{"params": fresh, "peak": 2 * lr}, {"params": language, "peak": lr}]
    if pyramid_lr:
        groups.append({"params": [*teacher.decoder.pyramid.parameters()], "peak": pyramid_lr})
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    learned = [parameter for group in groups for parameter in group["params"]]
    step, spent = 0, 0.0
    if (out / "training.pt").exists():
        state = torch.load(out / "training.pt", map_location="cpu", weights_only=True)
        model.load_state_dict(state["model"], strict=False)
        optimizer.load_state_dict(state["optimizer"])
        step, spent = state["step"], state["spent"]
    rng = np.random.default_rng([seed, step])
    samples = iter(rehearsed) if rehearsed is not None else None
    clock, saved = Clock(spent), time.monotonic()
    averages: dict[str, float] = {}
    while True:
        progress = clock.spent() / (60 * minutes)
        for group in optimizer.param_groups:
            falling = 0.05 + 0.95 * float(np.cos(np.pi / 2 * min(1, progress)))
            group["lr"] = group["peak"] * min(1, (step + 1) / 20) * falling
        if samples is not None and step % every:
            with torch.autocast("cpu", torch.bfloat16):
                losses = forward_losses(model, teacher.tokenizer, [next(samples)], REHEARSED)
            total = losses.total
            parts = {f"real {key}": value for key, value in losses.parts.items()}
        else:
            found = teacher.naming(rng)
            parts = {key: value.item() for key, value in found.items()}
            total = 0.5 * found["ce"] + found["naming"] + found["distance"]
        optimizer.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        step += 1
        for key, value in parts.items():
            averages[key] = 0.95 * averages.get(key, value) + 0.05 * value
        if step % 10 == 0:
            said = " ".join(f"{key} {value:.3f}" for key, value in averages.items())
            print(f"{step} {clock.spent() / 60:.1f} min {said}", flush=True)
        done = progress >= 1
        if done or time.monotonic() - saved > SAVE_EVERY:
            out.mkdir(parents=True, exist_ok=True)
            weights = {"model": learned_weights(model), "optimizer": optimizer.state_dict()}
            torch.save({**weights, "step": step, "spent": clock.spent()}, out / "training.partial")
            (out / "training.partial").replace(out / "training.pt")
            saved = time.monotonic()
        if done:
            break


def main() -> None:
    """Run the command line."""
    parser = command(__doc__, "--base", "--cutouts", "--cache", "--init", "--out")
    parser.add_argument(
        "--rehearsed", type=Path, nargs="*", default=[], help="caches to draw real samples from"
    )
    parser.add_argument("--language", type=Path, help="a state to take all but the pyramid from")
    parser.add_argument("--every", type=int, default=2, help="one step in so many asks for names alone")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--pyramid-lr", type=float, default=0.0, help="the pyramid learns too, at this rate")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    model, tokenizer = checkpoint.load(args.base, dtype=torch.float32)
    load_state(model, args.init)
    grounded = torch.load(args.init, map_location="cpu", weights_only=True)
    if args.language:
        spoken = torch.load(args.language, map_location="cpu", weights_only=True)["model"]
        kept = {key: value for key, value in spoken.items() if key.startswith((*LANGUAGE, *FRESH))}
        for key in [key for key in kept if key.startswith(PYRAMIDS)]:
            del kept[key]
        model.load_state_dict(kept, strict=False)
    nouns = Nouns(Path(__file__).with_name("vocabulary.json"))
    rehearsed = None
    if args.rehearsed:
        rehearsed = CachedSamples(Cache(*args.rehearsed), model, tokenizer, nouns, args.seed, claiming=True)
    teacher = Teacher(model, tokenizer, Cache(*args.cache), nouns, grounded["table"])
    teach(teacher, rehearsed, args.minutes, args.out, args.lr, args.seed, args.every, args.pyramid_lr)


if __name__ == "__main__":
    main()
