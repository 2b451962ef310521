"""8-bit weights of tower and language model, for devices with little memory (bitsandbytes, extra `int8`).

LLM.int8 (Dettmers et al., 2022): each row of a matrix has its own scale, and outlier activations are
multiplied in full precision. Embeddings (with the codebook's), projectors and pixel decoder stay in full
precision.
"""

from __future__ import annotations

import torch
from torch import nn

from pixellm_model.model import PixelLM

OUTLIER_THRESHOLD = 6.0  # larger activations are not rounded; the paper's value


def to_int8(model: PixelLM) -> None:
    """Replace the linear layers of the language model's blocks and of the first tower, in place.

    Args:
        model: The model, in full precision.

    Raises:
        ValueError: Bitsandbytes is not installed.
    """
    try:
        from bitsandbytes.nn import Int8Params, Linear8bitLt
    except ImportError:
        raise ValueError('8-bit weights need bitsandbytes: pip install "pixellm-assist[int8]".') from None
    for part in (model.model.layers, model.model.vision_tower):
        for parent in list(part.modules()):
            for name, linear in list(parent.named_children()):
                if not isinstance(linear, nn.Linear):
                    continue
                with torch.device("meta"):
                    quantised = Linear8bitLt(
                        linear.in_features,
                        linear.out_features,
                        bias=linear.bias is not None,
                        has_fp16_weights=False,
                        threshold=OUTLIER_THRESHOLD,
                    )
                # bitsandbytes quantises when the weight is moved to a device, the CPU included.
                weight = Int8Params(linear.weight.data, requires_grad=False, has_fp16_weights=False)
                quantised.weight = weight.to(linear.weight.device)
                quantised.bias = linear.bias
                setattr(parent, name, quantised)
