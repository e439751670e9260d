"""Safe file names, and the listings of images and label files that every command uses."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from flowseg.errors import FlowsegError

PathLike = str | os.PathLike[str]

IMAGE_SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg")

_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)

_LABEL_ENDINGS = ("_cp_masks", "_masks", "_labels")  # beside their images; longest first
_LABEL_FOLDERS = ("masks", "labels")
_LABEL_ENDINGS_APART = (*_LABEL_ENDINGS, "_mask", "_label")  # in a folder of label files

SEG_SUFFIX = "_seg.npy"
"""Ending of Cellpose's files."""

LAYOUTS = (
    "NAME.tif beside NAME_masks.tif, NAME_labels.tif (also .png, .zarr) or NAME_seg.npy, or "
    "masks/ or labels/ beside the images or beside images/"
)
"""Layouts of a folder of images and labels, for messages."""

_LABEL_SUFFIXES = (".tif", ".tiff", ".png", ".zarr")


def check_name(name: str, *, file: PathLike | None = None) -> str:
    """Return a name from the untrusted `file`, if it is a plain one that stays inside its folder.

    Raises FlowsegError if it is empty, `.` or `..`, longer than 200 characters, a device of Windows
    such as `nul`, or holds a slash, a backslash, a colon, a control character or bytes that are no
    text.

    Examples
    --------
    >>> check_name("0030fd0e6378")
    '0030fd0e6378'
    >>> check_name("../../etc/passwd")
    Traceback (most recent call last):
    flowseg.errors.FlowsegError: the image name '../../etc/passwd' is not a plain file name
    """
    reserved = name in ("", ".", "..") or len(name) > 200 or _DEVICE.fullmatch(name)
    if reserved or re.search(r"[/\\:\x00-\x1f\x7f\ud800-\udfff]", name):
        shown = name if len(name) <= 60 else f"{name[:60]}..."
        raise FlowsegError(f"the image name {shown!r} is not a plain file name", file=file)
    return name


def find_images(pattern: PathLike) -> list[Path]:
    """The image files of a folder, a glob, or a single file, in natural order of their names.

    A folder's are its own, not those of folders within. Files are recognised by `IMAGE_SUFFIXES`,
    in upper or lower case, a single one is taken whatever its suffix; hidden files are left out,
    and so are label images beside their image, such as `NAME_masks.tif` beside `NAME.tif`. A folder
    or glob whose name ends in .zarr stands for Zarr arrays. Raises FlowsegError if no image is
    found, or two images have one stem and would be one in the results.
    """
    return list(_by_stem(_images_of(pattern)).values())


def _images_of(pattern: PathLike, *, recursive: bool = False) -> list[Path]:
    """The same, where images of several folders may share a name."""
    path = Path(pattern)
    zarr = path.suffix.lower() == ".zarr"
    try:
        if path.is_file() or (zarr and path.exists()):
            return [path]
        if path.is_dir():
            hits = list(path.rglob("*") if recursive else path.iterdir())
        elif glob.has_magic(str(pattern)):
            hits = glob_files(str(pattern))
        else:
            raise FlowsegError("is neither a folder nor an image", file=path)
    except (OSError, ValueError, re.error) as error:
        raise FlowsegError(f"cannot be read: {error}", file=path) from error
    images = sorted((hit for hit in hits if zarr or _is_image(hit)), key=_natural)
    if not images and path.is_dir() and any(map(_is_image, path.rglob("*"))):
        raise FlowsegError(
            "holds no image itself, but folders that do",
            file=path,
            remedy="look into them with --recursive, or with a glob such as '**/*.png'",
        )
    if not images:
        raise FlowsegError(
            "holds no image" if path.is_dir() else "matches no image",
            file=path,
            remedy=f"images end in {', '.join(IMAGE_SUFFIXES)}",
        )
    names = {(image.parent, image.stem) for image in images}
    return [image for image in images if (image.parent, _labelled_image(image)) not in names]


def glob_files(pattern: str) -> list[Path]:
    """What a glob matches; brackets that match nothing as a class of letters are taken literally.

    The names of the competition's images hold brackets.
    """
    hits = glob.glob(pattern, recursive=True)  # noqa: PTH207
    hits = hits or glob.glob(pattern.replace("[", "[[]"), recursive=True)  # noqa: PTH207
    return [Path(hit) for hit in hits]


def find_inputs(patterns: Iterable[str], data: PathLike, *, recursive: bool = False) -> list[Path]:
    """The images of several patterns of `find_images`, each image once.

    A relative pattern that matches nothing here is looked for in the folder `data`. Folders within
    folders are looked into with `recursive`. See `image_names` for images that share a name.

    Raises
    ------
    FlowsegError
        If a pattern matches no image, or two images would be one in the results.
    """
    found: list[Path] = []
    for pattern in patterns:
        inside = os.path.join(data, pattern)  # noqa: PTH118  (a glob is no path)
        places = [p for p in (pattern, inside) if Path(p).exists() or glob_files(p)]
        if not places:
            raise FlowsegError(
                f"is neither here nor in the data folder {os.fspath(data)!r}",
                file=pattern,
                remedy="name a folder, an image or a quoted glob",
            )
        found += _images_of(places[0], recursive=recursive)
    found = list({path.resolve(): path for path in reversed(found)}.values())[::-1]
    image_names(found)
    return found


def image_names(files: Sequence[Path]) -> dict[Path, str]:
    """The name of each image in the results: that of its file without the suffix.

    Where two files share it, as in the wells of a plate, the folders that they do not share come
    before the names of all.

    Raises
    ------
    FlowsegError
        If two images would still have one name.

    Examples
    --------
    >>> list(image_names([Path("plate/A1/s1.png"), Path("plate/A2/s1.png")]).values())
    ['A1_s1', 'A2_s1']
    """
    names = {path: path.stem for path in files}
    if len(set(names.values())) < len(names) and len({path.parent for path in files}) > 1:
        top = Path(os.path.commonpath([path.absolute().parent for path in files]))
        for path in files:
            folders = path.absolute().parent.relative_to(top).parts
            names[path] = "_".join((*folders, path.stem))
    found: dict[str, Path] = {}
    for path, name in names.items():
        if (other := found.setdefault(name, path)) != path:
            raise _same_name(other, path, name)
    return names


def match_labels(folder: PathLike) -> tuple[dict[str, Path], dict[str, Path]]:
    """The image files and the label files of a folder, each by image id, in natural order.

    Parameters
    ----------
    folder : path
        Holds images and beside them label files: ``NAME.tif`` (or another image file) and
        ``NAME_masks.tif``, ``NAME_cp_masks.tif`` or ``NAME_labels.tif`` (or .png or .zarr), or
        ``NAME_seg.npy``; or label files in a folder ``masks/`` or ``labels/``, there also with the
        names of their images, which lie in ``images/`` or beside that folder.

    Returns
    -------
    images, labels : dict of Path
        In natural order of the files' names. An image may lack labels, and labels their image.

    Raises
    ------
    FlowsegError
        If it is no folder, two images have one name, or an image has two label files.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FlowsegError("is no folder", file=folder, remedy=f"name a folder of {LAYOUTS}")
    beside = any(map(_labelled_image, folder.iterdir()))
    found = [] if beside else [folder / name for name in _LABEL_FOLDERS if (folder / name).is_dir()]
    if len(found) > 1:
        raise FlowsegError(
            "holds masks/ and labels/", file=folder, remedy="move one of them elsewhere"
        )
    images = folder / "images" if found and (folder / "images").is_dir() else folder
    apart = bool(found)
    labels: dict[str, Path] = {}
    for path in sorted((found[0] if apart else images).iterdir(), key=_natural):
        name = _labelled_image(path, _LABEL_ENDINGS_APART if apart else _LABEL_ENDINGS)
        name = name or (path.stem if apart else None)
        readable = path.name.endswith(SEG_SUFFIX) or path.suffix.lower() in _LABEL_SUFFIXES
        if name is None or not readable or path.name.startswith("."):
            continue
        other = labels.setdefault(name, path)
        if other != path:
            raise FlowsegError(
                f"has two label files: {other.name} and {path.name}",
                file=images / name,
                remedy="keep one of them in the folder",
            )
    files = [path for path in images.iterdir() if _is_image(path)]
    files = [path for path in files if apart or _labelled_image(path) is None]
    return _by_stem(sorted(files, key=_natural)), labels


def find_labels(folder: PathLike) -> dict[str, tuple[Path | None, Path]]:
    """The label files of a folder by image id, each with its image where that is in the folder.

    The folder is as for `match_labels`, or holds label images only, each named as its image.
    """
    images, labels = match_labels(folder)
    if labels:
        return {name: (images.get(name), path) for name, path in labels.items()}
    stores = sorted(Path(folder).glob("*.zarr"), key=_natural)
    alone = [*stores, *(find_images(folder) if images or not stores else ())]
    return {name: (None, path) for name, path in _by_stem(alone).items()}


def _is_image(path: Path) -> bool:
    hidden = path.name.startswith(".")
    # A link to a file that is not there is no image either, but whoever reads it says so.
    there = path.is_file() or (path.is_symlink() and not path.exists())
    return path.suffix.lower() in IMAGE_SUFFIXES and not hidden and there


def _labelled_image(path: Path, endings: Sequence[str] = _LABEL_ENDINGS) -> str | None:
    """The name of the image that a file is named after as its labels; None for another file."""
    if path.name.endswith(SEG_SUFFIX):
        return path.name.removesuffix(SEG_SUFFIX)
    return next((path.stem.removesuffix(e) for e in endings if path.stem.endswith(e)), None)


def _natural(path: Path) -> tuple[list[tuple[int, int, str]], str]:
    """Order `cell2` before `cell10`."""
    parts = re.findall(r"[0-9]+|[^0-9]+", path.name)
    return [(0, int(p), "") if p[0] in "0123456789" else (1, 0, p) for p in parts], str(path)


def _by_stem(images: Iterable[Path]) -> dict[str, Path]:
    """The images by their names without suffix, which no two may share."""
    found: dict[str, Path] = {}
    for image in images:
        other = found.setdefault(image.stem, image)
        if other is not image and other.resolve() != image.resolve():
            raise _same_name(other, image, image.stem)
    return found


def _same_name(one: Path, other: Path, name: str) -> FlowsegError:
    return FlowsegError(
        f"has the same name as {other}, so both would be {name!r} in the results",
        file=one,
        remedy="rename one of them or predict them apart",
    )


def sha256_of(path: PathLike) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    total = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(2**24):
            total.update(block)
    return total.hexdigest()
