"""Explore a data set: one HTML page of its images, cells, folds and flagged annotations."""

from __future__ import annotations

import argparse
from pathlib import Path

from flowseg.cli import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("data"),
        help="the unzipped competition, LIVECell, or a folder of NAME.tif and NAME_masks.tif",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("report.html"), metavar="FILE", help="the page to write"
    )
    parser.add_argument("--folds", type=int, default=5, help="the number of folds to show")
    parser.add_argument(
        "--pictures", type=int, default=24, metavar="N", help="flagged masks shown for each flag"
    )


def run(args: argparse.Namespace) -> int:
    """Write the page and print where it is."""
    from flowseg.reports.dataset_report import explore

    images, cells = explore(args.data, args.out, folds=args.folds, pictures=args.pictures)
    say(f"{images} images, {cells} cells: open {args.out} in a browser")
    return 0
