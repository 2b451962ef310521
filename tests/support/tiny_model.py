"""A PixelLM of random weights, small enough to build in a test: both tower kinds, a byte-level tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.decoders import ByteLevel
from transformers import CLIPVisionConfig, Dinov2Config, LlamaConfig

from pixellm_model import checkpoint
from pixellm_model.config import PixelLMConfig
from pixellm_model.model import PixelLM
from pixellm_model.tokenizer import PromptTokenizer

SPECIAL = ["<pad>", "<s>", "</s>"]
ADDED = [*(f"[SEG{k}]" for k in range(6)), "<im_start>", "<im_end>"]


def write_tokenizer(folder: Path, added: list[str] | None = None) -> int:
    """A byte-level tokenizer.json with the special tokens; returns the vocabulary's size."""
    folder.mkdir(parents=True, exist_ok=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevel()
    tokenizer.add_special_tokens([*SPECIAL, *(ADDED if added is None else added)])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return tokenizer.get_vocab_size()


def write_tiny(folder: Path, tower: str = "dinov2", seed: int = 0) -> Path:
    """Write a self-contained tiny checkpoint and return its folder."""
    torch.manual_seed(seed)
    size = write_tokenizer(folder)
    shape = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "patch_size": 14}
    config = PixelLMConfig(
        llama=LlamaConfig(
            vocab_size=size,
            hidden_size=48,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=1024,
            pad_token_id=0,
        ),
        tower=Dinov2Config(**shape, image_size=56)
        if tower == "dinov2"
        else CLIPVisionConfig(**shape, intermediate_size=64, image_size=112),
        name="tiny",
        image_size=112,
        select_layers=(-2, -4),
        decoder_dim=64,
        decoder_mlp_dim=64,
        projector_ratio=1,
    )
    model = PixelLM(config).eval()
    tokenizer = PromptTokenizer(folder, config.codebook_size, config.tokens_per_scale)
    checkpoint.save(model, tokenizer, folder)
    return folder


class ScriptedHead(torch.nn.Module):
    """An lm_head that says `ids` from the end of the prompt on, whatever the hidden states: a random model
    names no target. It goes by positions, so that a guess which is taken back does not advance it."""

    def __init__(self, model: PixelLM, ids: list[int]):
        super().__init__()
        self.weight = model.lm_head.weight
        self._ids = ids
        self._first: int | None = None
        self._positions = torch.empty(0)
        model.model.register_forward_pre_hook(self._listen, with_kwargs=True)

    def _listen(
        self, _module: torch.nn.Module, args: tuple[object, ...], kwargs: dict[str, torch.Tensor]
    ) -> None:
        self._positions = kwargs["position_ids"]

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        positions = self._positions[:, -hidden.shape[1] :]
        if self._first is None:
            self._first = int(positions[0, 0])  # drafted tokens come after it
        said = torch.tensor(self._ids)[(positions - self._first) % len(self._ids)]
        return torch.nn.functional.one_hot(said, self.weight.shape[0]).float()
