"""Adapters: the weights that fine-tuning changes, stored apart from their base.

They are LoRA factors of the language model's attention, the codebook's embedding rows, the projectors, the
neck and the pixel decoder. An adapter is a folder: `adapter.json` (an `AdapterConfig`) and
`adapter_model.safetensors`. A model with an adapter shares all other tensors with its base, so many adapters
cost one base in memory and none can change another. What is trained follows the reference, with two
differences: of the embeddings only the codebook's rows are trained, and the neck is trained too.
"""

from __future__ import annotations

import copy
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from peft import LoraConfig, inject_adapter_in_model
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from pixellm_model.errors import CheckpointError
from pixellm_model.model import PixelLM

CONFIG, WEIGHTS = "adapter.json", "adapter_model.safetensors"
FORMAT = 1
# Children of `model.model` whose weights are all trained; each adapter has its own copy.
TRAINED_PARTS = ("mm_projector", "out_mm_projector", "image_feature_neck", "text_hidden_fcs", "mask_decoder")
LORA_TARGETS = r"layers\.\d+\.self_attn\.(q_proj|v_proj)"


@dataclass(frozen=True)
class AdapterConfig:
    """What an adapter is.

    Attributes:
        base: Fingerprint of the checkpoint it was trained on (`checkpoint.fingerprint`).
        codebook: Ids of the embedding rows it replaces.
        lora_r: Rank of the LoRA factors.
        lora_alpha: LoRA's scale times its rank.
        lora_dropout: Dropout before the LoRA factors while training, 0..1.
    """

    base: str
    codebook: tuple[int, ...]
    lora_r: int = 8
    lora_alpha: int = 16
    lora_dropout: float = 0.05


class TunedEmbedding(nn.Module):
    """An embedding table with some rows replaced by `rows` (len(ids), D)."""

    ids: torch.Tensor

    def __init__(self, table: nn.Embedding, ids: tuple[int, ...], rows: nn.Parameter):
        super().__init__()
        self.table, self.rows = table, rows
        self.register_buffer("ids", torch.tensor(ids, device=rows.device), persistent=False)

    @property
    def weight(self) -> torch.Tensor:
        """The base's table (vocabulary, D), without the replaced rows."""
        return self.table.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Token ids (...) -> embeddings (..., D)."""
        hit = torch.eq(tokens[..., None], self.ids)  # (..., len(ids))
        own = hit.to(self.rows.dtype) @ self.rows  # (..., D)
        return torch.where(hit.any(-1, keepdim=True), own.to(self.table.weight.dtype), self.table(tokens))


class TunedHead(nn.Module):
    """An output head with some rows replaced by `rows` (len(ids), D)."""

    ids: torch.Tensor

    def __init__(self, head: nn.Linear, ids: tuple[int, ...], rows: nn.Parameter):
        super().__init__()
        self.head, self.rows = head, rows
        self.register_buffer("ids", torch.tensor(ids, device=rows.device), persistent=False)

    @property
    def weight(self) -> torch.Tensor:
        """The base's matrix (vocabulary, D), without the replaced rows."""
        return self.head.weight

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states (..., D) -> logits (..., vocabulary)."""
        own = F.linear(hidden, self.rows.to(hidden.dtype))
        logits = self.head(hidden)
        return logits.index_copy(-1, self.ids, own.to(logits.dtype))


def attach(base: PixelLM, config: AdapterConfig) -> PixelLM:
    """Make a model with a new adapter, which does not change the answers yet.

    Args:
        base: The base; it is not changed.
        config: What the adapter is to be.

    Returns:
        A model in evaluation mode that shares the base's tensors. Only the adapter's own tensors require
        gradients; they are float32.
    """
    own = {id(p) for name in TRAINED_PARTS for p in getattr(base.model, name).parameters()}
    shared = [t for t in (*base.parameters(), *base.buffers()) if id(t) not in own]
    model = copy.deepcopy(base, {id(tensor): tensor for tensor in shared})
    lora = LoraConfig(
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=LORA_TARGETS,
    )
    inject_adapter_in_model(lora, model.model)
    ids = list(config.codebook)
    table, head = model.model.embed_tokens, model.lm_head
    rows = nn.Parameter(table.weight.data[ids].float().clone())
    tied = model.config.llama.tie_word_embeddings
    head_rows = rows if tied else nn.Parameter(head.weight.data[ids].float().clone())
    model.model.embed_tokens = TunedEmbedding(table, config.codebook, rows)
    setattr(model, "lm_head", TunedHead(head, config.codebook, head_rows))  # noqa: B010, in a Linear's place
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(_is_trained(name))
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model.eval()


def save(model: PixelLM, config: AdapterConfig, folder: Path, dtype: torch.dtype = torch.float16) -> None:
    """Write the adapter of a model.

    Args:
        model: A model that `attach` made.
        config: The configuration it was made with.
        folder: Where to write; created if missing.
        dtype: What the tensors are rounded to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: p.detach().to("cpu", dtype).contiguous() for name, p in trained(model).items()}
    save_file(tensors, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps({"format": FORMAT, **asdict(config)}, indent=2) + "\n")


def load(base: PixelLM, fingerprint: str, folder: Path) -> PixelLM:
    """Load an adapter.

    Args:
        base: The base model; it is not changed.
        fingerprint: The base's fingerprint.
        folder: The adapter's folder.

    Returns:
        A model in evaluation mode that shares the base's tensors, all in the base's dtype and on its device.

    Raises:
        CheckpointError: The folder is not an adapter, belongs to another base, or its tensors do not fit.
    """
    config = read_config(folder)
    if config.base != fingerprint:
        raise CheckpointError(
            f"The adapter in {folder} belongs to the base {config.base}, not to {fingerprint}; "
            "load that base or train the adapter again."
        )
    if max(config.codebook) >= base.config.llama.vocab_size:
        raise CheckpointError(f"The adapter in {folder} names tokens that its base does not have.")
    try:
        tensors = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder / WEIGHTS} cannot be read: {error}.") from None
    model = attach(base, config)
    parameters = trained(model)
    if tensors.keys() != parameters.keys():
        differing = sorted(tensors.keys() ^ parameters.keys())
        raise CheckpointError(
            f"The adapter in {folder} does not fit: {len(differing)} tensors such as {differing[0]} differ."
        )
    for name, parameter in parameters.items():
        if tensors[name].shape != parameter.shape:
            raise CheckpointError(
                f"The adapter in {folder} does not fit: {name} is {tuple(tensors[name].shape)}, "
                f"expected {tuple(parameter.shape)}."
            )
        parameter.data = tensors[name].to(base.device, base.dtype)
    return model.requires_grad_(False).eval()


def interpolate(base: PixelLM, folder: Path, share: float, out: Path) -> None:
    """Write an adapter whose weights lie between the base's and a trained adapter's (WiSE-FT).

    Such weights keep most of what was learned and forget much less: Wortsman et al., "Robust fine-tuning of
    zero-shot models", CVPR 2022.

    Args:
        base: The base model; it is not changed.
        folder: The trained adapter's folder.
        share: Weight of the trained adapter, 0 (the base) to 1 (the adapter as it is).
        out: Folder of the new adapter; created if missing.

    Raises:
        CheckpointError: `folder` is not an adapter, or does not fit the base.
    """
    config = read_config(folder)
    start = trained(attach(base, config))
    tensors = load_file(folder / WEIGHTS)
    if tensors.keys() != start.keys():
        raise CheckpointError(f"The adapter in {folder} does not fit this base.")
    for name, end in tensors.items():
        if "lora_A" in name:
            continue  # the change is the product of both factors: only lora_B is scaled
        before = torch.zeros_like(end) if "lora_B" in name else start[name].detach().to("cpu", end.dtype)
        tensors[name] = torch.lerp(before.float(), end.float(), share).to(end.dtype)
    out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out / WEIGHTS)
    (out / CONFIG).write_bytes((folder / CONFIG).read_bytes())


def read_config(folder: Path) -> AdapterConfig:
    """Read a folder's `adapter.json`.

    Raises:
        CheckpointError: It is missing or does not describe an adapter.
    """
    path = folder / CONFIG
    try:
        values: dict[str, Any] = json.loads(path.read_text("utf-8"))
        if values.pop("format") != FORMAT:
            raise ValueError("it is of another format")
        config = AdapterConfig(**{**values, "codebook": tuple(int(token) for token in values["codebook"])})
        if not config.codebook or min(config.codebook) < 0 or not 0 < config.lora_r <= 1024:
            raise ValueError("its numbers make no sense")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} does not describe an adapter ({error}).") from None
    return config


def trained(model: PixelLM) -> dict[str, nn.Parameter]:
    """Return the trained parameters by name; rows that embedding and head share are listed once."""
    return {name: p for name, p in model.named_parameters() if _is_trained(name)}


def _is_trained(name: str) -> bool:
    part = name.removeprefix("model.").split(".")[0]
    return "lora_" in name or name.endswith(".rows") or (name.startswith("model.") and part in TRAINED_PARTS)
