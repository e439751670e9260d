"""How much memory predicting needs: of many images against few, and of a slide of any size.

    python benchmarks/memory.py images --data ../shared/data --model RUN
    python benchmarks/memory.py slide --data ../shared/data --model RUN --edge 20000

`images` predicts 3, 30 and 300 images (copies of real ones) in processes of their own and prints
the peak of each, and how much a process has in memory after each tenth of its images. `slide` lays
real images side by side to an image of `--edge` pixels, predicts it in blocks, and compares its
labels with those of its upper left part, computed as one image: cells nearer to where the part is
cut off than the halo of blocks are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

CELL_TYPE = "shsy5y"
TILE = 512


def images_peak(paths: list[Path], model: Path, folder: Path, count: int, crop: int) -> Any:
    """Predict `count` images; megabytes at the peak, and after each tenth of them."""
    from flowseg.formats.writers import Formats
    from flowseg.inference.options import SegmentOptions
    from flowseg.io.images import read_image, write_image
    from flowseg.prediction.journal import Journal
    from flowseg.prediction.predict import predict

    images = []
    for k in range(count):
        images.append(folder / f"{k:04d}.png")
        write_image(images[-1], read_image(paths[k % len(paths)])[:crop, :crop])
    resident: list[float] = []
    add = Journal.add

    def measured(self: Journal, *arguments: Any) -> None:
        add(self, *arguments)
        if len(self) % max(1, count // 10) == 0:
            resident.append(_resident())

    Journal.add = measured  # type: ignore[method-assign]
    outputs = Formats(
        submission=folder / "s.csv", labels=folder / "labels", overlays=folder / "pictures"
    )
    done = predict(
        model, images, outputs, device="cpu", options=SegmentOptions(cell_type=CELL_TYPE)
    )
    return {"peak": _peak(), "resident": resident, "cells": done.cells}


def slide_peak(slide: Path, model: Path, folder: Path, diameter: float) -> Any:
    """Predict a slide; megabytes at the peak."""
    from flowseg.formats.writers import Formats
    from flowseg.prediction.predict import predict

    outputs = Formats(submission=folder / "s.csv", labels=folder, overlays=folder)
    done = predict(model, [slide], outputs, device="cpu", options=_options(diameter))
    return {"peak": _peak(), "cells": done.cells}


def compare(slide: Path, labels: Path, model: Path, edge: int, diameter: float) -> Any:
    """The slide's cells against those of its upper left part in one piece."""
    from flowseg.inference.flow_field import FlowField, field_to_labels
    from flowseg.inference.segmenter import Segmenter
    from flowseg.inference.slides import plan_slide
    from flowseg.inference.tiles import predict_rescaled
    from flowseg.io.image_source import list_images

    segmenter = Segmenter.load(model, "cpu")
    (source,), (found,) = list_images(slide), list_images(labels)
    with source.open_regions() as read:
        plan = plan_slide(segmenter, read, source.shape, _options(diameter))
        part = (slice(0, edge), slice(0, edge))
        ensemble = segmenter.ensemble
        rows, columns = (
            slice(0, -(-span.stop // ensemble.stride) * ensemble.stride)
            for span in plan.footprint(part)
        )
        scaled = plan.read_scaled(read, rows, columns)
    field = predict_rescaled(ensemble, scaled, ensemble.diameter)
    maps = plan.restore(field.maps.numpy(), (0, 0), part)
    expected = field_to_labels(FlowField(maps[:2], maps[2]), plan.settings)
    with found.open_regions() as read:
        blocks = read(*part)[..., 0].astype(np.int32)
    margin = int(12 * diameter)
    ids, first = np.unique(expected, return_index=True)
    cut_off = np.union1d(expected[-margin:], expected[:, -margin:])
    inner = ~np.isin(ids, cut_off) & (ids > 0)
    ids_in_blocks = np.zeros(len(ids), np.int64)
    ids_in_blocks[inner] = blocks.reshape(-1)[first[inner]]
    # A cell is the same where both label images have it on exactly the same pixels.
    paired = ids_in_blocks[np.searchsorted(ids, expected)]
    wrong = np.unique(expected[(paired > 0) & (paired != blocks)])
    areas = np.bincount(blocks.reshape(-1), minlength=int(ids_in_blocks.max(initial=0)) + 1)
    sizes = np.unique(expected, return_counts=True)[1]
    same = inner & (ids_in_blocks > 0) & (areas[ids_in_blocks] == sizes) & ~np.isin(ids, wrong)
    return {"cells": int(inner.sum()), "same": int(same.sum())}


def lay(paths: list[Path], slide: Path, edge: int) -> None:
    """Real images side by side, turned and mirrored, as a tiled BigTIFF."""
    import tifffile

    from flowseg.io.images import read_image

    images = [read_image(path)[:TILE, :TILE] for path in paths]

    def tiles() -> Iterator[np.ndarray]:
        rng = np.random.default_rng(0)
        for _ in range((-(-edge // TILE)) ** 2):
            image = np.rot90(images[rng.integers(len(images))], rng.integers(4))
            yield np.ascontiguousarray(image[:, :: rng.choice([-1, 1])])

    with tifffile.TiffWriter(slide, bigtiff=True) as writer:
        writer.write(tiles(), shape=(edge, edge), dtype=np.uint8, tile=(TILE, TILE))


def _options(diameter: float) -> Any:
    from flowseg.inference.options import SegmentOptions

    return SegmentOptions(cell_type=CELL_TYPE, diameter=diameter)


def _peak() -> float:
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _resident() -> float:
    """Megabytes in memory now (Linux)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 2**20


def child(task: str, *arguments: Any) -> Any:
    """One of the functions above in a process of its own, so that its peak is its own."""
    code = (
        "import json, sys, memory; from pathlib import Path; print(json.dumps(eval(sys.argv[1])))"
    )
    call = f"memory.{task}({', '.join(map(_literal, arguments))})"
    environment = {
        **os.environ,
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONPATH": os.pathsep.join((str(Path(__file__).parent), *sys.path)),
    }
    command = [sys.executable, "-c", code, call]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _literal(argument: Any) -> str:
    if isinstance(argument, Path):
        return f"Path({str(argument)!r})"
    if isinstance(argument, list):
        return f"[{', '.join(map(_literal, argument))}]"
    return repr(argument)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("images", "slide"))
    parser.add_argument("--data", type=Path, required=True, help="the competition's folder")
    parser.add_argument("--model", type=Path, required=True, help="a trained run or checkpoint")
    parser.add_argument("--counts", type=int, nargs="+", default=[3, 30, 300])
    parser.add_argument("--crop", type=int, default=704, help="largest edge of the images")
    parser.add_argument("--edge", type=int, default=20_000, help="of the slide")
    parser.add_argument("--part", type=int, default=4_000, help="edge of the part to compare")
    parser.add_argument("--diameter", type=float, default=17.0, help="on the slide")
    args = parser.parse_args()
    paths = sorted((args.data / "train").glob("*.png"))[:20]
    model = args.model / "best.safetensors" if args.model.is_dir() else args.model
    if args.what == "images":
        peaks = []
        for count in args.counts:
            with tempfile.TemporaryDirectory() as folder:
                result = child("images_peak", paths, model, Path(folder), count, args.crop)
            peaks.append(result["peak"])
            resident = " ".join(f"{value:.0f}" for value in result["resident"])
            print(
                f"{count:4d} images, {result['cells']} cells: peak {peaks[-1]:.0f} MB; {resident}"
            )
        print(f"{args.counts[-1]} against {args.counts[0]}: {peaks[-1] - peaks[0]:+.0f} MB")
        return
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home) / "out"
        slide = Path(home) / "slide.tif"
        folder.mkdir()
        lay(paths, slide, args.edge)
        result = child("slide_peak", slide, model, folder, args.diameter)
        print(f"{args.edge} x {args.edge}: {result['cells']} cells, peak {result['peak']:.0f} MB")
        part = child("compare", slide, folder / "slide.tif", model, args.part, args.diameter)
        print(f"the part of {args.part} x {args.part}: {part['same']} of {part['cells']} the same")


if __name__ == "__main__":
    main()
