"""Label images on disk to the formats of other tools."""

from __future__ import annotations

from dataclasses import replace

import fastremap
import numpy as np
from tqdm import tqdm

from flowseg.arrays.labels import clear_border
from flowseg.data.label_files import LabelledImage, labelled_images
from flowseg.data.record import size_differs
from flowseg.errors import FlowsegError
from flowseg.formats.writers import WRITERS, Formats, SegmentedImage
from flowseg.io.image_source import ImageSource, find_image, read_pixel_size
from flowseg.io.outputs import claim_outputs
from flowseg.io.paths import PathLike, find_images


def export_labels(
    labels: PathLike,
    formats: Formats,
    images: PathLike | None = None,
    cell_type: str = "cell",
    *,
    exclude_border: bool = False,
) -> tuple[int, int]:
    """Export every label image of a folder.

    Parameters
    ----------
    labels : path
        A folder of label images named as their images, such as `predict --save-labels` writes;
        or of images and labels: see :func:`flowseg.io.paths.find_labels`; or a COCO JSON file.
    formats : Formats
        At least one.
    images : path, optional
        A folder of their images.
    cell_type : str
        Category of the cells.
    exclude_border : bool
        Whether to leave out the cells that the image's edge cuts.

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
    found = labelled_images(labels)
    files = {} if images is None else {path.stem: path for path in find_images(images)}
    read = [path for item in found.values() for path in (item.path, item.image) if path]
    with claim_outputs(formats.outputs(found), [*read, *files.values()]):
        formats.check()
        parts = []
        cells = 0
        for image_id, item in tqdm(found.items(), desc="exporting", unit="image", delay=2):
            image = find_image(image_id, files) if files else item.find_image()
            if image is None and files:
                raise FlowsegError(f"holds no image {image_id!r}, which has labels", file=images)
            segmented = _segmented(image_id, item, image, cell_type, formats)
            if exclude_border:
                segmented = replace(segmented, labels=clear_border(segmented.labels))
            cells += int(np.count_nonzero(fastremap.unique(segmented.labels)))
            parts.append(formats.write(segmented))
        formats.write_collected(lambda: parts)
    return len(found), cells


def _segmented(
    image_id: str,
    item: LabelledImage,
    image: ImageSource | None,
    cell_type: str,
    formats: Formats,
) -> SegmentedImage:
    labels = item.read()
    pixels = None
    if image is not None and formats.needs_image:
        pixels = image.read()
        if pixels.shape[:2] != labels.shape:
            raise size_differs(image.path, pixels.shape, labels.shape, item.path.name)
    return SegmentedImage(
        image_id=image_id,
        file_name=item.file_name if image is None else image.path.name,
        labels=labels,
        cell_type=cell_type,
        image=pixels,
        pixel_size=(image and image.pixel_size) or read_pixel_size(item.path),
        read_pixels=lambda: pixels,
    )
