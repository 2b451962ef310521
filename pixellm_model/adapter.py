"""What fine-tuning changes, apart from its base: LoRA, codebook rows, projectors, neck, pixel decoder.

An adapter is a folder: `adapter.json` says what it is and of which base, `adapter_model.safetensors` holds
its tensors. A model with an adapter shares all other tensors with its base, so that many projects cost one
base in memory and none can disturb another. What trains follows the reference (specification section 10.4),
with two differences: of the embeddings only the codebook's rows, and the neck as well.
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
# Children of `model.model` that are trained whole; each adapter has its own.
WHOLE = ("mm_projector", "out_mm_projector", "image_feature_neck", "text_hidden_fcs", "mask_decoder")
LORA_TARGETS = r"layers\.\d+\.self_attn\.(q_proj|v_proj)"


@dataclass(frozen=True)
class AdapterConfig:
    """`base` is the fingerprint of the checkpoint it was trained on; `codebook` are the rows it replaces."""

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
        return self.table.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hit = torch.eq(tokens[..., None], self.ids)  # (..., len(ids))
        own = hit.to(self.rows.dtype) @ self.rows  # (..., D)
        return torch.where(hit.any(-1, keepdim=True), own.to(self.table.weight.dtype), self.table(tokens))


class TunedHead(nn.Module):
    """An output head with the same rows replaced."""

    ids: torch.Tensor

    def __init__(self, head: nn.Linear, ids: tuple[int, ...], rows: nn.Parameter):
        super().__init__()
        self.head, self.rows = head, rows
        self.register_buffer("ids", torch.tensor(ids, device=rows.device), persistent=False)

    @property
    def weight(self) -> torch.Tensor:
        return self.head.weight

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        own = F.linear(hidden, self.rows.to(hidden.dtype))
        logits = self.head(hidden)
        return logits.index_copy(-1, self.ids, own.to(logits.dtype))


def attach(base: PixelLM, config: AdapterConfig) -> PixelLM:
    """A model that shares `base`'s tensors, with a fresh adapter that changes nothing yet. Only the adapter's
    tensors require gradients, in float32."""
    own = {id(p) for name in WHOLE for p in getattr(base.model, name).parameters()}
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
        parameter.requires_grad_(_trains(name))
        # The fixed tables of position codes are buffers and stay as they are.
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model.eval()


def save(model: PixelLM, config: AdapterConfig, folder: Path, dtype: torch.dtype = torch.float16) -> None:
    """Write the adapter of a model that `attach` made; tensors are rounded to `dtype`."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: p.detach().to("cpu", dtype).contiguous() for name, p in trained(model).items()}
    save_file(tensors, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps({"format": FORMAT, **asdict(config)}, indent=2) + "\n")


def load(base: PixelLM, fingerprint: str, folder: Path) -> PixelLM:
    """`base` with the adapter of a folder, ready to answer.

    Raises CheckpointError when the folder is no adapter, or one of another base, or its tensors do not fit.
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
        odd = sorted(tensors.keys() ^ parameters.keys())
        raise CheckpointError(
            f"The adapter in {folder} does not fit: {len(odd)} tensors such as {odd[0]} differ."
        )
    for name, parameter in parameters.items():
        if tensors[name].shape != parameter.shape:
            raise CheckpointError(
                f"The adapter in {folder} does not fit: {name} is {tuple(tensors[name].shape)}, "
                f"expected {tuple(parameter.shape)}."
            )
        parameter.data = tensors[name].to(base.device, base.dtype)
    return model.requires_grad_(False).eval()


def soften(base: PixelLM, folder: Path, share: float, out: Path) -> None:
    """Write to `out` the adapter of `folder` with only `share` (0..1) of what it changes in `base`.

    Weights between a model and its fine-tuned self keep most of what was learned and forget far less
    (Wortsman et al., "Robust fine-tuning of zero-shot models", 2022). Raises CheckpointError as `load` does.
    """
    config = read_config(folder)
    start = trained(attach(base, config))
    tensors = load_file(folder / WEIGHTS)
    if tensors.keys() != start.keys():
        raise CheckpointError(f"The adapter in {folder} does not fit this base.")
    for name, end in tensors.items():
        if "lora_A" in name:
            continue  # the change is the product of both factors; one of them is scaled
        before = torch.zeros_like(end) if "lora_B" in name else start[name].detach().to("cpu", end.dtype)
        tensors[name] = torch.lerp(before.float(), end.float(), share).to(end.dtype)
    out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out / WEIGHTS)
    (out / CONFIG).write_bytes((folder / CONFIG).read_bytes())


def read_config(folder: Path) -> AdapterConfig:
    """Raises CheckpointError when `adapter.json` is missing or is not one."""
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
    """The adapter's own tensors by name; a tied head's rows once."""
    return {name: p for name, p in model.named_parameters() if _trains(name)}


def _trains(name: str) -> bool:
    part = name.removeprefix("model.").split(".")[0]
    return "lora_" in name or name.endswith(".rows") or (name.startswith("model.") and part in WHOLE)
