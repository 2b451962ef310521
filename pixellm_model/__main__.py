"""Command line: `python -m pixellm_model segment|train|evaluate|convert|inspect`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")


def main(argv: list[str] | None = None) -> int:
    """Run one command; bad input ends with one line on stderr and exit status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m pixellm_model", description="PixelLM on the command line."
    )
    commands = parser.add_subparsers(dest="command", required=True)

    segment = commands.add_parser("segment", help="segment an image by a prompt")
    segment.add_argument("image", type=Path)
    segment.add_argument("prompt")
    segment.add_argument("--model", type=Path, help="checkpoint folder (default: the shipped pixellm-mini)")
    segment.add_argument("--adapter", type=Path, help="folder of a fine-tuned adapter")
    segment.add_argument("--vision-tower", type=Path, help="CLIP tower of a published checkpoint")
    segment.add_argument("--device", default="auto")
    segment.add_argument("--dtype", default="auto")
    segment.add_argument("--out", type=Path, help="write the overlay picture here")
    segment.add_argument("--json", action="store_true", help="print JSON with COCO RLE masks")
    segment.set_defaults(run=_segment)

    convert = commands.add_parser("convert", help="write a self-contained safetensors folder, tower included")
    convert.add_argument("source", type=Path)
    convert.add_argument("target", type=Path)
    convert.add_argument("--vision-tower", type=Path)
    convert.set_defaults(run=_convert)

    inspect = commands.add_parser("inspect", help="print what a checkpoint is")
    inspect.add_argument("folder", type=Path)
    inspect.add_argument("--vision-tower", type=Path)
    inspect.set_defaults(run=_inspect)

    evaluate = commands.add_parser("evaluate", help="measure a model on annotated images")
    evaluate.add_argument("--data", type=Path, required=True, help="file or folder (docs/data.md)")
    evaluate.add_argument("--kind", help="muse, coco, refer, reason_seg or scenes; default: by its contents")
    evaluate.add_argument("--split", help="only records of this split")
    evaluate.add_argument("--images", type=Path, help="folder of the pictures")
    evaluate.add_argument("--limit", type=int, help="only so many images, evenly chosen")
    evaluate.add_argument("--model", type=Path, help="checkpoint folder (default: the shipped pixellm-mini)")
    evaluate.add_argument("--adapter", type=Path, help="folder of a fine-tuned adapter")
    evaluate.add_argument("--device", default="auto")
    evaluate.add_argument("--dtype", default="auto")
    evaluate.add_argument("--compat", action="store_true", help="the reference's MUSE figures too")
    evaluate.add_argument("--out", type=Path, help="write report.html and report.json into this folder")
    evaluate.add_argument("--json", action="store_true", help="print JSON, all questions included")
    evaluate.set_defaults(run=_evaluate)

    train = commands.add_parser("train", help="fine-tune an adapter (docs/training.md)")
    train.add_argument("--data", type=Path, required=True, help="file or folder (docs/data.md)")
    train.add_argument("--kind", help="muse, coco, refer, reason_seg or scenes; default: by its contents")
    train.add_argument("--split", help="only records of this split")
    train.add_argument("--images", type=Path, help="folder of the pictures")
    train.add_argument("--limit", type=int, help="only so many images, evenly chosen")
    train.add_argument("--base", type=Path, help="checkpoint folder (default: the shipped pixellm-mini)")
    train.add_argument("--out", type=Path, required=True, help="folder of the run; goes on where it stopped")
    train.add_argument("--recipe", type=Path, help="JSON object with fields of FineTuneRecipe")
    train.add_argument("--epochs", type=float)
    train.add_argument("--lr", type=float)
    train.add_argument("--batch-size", type=int)
    train.add_argument("--seed", type=int)
    train.add_argument("--device", default="auto")
    train.set_defaults(run=_train)

    args = parser.parse_args(argv)
    try:
        args.run(args)
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"pixellm: {error}", file=sys.stderr)
        return 2
    return 0


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
        where = f"box {target.box}, {target.mask.mean():.1%} of the image"
        print(f"  [{number}] {target.phrase}: score {target.score:.2f}, {where}")
    for warning in result.warnings:
        print(f"  ! {warning}")
    print("  " + ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in result.timings.items()))
    if args.out:
        print(f"  overlay: {args.out}")


def _as_json(result: object, size: tuple[int, int], version: str) -> dict[str, object]:
    import numpy as np
    from pycocotools import mask as coco

    from pixellm_model.engine.answers import Segmentation

    assert isinstance(result, Segmentation)
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
    from pixellm_model.measuring.report import Gallery, write_report

    samples = read_samples(args.data, args.kind, args.split, args.images, args.limit)
    segmenter = Segmenter.from_pretrained(args.model, args.device, args.dtype)
    if args.adapter:
        segmenter = segmenter.with_adapter(args.adapter)
    gallery = Gallery()
    shown = tqdm(samples, unit="image", file=sys.stderr, disable=None)
    found = evaluate(segmenter, shown, args.compat, gallery.look)
    found.skipped += samples.skipped
    if args.json:
        print(json.dumps(found.as_json()))
    else:
        print(segmenter.version)
        for name, value in found.figures().items():
            print(f"  {name:15} {value}")
        if found.skipped:
            print(f"  ! {len(found.skipped)} records left out, the first: {found.skipped[0]}")
    if args.out:
        print(f"report: {write_report(found, gallery, args.out)}", file=sys.stderr)


def _train(args: argparse.Namespace) -> None:
    from dataclasses import replace

    from pixellm_model.data import read_samples
    from pixellm_model.learning.finetune import FineTuneRecipe, fine_tune

    samples = read_samples(args.data, args.kind, args.split, args.images, args.limit)
    for reason in samples.skipped[:5]:
        print(f"! left out: {reason}", file=sys.stderr)
    recipe = FineTuneRecipe.from_file(args.recipe) if args.recipe else FineTuneRecipe()
    given = {name: getattr(args, name) for name in ("epochs", "lr", "batch_size", "seed")}
    recipe = replace(recipe, **{name: value for name, value in given.items() if value is not None})
    print(f"adapter: {fine_tune(args.base, samples, recipe, args.out, args.device)}")


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
    config, tower, book = model.config, model.config.tower, tokenizer.codebook
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
        "codebook": f"ids {book.ids[0]}..{book.ids[-1]}, {book.tokens_per_scale} a scale",
        "parameters": f"{millions:.1f} M, {str(model.dtype).removeprefix('torch.')}",
    }
    for key, value in rows.items():
        print(f"{key:15} {value}")


if __name__ == "__main__":
    sys.exit(main())
