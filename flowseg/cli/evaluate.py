"""Score a prediction by the competition metric."""

from __future__ import annotations

import argparse
from pathlib import Path

from flowseg.cli import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "--truth",
        type=Path,
        required=True,
        help="train.csv, a COCO .json, or a folder of label TIFFs or of images and labels",
    )
    parser.add_argument(
        "--pred",
        type=Path,
        required=True,
        help="submission.csv, a COCO .json (also of results), or a folder of label TIFFs",
    )
    parser.add_argument(
        "--missing",
        type=lambda text: text.replace("_", "-"),
        choices=("leave-out", "count"),
        default="leave-out",
        help="images of the truth that are not in the prediction: leave them out, or count them "
        "as if nothing had been found",
    )
    parser.add_argument(
        "--ids", type=Path, metavar="FILE", help="score only the image ids of this file, one a line"
    )
    parser.add_argument(
        "--other-metrics",
        choices=("none", "pooled", "coco"),
        default="none",
        help="metrics of other papers besides: pooled AP at 0.5 and aggregated Jaccard; coco adds "
        "COCO mask AP (needs pycocotools)",
    )
    parser.add_argument(
        "--report", type=Path, metavar="FILE", help="write an HTML page with charts and pictures"
    )
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="the images, for the pictures of the report"
    )
    parser.add_argument("--all", action="store_true", help="show every image, not the ten worst")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write one row for each image")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything as JSON")


def run(args: argparse.Namespace) -> int:
    """Score, print the tables, and write the files that were requested."""
    from flowseg.data.folds import read_ids
    from flowseg.evaluation.evaluate import evaluate
    from flowseg.io.outputs import claim_outputs, input_files
    from flowseg.reports.evaluation_report import write_report
    from flowseg.reports.text import as_text, write_csv, write_json

    outputs = [path for path in (args.csv, args.json, args.report) if path is not None]
    inputs = [path for path in (args.truth, args.pred, args.ids, args.images) if path is not None]
    with claim_outputs(outputs, input_files(*inputs) if outputs else ()):
        result = evaluate(
            args.truth,
            args.pred,
            missing=args.missing,
            other=() if args.other_metrics == "none" else (args.other_metrics,),
            images=None if args.ids is None else read_ids(args.ids),
        )
        if args.csv is not None:
            write_csv(result, args.csv)
        if args.json is not None:
            write_json(result, args.json)
        if args.report is not None:
            write_report(result, args.report, images=args.images)
    say(as_text(result, limit=None if args.all else 10))
    return 0
