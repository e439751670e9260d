"""Write labels for ImageJ, napari, Cellpose, COCO tools, or as a table of cells."""

from __future__ import annotations

import argparse
from pathlib import Path

from flowseg.cli import say

__all__ = ["add_arguments", "add_folder_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "--labels",
        type=Path,
        required=True,
        metavar="DIR",
        help="a folder of label images, or of images and label images",
    )
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="their images, to keep in _seg.npy files"
    )
    parser.add_argument("--cell-type", default="cell", help="what the cells are called")
    add_folder_arguments(parser)
    parser.add_argument("--coco", type=Path, metavar="FILE", help="write COCO JSON")
    parser.add_argument(
        "--cells", type=Path, metavar="FILE", help="write a CSV of area, place and shape"
    )


def add_folder_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options that name the formats of one file an image."""
    folders = {
        "--rois": "ImageJ ROIs, NAME_rois.zip, here (needs roifile)",
        "--seg-npy": "Cellpose's NAME_seg.npy here",
        "--label-tiff": "NAME_labels.tif for ImageJ and napari here",
    }
    for option, text in folders.items():
        parser.add_argument(option, type=Path, metavar="DIR", help=f"write {text}")


def run(args: argparse.Namespace) -> int:
    """Export and say what was written."""
    from flowseg.formats.writers import Formats
    from flowseg.prediction.export import export_labels

    formats = Formats(args.rois, args.seg_npy, args.label_tiff, args.coco, args.cells)
    images, cells = export_labels(args.labels, formats, args.images, args.cell_type)
    written = [
        str(place)
        for place in (args.rois, args.seg_npy, args.label_tiff, args.coco, args.cells)
        if place is not None
    ]
    say(f"{cells} cells in {images} images: {', '.join(written)}")
    return 0
