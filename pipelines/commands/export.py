"""crossview export: a model for other tools."""

from __future__ import annotations

import argparse
from typing import Any

from pipelines.commands import options as shared


def add(commands: Any) -> None:
    """Add the command's options."""
    parser = commands.add_parser(
        "export",
        help="write a model for timm, Hugging Face or CroCo's own code",
        description="Write a model for other tools: its encoder for timm, the model as CroCo's "
        "published checkpoints are, or a folder with model.safetensors, config.json and a model "
        "card. Prints how to load it there.",
        epilog="example: crossview export --weights out/pretrain --to timm "
        "--out out/encoder.safetensors",
    )
    parser.set_defaults(command=run)
    shared.add_weights(parser)
    parser.add_argument(
        "--to", choices=("timm", "published", "safetensors"), required=True, help="for whom"
    )
    parser.add_argument(
        "--out",
        type=shared.on_disk,
        required=True,
        metavar="PATH",
        help="timm: NAME.safetensors; published: NAME.pth; safetensors: a folder",
    )


def run(options: argparse.Namespace) -> int:
    """Export, print how to load it."""
    from pipelines.pretraining.model_card import write_documented_folder
    from training.checkpoint import load_pretrained
    from training.export import timm_arguments, write_timm
    from training.published import write_published

    pretrained, out = load_pretrained(options.weights), options.out
    out.parent.mkdir(parents=True, exist_ok=True)
    if options.to == "timm":
        write_timm(pretrained.model, out)
        arguments = {**timm_arguments(pretrained.model.config), "checkpoint_path": str(out)}
        given = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        print(f"timm.create_model({given})")
    elif options.to == "published":
        write_published(pretrained.model, out)
        print(f"checkpoint = torch.load({str(out)!r})")
        print("model = CroCoNet(**checkpoint['croco_kwargs'])")
        print("model.load_state_dict(checkpoint['model'])")
    else:
        write_documented_folder(pretrained, options.weights, out)
        print(f"CroCo.from_pretrained({str(out)!r})")
    return 0
