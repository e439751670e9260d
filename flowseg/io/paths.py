"""Names of files: which are safe, and which are images."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

from flowseg.errors import FlowsegError

__all__ = ["IMAGE_SUFFIXES", "LABEL_ENDINGS", "PathLike", "check_name", "find_images", "sha256_of"]

PathLike = str | os.PathLike[str]

IMAGE_SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg")

_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)

LABEL_ENDINGS = ("_cp_masks", "_masks")
"""What the names of label images end in that lie beside their images; the longest first."""


# --- names ----------------------------------------------------------------------------------


def check_name(name: str, *, file: PathLike | None = None) -> str:
    """Return `name` if it is a plain file name, one that cannot lead out of a folder.

    Parameters
    ----------
    name : str
        An image id or file name that came from a file or a stranger.
    file : path, optional
        Where it came from, for the message.

    Raises
    ------
    FlowsegError
        If it is empty, `.` or `..`, longer than 200 characters, a device of Windows such as `nul`,
        or holds a slash, a backslash, a colon, a control character or bytes that are no text.

    Examples
    --------
    >>> check_name("0030fd0e6378")
    '0030fd0e6378'
    >>> check_name("../../etc/passwd")
    Traceback (most recent call last):
    flowseg.errors.FlowsegError: the image name '../../etc/passwd' is not a plain file name
    """
    led = name in ("", ".", "..") or len(name) > 200 or _DEVICE.fullmatch(name)
    if led or re.search(r"[/\\:\x00-\x1f\x7f\ud800-\udfff]", name):
        shown = name if len(name) <= 60 else f"{name[:60]}..."
        raise FlowsegError(f"the image name {shown!r} is not a plain file name", file=file)
    return name


def find_images(pattern: PathLike) -> list[Path]:
    """The image files of a folder, a glob, or a single file, in natural order of their names.

    Parameters
    ----------
    pattern : path
        A folder (its own image files, not those of folders within), a file, or a glob.

    Returns
    -------
    list of Path
        At least one. Files are recognised by `IMAGE_SUFFIXES`, in upper or lower case; hidden
        files are passed over, and so are label images that lie beside their image, such as
        `NAME_masks.tif` beside `NAME.tif`. A file that is named is taken whatever it is.

    Raises
    ------
    FlowsegError
        If nothing is there, or two images have one stem and would be one in the results.
    """
    path = Path(pattern)
    try:
        if path.is_file():
            return [path]
        if path.is_dir():
            hits = list(path.iterdir())
        elif glob.has_magic(str(pattern)):
            hits = [Path(hit) for hit in glob.glob(str(pattern), recursive=True)]  # noqa: PTH207
        else:
            raise FlowsegError("is neither a folder nor an image", file=path)
    except (OSError, ValueError, re.error) as error:
        raise FlowsegError(f"cannot be read: {error}", file=path) from error
    images = sorted(
        (
            hit
            for hit in hits
            if hit.suffix.lower() in IMAGE_SUFFIXES
            and not hit.name.startswith(".")
            and hit.is_file()
        ),
        key=_natural,
    )
    if not images:
        raise FlowsegError(
            "holds no image" if path.is_dir() else "matches no image",
            file=path,
            remedy=f"images end in {', '.join(IMAGE_SUFFIXES)}",
        )
    images = _without_labels(images)
    _check_stems(images)
    return images


def _without_labels(images: list[Path]) -> list[Path]:
    here = {(image.parent, image.stem) for image in images}
    return [
        image
        for image in images
        if not any(
            image.stem.endswith(end) and (image.parent, image.stem.removesuffix(end)) in here
            for end in LABEL_ENDINGS
        )
    ]


def _natural(path: Path) -> tuple[list[tuple[int, int, str]], str]:
    """Order `cell2` before `cell10`."""
    pieces = re.findall(r"[0-9]+|[^0-9]+", path.name)
    return [(0, int(p), "") if p[0] in "0123456789" else (1, 0, p) for p in pieces], str(path)


def _check_stems(images: Iterable[Path]) -> None:
    seen: dict[str, Path] = {}
    for image in images:
        other = seen.setdefault(image.stem, image)
        if other is not image:
            raise FlowsegError(
                f"has the same name as {image}, so both would be {image.stem!r} in the results",
                file=other,
                remedy="rename one of them or predict them apart",
            )


def sha256_of(path: PathLike) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    total = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(2**24):
            total.update(block)
    return total.hexdigest()
