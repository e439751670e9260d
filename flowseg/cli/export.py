"""Write label images, or a model, in the formats of other tools."""

from __future__ import annotations

import argparse
from pathlib import Path

from flowseg.cli import say
from flowseg.errors import FlowsegError
from flowseg.formats.writers import WRITERS, Formats


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "--labels",
        dest="labels_folder",
        type=Path,
        metavar="DIR",
        help="a folder of label images, or of images and label images; COCO JSON",
    )
    parser.add_argument(
        "--images",
        dest="images_folder",
        type=Path,
        metavar="DIR",
        help="their images, to store in _seg.npy files",
    )
    parser.add_argument("--cell-type", default="cell", help="category of the cells")
    add_output_arguments(parser)
    parser.add_argument(
        "--weights", type=Path, metavar="MODEL", help="a run's folder or a checkpoint to export"
    )
    parser.add_argument(
        "--to",
        nargs=2,
        metavar=("FORMAT", "FILE"),
        help="what to write the weights as: cellpose FILE, which Cellpose 3 loads; onnx FILE; "
        "torch-export FILE; bioimageio FILE, a package of the BioImage Model Zoo",
    )


def add_output_arguments(parser: argparse.ArgumentParser, *, predicting: bool = False) -> None:
    """Declare the options of all formats, those of predictions only where there is one."""
    for name, writer in WRITERS.items():
        if name != "submission" and (predicting or not writer.predict_only):
            parser.add_argument(
                writer.option,
                dest=name,
                type=Path,
                metavar=writer.metavar,
                help=f"write {writer.help}",
            )
    parser.add_argument(
        "--exclude-border",
        action="store_true",
        help="leave out the cells that the image's edge cuts",
    )
    parser.add_argument(
        "--labels-format",
        choices=("tiff", "zarr"),
        default="tiff",
        help="what --save-labels writes: TIFF, or NAME.zarr (needs zarr)",
    )


def parse_outputs(args: argparse.Namespace) -> Formats:
    """What the options of `add_output_arguments` ask for."""
    outputs = {name: value for name, value in vars(args).items() if name in WRITERS}
    return Formats(**outputs, labels_format=args.labels_format)


def run(args: argparse.Namespace) -> int:
    """Export and print what was written."""
    if args.weights is not None or args.to is not None:
        return _export_model(args)
    if args.labels_folder is None:
        raise FlowsegError("nothing to export", remedy="name --labels, or --weights and --to")
    from flowseg.prediction.export import export_labels

    formats = parse_outputs(args)
    images, cells = export_labels(
        args.labels_folder,
        formats,
        args.images_folder,
        args.cell_type,
        exclude_border=args.exclude_border,
    )
    say(f"{cells} cells in {images} images: {', '.join(map(str, formats.paths.values()))}")
    return 0


def _export_model(args: argparse.Namespace) -> int:
    if args.weights is None or args.to is None or args.labels_folder is not None:
        raise FlowsegError(
            "a model is exported by --weights MODEL --to FORMAT FILE, without --labels"
        )
    from flowseg.prediction.convert import export_model

    format, file = args.to
    export_model(args.weights, format, file)
    say(f"{args.weights}: {file}")
    return 0
