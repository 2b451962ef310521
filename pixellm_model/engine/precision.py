"""The device and the number format that a model is loaded in, by the names that users give."""

from __future__ import annotations

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_precision(device: str, dtype: str) -> tuple[str, torch.dtype]:
    """Check a device and a dtype and resolve "auto".

    Args:
        device: "cpu", "cuda", "cuda:1" ...; "auto" is a GPU if there is one.
        dtype: One of DTYPES; "auto" and "int8" are bfloat16 on a GPU and float32 on a CPU.

    Returns:
        The device's name and the dtype to load the weights in.

    Raises:
        ValueError: The device or the dtype is unknown, or there is no GPU for a "cuda" device.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        index = torch.device(device).index
    except RuntimeError:
        raise ValueError(f"Unknown device {device!r}; use auto, cpu, cuda or cuda:N.") from None
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"Device {device!r} was asked for, but torch sees no GPU; use 'cpu' or 'auto'.")
    if device.startswith("cuda") and (index or 0) >= (count := torch.cuda.device_count()):
        raise ValueError(f"Device {device!r} was asked for, but torch sees only {count}, from cuda:0 on.")
    if dtype not in ("auto", "int8", *DTYPES):
        raise ValueError(f"Unknown dtype {dtype!r}; use one of auto, {', '.join(DTYPES)}, int8.")
    return device, DTYPES.get(dtype, torch.float32 if device == "cpu" else torch.bfloat16)
