"""The only room that reads and writes image files; every write is atomic."""

from __future__ import annotations

import glob
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flowseg._decode import image_shape, read_image
from flowseg._picture import MAX_PIXELS, load_cv2
from flowseg._temporary import discard, is_part, part_of, sweep
from flowseg.errors import FlowsegError
from flowseg.labels import check_labels

__all__ = [
    "IMAGE_SUFFIXES",
    "LABEL_ENDINGS",
    "MAX_PIXELS",
    "PathLike",
    "atomic_folder",
    "atomic_path",
    "check_name",
    "ensure_writable_folder",
    "find_images",
    "image_shape",
    "is_part",
    "load_cv2",
    "read_image",
    "read_labels",
    "write_image",
    "write_labels",
    "write_text",
]

PathLike = str | os.PathLike[str]

IMAGE_SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg")

_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)

LABEL_ENDINGS = ("_cp_masks", "_masks")
"""What the names of label images end in that lie beside their images; the longest first."""


def read_labels(path: PathLike) -> npt.NDArray[np.int32]:
    """Read a label image, (H, W) int32, 0 = background, from a grey PNG or TIFF of integers.

    Raises
    ------
    FlowsegError
        As `read_image`; also if it is a colour image, holds fractions or negative values, or an
        id beyond int32.
    """
    image = read_image(path)
    if image.ndim != 2:
        raise FlowsegError(
            f"is a colour image of {image.shape[2]} channels, not a label image",
            file=path,
            remedy="save the labels as grey values, one integer per cell",
        )
    try:
        return check_labels(image.astype(np.uint8) if image.dtype == bool else image)
    except FlowsegError as error:
        raise FlowsegError(error.problem, file=path, remedy=error.remedy) from error


# --- writing --------------------------------------------------------------------------------


@contextmanager
def atomic_path(path: PathLike) -> Iterator[Path]:
    """A temporary path in the folder of `path`; what is written there replaces `path` at the end.

    A reader sees the old file or the whole new one, and so does whoever starts after a crash or
    a power cut. When the block fails nothing is left behind and `path` is as it was; what a killed
    process left in the folder is removed by the next that writes there.

    Parameters
    ----------
    path : path
        The file to write; its folder must exist.

    Yields
    ------
    Path
        A name that does not exist yet and ends with the name of `path`, suffixes included.

    Raises
    ------
    FlowsegError
        If the file cannot be written: no such folder, no permission, disk full.
    """
    path = Path(path)
    with _beside(path) as part:
        yield part
        _flush(part)
        part.replace(path)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """As `atomic_path`, for a folder that the block makes.

    Unlike a file, an older folder has to go first: a crash at that moment leaves none.
    """
    with _beside(path) as part:
        yield part
        if path.exists():
            shutil.rmtree(path)
        part.replace(path)


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, of which nothing is left at the end."""
    part = part_of(path)
    try:
        sweep(path.parent)
        yield part
    except OSError as error:
        raise FlowsegError(
            f"cannot be written: {error.strerror or error}",
            file=path,
            remedy="choose another place or make room there",
        ) from error
    finally:
        discard(part)


def _flush(path: Path) -> None:
    """Wait until the file is on the disk, so that a power cut cannot leave an empty one."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: PathLike, text: str) -> None:
    """Write `text` as UTF-8 with the line ends it has, atomically."""
    with atomic_path(path) as part:
        part.write_bytes(text.encode())


def write_image(path: PathLike, image: npt.NDArray[Any]) -> None:
    """Write an image as PNG or TIFF, by the suffix of `path`, without loss and atomically.

    Parameters
    ----------
    path : path
        Ends in .png, .tif or .tiff.
    image : ndarray, (H, W) or (H, W, 3)
        uint8 or uint16, grey or red, green, blue.
    """
    path, image = Path(path), np.asarray(image)
    colour = image.ndim == 3 and image.shape[2] == 3
    if image.dtype not in (np.uint8, np.uint16) or not (image.ndim == 2 or colour):
        raise FlowsegError(
            f"cannot hold an array of shape {image.shape} and type {image.dtype}",
            file=path,
            remedy="give (H, W) or (H, W, 3) of uint8 or uint16",
        )
    suffix = path.suffix.lower()
    if suffix in (".tif", ".tiff"):
        _write_tiff(path, image)
    elif suffix == ".png":
        done, data = load_cv2().imencode(".png", image[..., ::-1] if colour else image)
        if not done:  # OpenCV does not tell which
            raise FlowsegError(
                "cannot be packed: it is too large for a PNG, or there is too little memory",
                file=path,
                remedy="name it .tif, or free memory",
            )
        with atomic_path(path) as part:
            part.write_bytes(data.tobytes())
    else:
        raise FlowsegError(
            f"ends in {suffix or 'no suffix'!r}", file=path, remedy="name it .png or .tif"
        )


def write_labels(path: PathLike, labels: npt.NDArray[np.integer[Any]]) -> None:
    """Write a label image as compressed TIFF: uint16, or uint32 where ids exceed 65,535.

    The same labels give the same bytes.
    """
    labels = check_labels(labels)
    wide = labels.size > 0 and int(labels.max()) > np.iinfo(np.uint16).max
    _write_tiff(Path(path), labels.astype(np.uint32 if wide else np.uint16))


def _write_tiff(path: Path, image: npt.NDArray[Any]) -> None:
    import tifffile

    with atomic_path(path) as part:
        tifffile.imwrite(
            part,
            image,
            photometric="rgb" if image.ndim == 3 else "minisblack",
            compression="zlib",
            metadata=None,
            software=False,
        )


def ensure_writable_folder(path: PathLike) -> Path:
    """Make the folder if it is not there, and try to write in it before work starts.

    Raises
    ------
    FlowsegError
        If it cannot be made, is a file, or cannot be written to.
    """
    path = Path(path)
    probe = part_of(path / "probe")
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except FileExistsError as error:
        raise FlowsegError(
            "is a file, but a folder is needed there", file=path, remedy="choose another name"
        ) from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise FlowsegError(
            f"cannot be written to: {reason}", file=path, remedy="choose another folder"
        ) from error
    return path


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
