"""Label images on disk to the formats of other tools."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import fastremap
import numpy as np
from tqdm import tqdm

from flowseg.data.folder import read_instances
from flowseg.data.record import size_differs
from flowseg.errors import FlowsegError
from flowseg.formats.writers import WRITERS, Formats, SegmentedImage
from flowseg.io.images import read_image
from flowseg.io.outputs import claim_outputs
from flowseg.io.paths import PathLike, find_images, find_labels


def export_labels(
    labels: PathLike, formats: Formats, images: PathLike | None = None, cell_type: str = "cell"
) -> tuple[int, int]:
    """Export every label image of a folder.

    Parameters
    ----------
    labels : path
        A folder of label images named as their images, such as `predict --save-labels` writes;
        or of images and labels: see :func:`flowseg.io.paths.find_labels`.
    formats : Formats
        At least one.
    images : path, optional
        A folder of their images.
    cell_type : str
        Category of the cells.

    Returns
    -------
    int, int
        Number of images and of cells.

    Raises
    ------
    FlowsegError
        If no format is named, or one that needs a prediction; if a label image cannot be read, or
        its image is missing or has another size.
    """
    options = [writer.option for writer in WRITERS.values() if not writer.predict_only]
    refused = [name for name in formats.paths if WRITERS[name].predict_only]
    if refused or not formats.paths:
        raise FlowsegError(
            f"{', '.join(refused)} cannot be written from label images"
            if refused
            else "no format to export to",
            remedy=f"name one or more of {', '.join(options[1:])}",
        )
    found = find_labels(labels)
    image_files = {} if images is None else {path.stem: path for path in find_images(images)}
    missing = sorted(found.keys() - image_files.keys()) if images is not None else []
    if missing:
        raise FlowsegError(f"holds no image {missing[0]!r}, which has labels", file=images)
    formats.check()
    read = [path for pair in found.values() for path in pair if path] + list(image_files.values())
    with claim_outputs(formats.outputs(found), read):
        return _export(found, image_files, formats, cell_type)


def _export(
    found: Mapping[str, tuple[Path | None, Path]],
    image_files: Mapping[str, Path],
    formats: Formats,
    cell_type: str,
) -> tuple[int, int]:
    parts = []
    cells = 0
    for image_id, (image, path) in tqdm(found.items(), desc="exporting", unit="image", delay=2):
        instances = read_instances(path)
        cells += int(np.count_nonzero(fastremap.unique(instances)))
        file = image_files.get(image_id, image)
        pixels = None
        if file is not None and formats.seg_npy is not None:
            pixels = read_image(file)
            if pixels.shape[:2] != instances.shape:
                raise size_differs(file, pixels.shape, instances.shape, path.name)
        item = SegmentedImage(
            image_id=image_id,
            file_name=(file or path).name,
            labels=instances,
            cell_type=cell_type,
            image=pixels,
        )
        parts.append(formats.write(item))
    formats.write_collected(lambda: parts)
    return len(found), cells
