"""Put the parts together: an untrained PixelLM of the mini's shape, in the self-contained layout.

    python -m recipes.pixellm_mini.base --parts DIR --out DIR

The tower and the first layers of the language model are pretrained; projectors, neck, codebook rows and
pixel decoder start from random numbers.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import Dinov2Config, LlamaConfig

from pixellm_model import checkpoint
from pixellm_model.config import PixelLMConfig
from pixellm_model.model import PixelLM
from pixellm_model.tokenizer import IM_END, IM_START, PromptTokenizer

TOWER_LAYERS = 9  # deeper ones were tuned for salience and tell categories apart less well
SELECT_LAYERS = (9, 5)
SPECIAL = [*(f"[SEG{k}]" for k in range(6)), IM_START, IM_END]


def add_special_tokens(source: Path, target: Path) -> int:
    """Copy tokenizer.json with the codebook and image tokens added; returns the new vocabulary size."""
    raw = json.loads(source.read_text("utf-8"))
    first = 1 + max(max(raw["model"]["vocab"].values()), *(t["id"] for t in raw["added_tokens"]))
    for number, content in enumerate(SPECIAL):
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        raw["added_tokens"].append({"id": first + number, "content": content, **flags, "special": True})
    (target / "tokenizer.json").write_text(json.dumps(raw, ensure_ascii=False) + "\n", "utf-8")
    names = {token["id"]: token["content"] for token in raw["added_tokens"]}
    settings = {"bos_token": names[1], "eos_token": names[2], "pad_token": names[0]}
    (target / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
    return first + len(SPECIAL)


def build_base(parts: Path, out: Path, image_size: int, seed: int = 0) -> None:
    """Write the untrained model and its tokenizer to `out`."""
    torch.manual_seed(seed)
    out.mkdir(parents=True, exist_ok=True)
    vocabulary = add_special_tokens(parts / "tokenizer.json", out)
    lm_config = json.loads((parts / "lm_config.json").read_text())
    tower_config = json.loads((parts / "tower_config.json").read_text())
    for backbone_field in ("out_features", "out_indices", "stage_names"):
        tower_config.pop(backbone_field, None)
    known = lm_config["vocab_size"]
    config = PixelLMConfig(
        llama=LlamaConfig.from_dict({**lm_config, "vocab_size": vocabulary, "max_position_embeddings": 2048}),
        tower=Dinov2Config.from_dict({**tower_config, "num_hidden_layers": TOWER_LAYERS}),
        name="pixellm-mini",
        second_tower="efficientnet_lite0",
        image_size=image_size,
        select_layers=SELECT_LAYERS,
        decoder_mlp_dim=1024,
        projector_ratio=1,
        system_prompt="",
    )
    model = PixelLM(config)
    language = load_file(parts / "lm.safetensors")
    rows = language.pop("model.embed_tokens.weight").float()
    table = model.model.embed_tokens.weight.data
    table[:known] = rows
    table[known:] = rows.mean(0) + rows.std(0) * torch.randn(vocabulary - known, rows.shape[1])
    model.lm_head.weight = model.model.embed_tokens.weight
    tower = {
        "model.vision_tower." + key.replace("encoder.layer.", "layers."): value
        for key, value in load_file(parts / "tower.safetensors").items()
    }
    tower |= {
        f"model.vision_tower.second.{key}": value
        for key, value in load_file(parts / "second_tower.safetensors").items()
    }
    loaded = {key: value.float() for key, value in (language | tower).items() if key in model.state_dict()}
    missing, _ = model.load_state_dict(loaded, strict=False)
    left = [key for key in missing if key.startswith(("model.layers.", "model.norm.", "model.vision_tower."))]
    if left:
        raise SystemExit(f"The parts lack {left[:3]}; make them again with recipes.pixellm_mini.parts.")
    tokenizer = PromptTokenizer(out, config.codebook_size, config.tokens_per_scale)
    checkpoint.save(model, tokenizer, out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--image-size", type=int, default=512)
    args = parser.parse_args()
    build_base(args.parts, args.out, args.image_size)
