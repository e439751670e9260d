"""A page that a person reads: one HTML file that fetches nothing and shows in any browser."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flowseg._version import __version__
from flowseg.errors import FlowsegError
from flowseg.io.atomic import write_text
from flowseg.io.opencv import load_cv2
from flowseg.io.paths import PathLike

__all__ = ["Html", "data_table", "picture", "section", "tag", "write_page"]

_VOID = ("img", "input", "meta")


class Html(str):
    """Text that is markup already; all other text is escaped."""

    __slots__ = ()


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """An element; what is not `Html` is escaped.

    Parameters
    ----------
    name : str
        Of the element.
    *children : Html, str, number or None
        None is left out.
    **attributes : str, number or None
        An underscore at the end is dropped, others become hyphens; None is left out.

    Examples
    --------
    >>> tag("p", "a < b", tag("b", 3), class_="note")
    '<p class="note">a &lt; b<b>3</b></p>'
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Html(f"<{name}{given}>")
    inside = "".join(_markup(child) for child in children if child is not None)
    return Html(f"<{name}{given}>{inside}</{name}>")


def _markup(child: object) -> str:
    return child if isinstance(child, Html) else html.escape(str(child))


def section(title: str, *children: object, note: str | None = None) -> Html:
    """A part of the page under a heading."""
    said = None if note is None else tag("p", note, class_="note")
    name = "".join(letter if letter.isalnum() else "-" for letter in title.lower())
    return tag("section", tag("h2", title), said, *children, id=name)


def data_table(rows: Sequence[Mapping[str, object]], *, search: bool = False) -> Html:
    """A table whose columns sort when their names are clicked.

    Parameters
    ----------
    rows : sequence of mapping
        Values by the names of the columns, the same in each. Numbers are aligned to the right
        and shown short; None is a dash.
    search : bool
        Whether there is a field above it that leaves only the rows with what is typed there.
    """
    numeric = {name for row in rows for name, value in row.items() if _is_number(value)}
    head = [
        tag("th", tag("button", name, type="button"), class_="n" if name in numeric else None)
        for name in (rows[0] if rows else ())
    ]
    body = [tag("tr", *(_cell(value) for value in row.values())) for row in rows]
    table = tag("table", tag("thead", tag("tr", *head)), tag("tbody", *body))
    field = None
    if search:
        words = f"filter {len(body)} rows"
        field = tag("input", type="search", placeholder=words, aria_label=words)
    return tag("div", field, tag("div", table, class_="scroll"), class_="data")


def _is_number(value: object) -> bool:
    return value is not None and not isinstance(value, str)


def _cell(value: object) -> Html:
    if not _is_number(value):
        return tag("td", "–" if value is None else value)
    number = float(value)  # type: ignore[arg-type]
    whole = isinstance(value, int | np.integer)
    places = 0 if whole else 3 if abs(number) < 1 else 2 if abs(number) < 10 else 1
    return tag("td", f"{number:,.{places}f}", class_="n", data_v=repr(number))


def picture(image: NDArray[np.uint8], alt: str, width: int | None = None) -> Html:
    """An RGB image, (H, W, 3) uint8, inside the page.

    Parameters
    ----------
    image : ndarray
    alt : str
        What it shows.
    width : int, optional
        In which it is shown, in pixels; by default its own, at most that of the page.
    """
    cv2 = load_cv2()
    # colours at full resolution: at half of it lines one pixel wide turn grey
    how = [cv2.IMWRITE_JPEG_QUALITY, 80]
    how += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    done, data = cv2.imencode(".jpg", image[..., ::-1], how)
    if not done:  # OpenCV does not tell which
        raise FlowsegError(
            "a picture is too large for a page, or there is too little memory",
            remedy="use smaller images, or free memory",
        )
    source = "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()
    height = None if width is None else round(image.shape[0] * width / image.shape[1])
    return tag(
        "img",
        src=source,
        alt=alt,
        width=width or image.shape[1],
        height=height or image.shape[0],
        loading="lazy",
    )


def write_page(path: PathLike, title: str, sections: Sequence[Html]) -> None:
    """Write the page, atomically."""
    style, script = (
        Path(__file__).with_name(name).read_text(encoding="utf-8")
        for name in ("page.css", "page.js")
    )
    # Whatever a name in the data might hold: no script but this one runs, nothing is fetched.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    policy += f"; script-src 'sha256-{digest}'"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Html(style)),
    )
    foot = tag("footer", f"written by flowseg {__version__}")
    body = tag("body", tag("main", tag("h1", title), *sections, foot), tag("script", Html(script)))
    write_text(path, "<!doctype html>\n" + tag("html", head, body, lang="en") + "\n")
