"""Checkpoints on disk: reads the published layout, reads and writes the self-contained one.

Never runs code from a checkpoint: weights are safetensors, or read by `torch.load` with `weights_only`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from pixellm_model.calibration import KEY as CALIBRATION
from pixellm_model.calibration import ScoreCalibration
from pixellm_model.config import PixelLMConfig
from pixellm_model.errors import CheckpointError
from pixellm_model.model import PixelLM
from pixellm_model.tokenizer import PromptTokenizer
from pixellm_model.vision import resize_position_table

# Published names on the left, transformers' two-way blocks on the right.
RENAMES = [
    (re.compile(r"(mask_decoder\.transformer\.\d+\.layers\.\d+)\.norm(\d)\."), r"\1.layer_norm\2."),
    (re.compile(r"(mask_decoder\.transformer\.\d+)\.norm_final_attn\."), r"\1.layer_norm_final_attn."),
]
# In every published file and never read at inference.
UNUSED = re.compile(
    r"rotary_emb\.inv_freq$|point_embeddings|not_a_point_embed|mask_downscaling|iou_prediction_head"
    r"|output_hypernetworks_mlps\.[1-9]|^model\.vision_tower\.vision_tower\."
)
SHARD_BYTES = 2 * 2**30  # of a weights file
QUANTISED = re.compile(r"^model\.(vision_tower\.layers|layers)\..*\.weight$|^model\.embed_tokens\.weight$")
SCALE_SUFFIX = ".scale"


def load(
    folder: Path,
    vision_tower: str | Path | None = None,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
) -> tuple[PixelLM, PromptTokenizer]:
    """Load a checkpoint folder of either layout.

    Args:
        folder: The folder.
        vision_tower: Folder of the CLIP tower, in place of the one that a published config.json names.
        device: Where to load the weights, such as "cpu" or "cuda".
        dtype: What to convert the weights to; their own by default.

    Returns:
        The model, in evaluation mode and without gradients, and its tokenizer.

    Raises:
        CheckpointError: The folder, a key, a shape, the tower or the codebook does not fit.
    """
    raw = read_config(folder)
    weights = dict(_read_weights(folder))
    if raw["model_type"] == "llava":
        tower_folder = _find_tower(folder, raw, vision_tower)
        config = PixelLMConfig.from_dict(raw, tower=CLIPVisionConfig.from_pretrained(tower_folder))
        weights |= _tower_weights(tower_folder, config)
    else:
        config = PixelLMConfig.from_dict(raw)
    tokenizer = PromptTokenizer(folder, config.codebook_size, config.tokens_per_scale)
    if tokenizer.size > config.llama.vocab_size:
        raise CheckpointError(
            f"The tokenizer in {folder} goes up to id {tokenizer.size - 1}, "
            f"but the weights have {config.llama.vocab_size} rows."
        )
    if dtype is None:
        dtype = weights["model.norm.weight"].dtype if "model.norm.weight" in weights else torch.float32
    return build(config, weights, device, dtype), tokenizer


def build(
    config: PixelLMConfig, weights: dict[str, torch.Tensor], device: str, dtype: torch.dtype
) -> PixelLM:
    """Build a model from weights by name.

    Args:
        config: Its configuration, tower included.
        weights: By published or transformers' names; 8-bit ones with their scales.
        device: Where to put it.
        dtype: What to convert the weights to.

    Returns:
        The model, in evaluation mode and without gradients.

    Raises:
        CheckpointError: A key is missing or unknown, or a shape does not fit.
    """
    weights = _dequantise(
        {_rename_published_key(key): value for key, value in weights.items() if not UNUSED.search(key)}
    )
    if config.llama.tie_word_embeddings and "model.embed_tokens.weight" in weights:
        weights.setdefault("lm_head.weight", weights["model.embed_tokens.weight"])
    with torch.device("meta"):
        model = PixelLM(config)
    expected = model.state_dict()
    missing, unknown = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
    if missing or unknown:
        raise CheckpointError(
            "The weights do not fit a PixelLM: "
            + "; ".join(
                _some(f"{word} keys", keys)
                for word, keys in (("missing", missing), ("unknown", unknown))
                if keys
            )
            + "."
        )
    misfits = [
        f"{key} is {tuple(weights[key].shape)}, expected {tuple(tensor.shape)}"
        for key, tensor in expected.items()
        if weights[key].shape != tensor.shape
    ]
    if misfits:
        raise CheckpointError(f"The weights do not fit config.json: {_some('tensors', misfits)}.")
    model.load_state_dict({k: v.to(device, dtype) for k, v in weights.items()}, assign=True)
    if config.llama.tie_word_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight
    _restore_buffers(model, device)
    return model.eval().requires_grad_(False)


def save(model: PixelLM, tokenizer: PromptTokenizer, folder: Path, int8: bool = False) -> None:
    """Write the self-contained layout.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        folder: Where to write; created if missing.
        int8: Store the matrices of tower and language model in 8 bits with one scale per row, the rest in
            float16.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    if model.config.llama.tie_word_embeddings:
        del weights["lm_head.weight"]
    if int8:
        weights = _quantise(weights)
    shards = list(_shard(weights))
    names = [
        "model.safetensors" if len(shards) == 1 else f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        for i in range(len(shards))
    ]
    for name, shard in zip(names, shards, strict=True):
        save_file(shard, folder / name, metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(model.config.to_dict(), indent=2) + "\n", "utf-8")
    tokenizer.save(folder)


def fingerprint(folder: Path) -> str:
    """Eight hex digits that identify a checkpoint.

    They hash config.json and, per weights file, its name, its size and its first and last MiB. Whole files
    are not read: a 7B checkpoint has 13 GB.
    """
    return _hash_of_weights(folder, (folder / "config.json").read_bytes())


def calibrate(folder: Path, calibration: ScoreCalibration) -> None:
    """Store a calibration of its scores in a checkpoint, whose fingerprint and version change by that.

    Args:
        folder: A checkpoint of the self-contained layout.
        calibration: The calibration, measured with its weights.

    Raises:
        CheckpointError: The folder is no checkpoint, or one of the published layout.
    """
    raw = read_config(folder)
    if raw["model_type"] != "pixellm":
        raise CheckpointError(
            f"{folder} has the published layout, which has no place for a calibration; "
            "`python -m pixellm_model convert` writes a folder that has."
        )
    raw["extra"] = {**raw.get("extra", {}), CALIBRATION: calibration.as_json(weights_fingerprint(folder))}
    (folder / "config.json").write_text(json.dumps(raw, indent=2) + "\n", "utf-8")


def weights_fingerprint(folder: Path) -> str:
    """Eight hex digits that identify a checkpoint's weights; like `fingerprint`, without config.json."""
    return _hash_of_weights(folder, b"")


def _hash_of_weights(folder: Path, beginning: bytes) -> str:
    digest = hashlib.sha256(beginning)
    for path in _weight_files(folder):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}".encode())
        with path.open("rb") as file:
            digest.update(file.read(2**20))
            file.seek(max(0, size - 2**20))
            digest.update(file.read())
    return digest.hexdigest()[:8]


def version(folder: Path) -> str:
    """The version that a `Segmenter` of a checkpoint has, without loading its weights.

    Raises:
        CheckpointError: The folder is not a checkpoint.
    """
    config = PixelLMConfig.from_dict(read_config(folder))
    return f"{Path(config.name).name}-{fingerprint(folder)}"


def read_config(folder: Path) -> dict[str, Any]:
    """Read a folder's config.json.

    Raises:
        CheckpointError: The folder is not a checkpoint.
    """
    path = folder / "config.json"
    if not path.exists():
        hint = (
            " Its hf_model folder does: name that." if (folder / "hf_model" / "config.json").exists() else ""
        )
        raise CheckpointError(f"{folder} holds no config.json, so it is not a model folder.{hint}")
    try:
        raw = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}.") from None
    PixelLMConfig.from_dict(raw)
    return raw


def _weight_files(folder: Path) -> list[Path]:
    files = sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not files:
        raise CheckpointError(f"{folder} holds neither model*.safetensors nor pytorch_model*.bin.")
    return files


def _read_weights(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    for path in _weight_files(folder):
        try:
            if path.suffix == ".safetensors":
                with safe_open(path, framework="pt") as file:
                    for key in file.keys():  # noqa: SIM118 - not a dict
                        yield key, file.get_tensor(key)
            else:
                yield from torch.load(path, map_location="cpu", weights_only=True, mmap=True).items()
        except CheckpointError:
            raise
        except Exception as error:
            reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            raise CheckpointError(f"{path.name} cannot be read as weights: {reason}") from error


def _find_tower(folder: Path, raw: dict[str, Any], override: str | Path | None) -> Path:
    name = override or raw.get("vision_tower") or raw.get("mm_vision_tower")
    if not name:
        raise CheckpointError("config.json names no vision_tower; give its folder with --vision-tower.")
    for candidate in (Path(name), folder / str(name), folder.parent / str(name)):
        if (candidate / "config.json").exists():
            return candidate
    raise CheckpointError(
        f"The vision tower {str(name)!r} is not a local folder. Download it and give its folder with "
        "--vision-tower (published PixelLM weights use openai/clip-vit-large-patch14-336)."
    )


def _tower_weights(folder: Path, config: PixelLMConfig) -> dict[str, torch.Tensor]:
    clip = CLIPVisionModel.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    table = clip.embeddings.position_embedding
    table.weight = nn.Parameter(resize_position_table(table.weight.data, config.grid))
    with torch.device("meta"):
        expected = PixelLM(config).model.vision_tower.state_dict()
    weights = {
        key.replace("pre_layrnorm.", "pre_layernorm.").replace("encoder.layers.", "layers."): tensor
        for key, tensor in clip.state_dict().items()
    }
    return {f"model.vision_tower.{key}": weights[key] for key in expected if key in weights}


def _restore_buffers(model: PixelLM, device: str) -> None:
    """Build the buffers that no checkpoint stores; so far they are on the meta device."""
    model.model.rotary_emb = LlamaRotaryEmbedding(config=model.model.config).to(device)
    embeddings = model.model.vision_tower.embeddings
    if hasattr(embeddings, "position_ids"):
        count = embeddings.position_embedding.weight.shape[0]
        embeddings.position_ids = torch.arange(count, device=device)[None]


def _rename_published_key(key: str) -> str:
    for pattern, name in RENAMES:
        key = pattern.sub(name, key)
    return key


def _quantise(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    stored: dict[str, torch.Tensor] = {}
    for key, tensor in weights.items():
        if QUANTISED.match(key) and tensor.ndim == 2:
            scale = tensor.float().abs().amax(1).clamp_min(1e-12) / 127
            stored[key] = (tensor.float() / scale[:, None]).round().to(torch.int8)
            stored[key + SCALE_SUFFIX] = scale
        else:
            stored[key] = tensor.half() if tensor.is_floating_point() else tensor
    return stored


def _dequantise(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    scales = {
        key.removesuffix(SCALE_SUFFIX): value for key, value in weights.items() if key.endswith(SCALE_SUFFIX)
    }
    return {
        key: tensor.float() * scales[key][:, None] if key in scales else tensor
        for key, tensor in weights.items()
        if not key.endswith(SCALE_SUFFIX)
    }


def _shard(weights: dict[str, torch.Tensor]) -> Iterator[dict[str, torch.Tensor]]:
    shard: dict[str, torch.Tensor] = {}
    used = 0
    for key, tensor in weights.items():
        if shard and used + tensor.nbytes > SHARD_BYTES:
            yield shard
            shard, used = {}, 0
        shard[key] = tensor
        used += tensor.nbytes
    yield shard


def _some(what: str, items: list[str], shown: int = 3) -> str:
    rest = f" and {len(items) - shown} more" if len(items) > shown else ""
    return f"{what}: {', '.join(items[:shown])}{rest}"
