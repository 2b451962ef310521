"""Command line: `python -m pixellm_model segment|train|evaluate|calibrate|convert|inspect`."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pixellm_model import Segmentation

os.environ.setdefault("HF_HUB_OFFLINE", "1")

CHECKPOINT_HELP = "checkpoint folder (default: the shipped pixellm-mini)"


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The arguments; those of the process by default.

    Returns:
        The exit status: 0, or 2 after an error, which is one line on stderr.
    """
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"pixellm: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pixellm_model", description="PixelLM on the command line."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text, add_arguments in (
        ("segment", "segment an image by a prompt", _add_segment),
        ("convert", "write a self-contained safetensors folder, tower included", _add_convert),
        ("inspect", "print what a checkpoint is", _add_inspect),
        ("evaluate", "measure a model on annotated images", _add_evaluate),
        ("calibrate", "make scores the measured chance that a mask is right", _add_calibrate),
        ("train", "fine-tune an adapter (docs/training.md)", _add_train),
    ):
        add_arguments(commands.add_parser(name, help=text, description=text))
    return parser


def _add_segment(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", type=Path, metavar="IMAGE", help="an image file")
    parser.add_argument("prompt", metavar="PROMPT", help='what to segment, such as "the mug and the book"')
    _add_model_arguments(parser)
    _add_vision_tower(parser)
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the overlay picture here")
    parser.add_argument("--json", action="store_true", help="print JSON with COCO RLE masks")
    parser.set_defaults(run=_segment)


def _add_convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="SOURCE", help="checkpoint folder")
    parser.add_argument("target", type=Path, metavar="TARGET", help="the new folder")
    _add_vision_tower(parser)
    parser.set_defaults(run=_convert)


def _add_inspect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="checkpoint folder")
    _add_vision_tower(parser)
    parser.set_defaults(run=_inspect)


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    _add_data_arguments(parser)
    _add_model_arguments(parser)
    parser.add_argument("--compat", action="store_true", help="the reference's MUSE figures too")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="write report.html and report.json into this folder"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, all questions included")
    parser.set_defaults(run=_evaluate)


def _add_calibrate(parser: argparse.ArgumentParser) -> None:
    _add_data_arguments(parser)
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="checkpoint folder")
    _add_device(parser)
    parser.add_argument("--write", action="store_true", help="store it in the folder's config.json")
    parser.set_defaults(run=_calibrate)


def _add_train(parser: argparse.ArgumentParser) -> None:
    _add_data_arguments(parser)
    parser.add_argument("--base", type=Path, metavar="DIR", help=CHECKPOINT_HELP)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder of the run; resumed if interrupted"
    )
    parser.add_argument(
        "--recipe", type=Path, metavar="FILE", help="JSON object with fields of FineTuneRecipe"
    )
    parser.add_argument("--epochs", type=float, metavar="N", help="passes over the images; as in --recipe")
    parser.add_argument("--lr", type=float, metavar="RATE", help="peak learning rate; as in --recipe")
    parser.add_argument("--batch-size", type=int, metavar="N", help="images per step; as in --recipe")
    parser.add_argument("--seed", type=int, metavar="N", help="random seed; as in --recipe")
    _add_device(parser)
    parser.set_defaults(run=_train)


def _add_model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, metavar="DIR", help=CHECKPOINT_HELP)
    parser.add_argument("--adapter", type=Path, metavar="DIR", help="folder of a fine-tuned adapter")
    _add_device(parser)
    parser.add_argument(
        "--dtype",
        default="auto",
        metavar="DTYPE",
        help="auto, float32, bfloat16, float16 or int8 (default: auto)",
    )


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda or cuda:N (default: auto)"
    )


def _add_vision_tower(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--vision-tower", type=Path, metavar="DIR", help="CLIP tower of a published checkpoint"
    )


def _add_data_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", type=Path, required=True, metavar="PATH", help="file or folder (docs/data.md)"
    )
    parser.add_argument(
        "--kind", metavar="KIND", help="muse, coco, refer, reason_seg or scenes (default: by its contents)"
    )
    parser.add_argument("--split", metavar="SPLIT", help="only records of this split")
    parser.add_argument("--images", type=Path, metavar="DIR", help="folder of the images")
    parser.add_argument("--limit", type=int, metavar="N", help="at most N images, evenly chosen")


def _segment(args: argparse.Namespace) -> None:
    from pixellm_model.engine.segmenter import Segmenter
    from pixellm_model.image_file import ImageFileError, decode
    from pixellm_model.measuring.overlay import draw_overlay

    try:
        image = decode(args.image.read_bytes(), formats=None)
    except ImageFileError as error:
        raise ValueError(f"{args.image}: {error}") from None
    segmenter = Segmenter.from_pretrained(args.model, args.device, args.dtype, args.vision_tower)
    if args.adapter:
        segmenter = segmenter.with_adapter(args.adapter)
    result = segmenter.segment(image, args.prompt)
    if args.out:
        draw_overlay(image, result.targets, result.answer).save(args.out)
    if args.json:
        print(json.dumps(_as_json(result, image.size, segmenter.version)))
        return
    print(result.answer)
    for number, target in enumerate(result.targets, 1):
        area = f"{target.mask.mean():.1%} of the image"
        print(f"  [{number}] {target.phrase}: score {target.score:.2f}, box {target.box}, {area}")
    for warning in result.warnings:
        print(f"  ! {warning}")
    print("  " + ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in result.timings.items()))
    if args.out:
        print(f"  overlay: {args.out}")


def _as_json(result: Segmentation, size: tuple[int, int], version: str) -> dict[str, object]:
    import numpy as np
    from pycocotools import mask as coco

    targets = []
    for target in result.targets:
        rle = coco.encode(np.asfortranarray(target.mask.astype(np.uint8)))
        targets.append(
            {
                "phrase": target.phrase,
                "score": round(target.score, 4),
                "box": target.box,
                "mask": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
            }
        )
    return {
        "model_version": version,
        "answer": result.answer,
        "width": size[0],
        "height": size[1],
        "targets": targets,
        "warnings": result.warnings,
        "timings": result.timings,
    }


def _evaluate(args: argparse.Namespace) -> None:
    from tqdm import tqdm

    from pixellm_model.data import read_samples
    from pixellm_model.engine.segmenter import Segmenter
    from pixellm_model.measuring.evaluation import evaluate
    from pixellm_model.measuring.report import WorstAnswers, write_report

    samples = read_samples(args.data, args.kind, args.split, args.images, args.limit)
    segmenter = Segmenter.from_pretrained(args.model, args.device, args.dtype)
    if args.adapter:
        segmenter = segmenter.with_adapter(args.adapter)
    worst_answers = WorstAnswers()
    with_progress = tqdm(samples, unit="image", file=sys.stderr, disable=None)
    evaluation = evaluate(segmenter, with_progress, args.compat, worst_answers.add)
    evaluation.skipped += samples.skipped
    if args.json:
        print(json.dumps(evaluation.as_json()))
    else:
        print(segmenter.version)
        for name, value in evaluation.figures().items():
            print(f"  {name:15} {value}")
        if evaluation.skipped:
            print(f"  ! {len(evaluation.skipped)} records left out, the first: {evaluation.skipped[0]}")
    if args.out:
        print(f"report: {write_report(evaluation, worst_answers, args.out)}", file=sys.stderr)


def _calibrate(args: argparse.Namespace) -> None:
    from tqdm import tqdm

    from pixellm_model import checkpoint
    from pixellm_model.data import read_samples
    from pixellm_model.engine.segmenter import Segmenter
    from pixellm_model.measuring.calibration import fit_reported
    from pixellm_model.measuring.evaluation import evaluate

    samples = read_samples(args.data, args.kind, args.split, args.images, args.limit)
    segmenter = Segmenter.from_pretrained(args.model, args.device)
    segmenter.model.config = segmenter.model.config.with_raw_scores()
    with_progress = tqdm(samples, unit="image", file=sys.stderr, disable=None)
    calibration, report = fit_reported({"data": evaluate(segmenter, with_progress).scores.scored})
    for line in report:
        print(line)
    if args.write:
        checkpoint.calibrate(args.model, calibration)
        print(f"stored in {args.model / 'config.json'}")


def _train(args: argparse.Namespace) -> None:
    from dataclasses import replace

    from pixellm_model.data import read_samples
    from pixellm_model.learning.finetune import fine_tune
    from pixellm_model.learning.recipe import FineTuneRecipe

    samples = read_samples(args.data, args.kind, args.split, args.images, args.limit)
    for reason in samples.skipped[:5]:
        print(f"! left out: {reason}", file=sys.stderr)
    recipe = FineTuneRecipe.from_file(args.recipe) if args.recipe else FineTuneRecipe()
    options = {name: getattr(args, name) for name in ("epochs", "lr", "batch_size", "seed")}
    recipe = replace(recipe, **{name: value for name, value in options.items() if value is not None})
    with _log_on_stdout("pixellm_model.learning.finetune"):
        print(f"adapter: {fine_tune(args.base, samples, recipe, args.out, args.device)}")


@contextmanager
def _log_on_stdout(name: str) -> Iterator[None]:
    """Print the messages of a logger within the context."""
    logger, handler = logging.getLogger(name), logging.StreamHandler(sys.stdout)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)


def _convert(args: argparse.Namespace) -> None:
    from pixellm_model import checkpoint

    model, tokenizer = checkpoint.load(args.source, args.vision_tower)
    checkpoint.save(model, tokenizer, args.target)
    print(
        f"{args.target}: self-contained, {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters"
    )


def _inspect(args: argparse.Namespace) -> None:
    from pixellm_model import checkpoint

    model, tokenizer = checkpoint.load(args.folder, args.vision_tower)
    config, tower, codebook = model.config, model.config.tower, tokenizer.codebook
    assert tower is not None
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    rows = {
        "name": config.name,
        "version": checkpoint.fingerprint(args.folder),
        "layout": "published"
        if checkpoint.read_config(args.folder)["model_type"] == "llava"
        else "self-contained",
        "language model": f"{config.llama.num_hidden_layers} layers x {config.llama.hidden_size}, "
        f"vocabulary {config.llama.vocab_size}",
        "vision tower": f"{tower.model_type}, {tower.num_hidden_layers} layers x {tower.hidden_size}, "
        f"{config.image_size} px, hidden states {config.select_layers}",
        "codebook": f"ids {codebook.ids[0]}..{codebook.ids[-1]}, {codebook.tokens_per_scale} a scale",
        "parameters": f"{millions:.1f} M, {str(model.dtype).removeprefix('torch.')}",
    }
    for key, value in rows.items():
        print(f"{key:15} {value}")


if __name__ == "__main__":
    sys.exit(main())
