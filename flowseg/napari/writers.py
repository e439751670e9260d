"""Labels layers as files, in the formats that flowseg writes for one image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from flowseg.arrays.labels import check_labels
from flowseg.errors import FlowsegError
from flowseg.formats.writers import WRITERS, SegmentedImage

_FORMATS = {".npy": "seg_npy", ".zip": "rois", ".geojson": "geojson", ".csv": "cells"}


def write_cells(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """Write the cells of a Labels layer; the format follows from the suffix.

    Raises
    ------
    FlowsegError
        For a layer of more than two axes, which these formats have no room for.
    """
    file = Path(path)
    labels = np.asarray(data)
    if labels.ndim != 2:
        raise FlowsegError(
            f"{file.name} holds the cells of one image, and the layer has {labels.ndim} axes",
            remedy="save one frame, or the layer as TIFF",
        )
    writer = WRITERS[_FORMATS[file.suffix.lower()]]
    name = str(attributes.get("name", file.stem))
    item = SegmentedImage(image_id=name, file_name=f"{name}.tif", labels=check_labels(labels))
    writer.write(file, item)
    return [path]
