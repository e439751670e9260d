"""Label images that are there already, in the formats of other tools."""

from __future__ import annotations

from pathlib import Path

from tqdm import tqdm

from flowseg.data.folder import find_labels, read_own_labels
from flowseg.data.record import size_differs
from flowseg.errors import FlowsegError
from flowseg.formats.writers import Exporter, Formats
from flowseg.io.images import read_image
from flowseg.io.paths import PathLike, find_images

__all__ = ["export_labels"]


def export_labels(
    labels: PathLike, formats: Formats, images: PathLike | None = None, cell_type: str = "cell"
) -> tuple[int, int]:
    """Export every label image of a folder.

    Parameters
    ----------
    labels : path
        A folder of label images named as their images, such as `predict --save-labels` writes;
        or of images and labels: see :func:`flowseg.data.folder.read_folder`.
    formats : Formats
        At least one.
    images : path, optional
        A folder of their images.
    cell_type : str
        What the cells are called.

    Returns
    -------
    int, int
        Images and cells.

    Raises
    ------
    FlowsegError
        If no format is named, a label image cannot be read, or its image is missing or has
        another size.
    """
    if formats == Formats():
        raise FlowsegError(
            "no format to export to",
            remedy="name one or more of --rois, --seg-npy, --label-tiff, --coco, --cells",
        )
    found = find_labels(labels)
    pictures = {} if images is None else {path.stem: path for path in find_images(images)}
    missing = sorted(set(found) - set(pictures)) if images is not None else []
    if missing:
        raise FlowsegError(f"holds no image {missing[0]!r}, which has labels", file=images)
    exporter = Exporter(formats)
    cells = 0
    for name, (image, path) in tqdm(found.items(), desc="exporting", unit="image", delay=2):
        own = read_own_labels(path)
        cells += len(set(own[own != 0].tolist()))
        picture = pictures.get(name, image)
        pixels = None
        if picture is not None and formats.seg_npy is not None:
            pixels = read_image(picture)
            if pixels.shape[:2] != own.shape:
                raise size_differs(picture, pixels.shape, own.shape, path.name)
        file_name = Path(picture or path).name
        exporter.add(file_name, own, image=pixels, cell_type=cell_type)
    exporter.close()
    return len(found), cells
