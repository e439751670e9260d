"""HTML pages: single files that fetch nothing, made from the templates in this folder."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from flowseg._version import __version__
from flowseg.errors import FlowsegError
from flowseg.io.atomic import write_text
from flowseg.io.opencv import load_cv2
from flowseg.io.paths import PathLike

_FOLDER = Path(__file__).parent


class Picture(NamedTuple):
    """An image inside a page.

    `source` is a `data:` address that holds it; `alt` is read out instead of it. It is shown in the
    given size in pixels, at most in the width of the page.
    """

    source: str
    caption: str
    alt: str
    width: int
    height: int


def picture(
    image: NDArray[np.uint8], caption: str, *, alt: str | None = None, width: int | None = None
) -> Picture:
    """An (H, W, 3) uint8 RGB image as JPEG for a page.

    It is shown in its own width, or in that of `width` pixels.
    """
    cv2 = load_cv2()
    # colours at full resolution: at half of it lines one pixel wide turn grey
    options = [cv2.IMWRITE_JPEG_QUALITY, 80]
    options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    done, data = cv2.imencode(".jpg", image[..., ::-1], options)
    if not done:  # OpenCV does not tell which
        raise FlowsegError(
            "a picture is too large for a page, or there is too little memory",
            remedy="use smaller images, or free memory",
        )
    width = width or image.shape[1]
    return Picture(
        source="data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode(),
        caption=caption,
        alt=caption if alt is None else alt,
        width=width,
        height=round(image.shape[0] * width / max(1, image.shape[1])),
    )


def write_page(path: PathLike, template: str, **values: object) -> None:
    """Render a template of this folder, which extends `base.html.j2`, and write the page.

    All text among the values but `Markup` is escaped.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"readable": _readable, "numeric": _numeric}
    style, script = ((_FOLDER / name).read_text("utf-8") for name in ("page.css", "page.js"))
    page = environment.get_template(template).render(
        values,
        style=Markup(style),
        script=Markup(script),
        # Whatever a name in the data might hold: no script but this one runs.
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        version=__version__,
    )
    write_text(path, page)


def _numeric(rows: Sequence[Mapping[str, object]], name: str) -> bool:
    """Whether a column of a table holds numbers."""
    return any(not isinstance(row[name], str | None) for row in rows)


def _readable(number: float) -> str:
    """A number as short as it can be read."""
    if isinstance(number, int | np.integer):
        return f"{number:,}"
    digits = 3 if abs(number) < 1 else 2 if abs(number) < 10 else 1
    return f"{number:,.{digits}f}"
