"""Groups from file names: frames of one movie, crops of one picture, fields of one well.

Such images are nearly the same picture, so that folds keep them together. What belongs together is
what names have in common after these parts are taken off their end, again and again:

1. a word and a number, such as ``_t001``, ``-frame12``, ``_crop2``, ``_tile_4``, ``_z3``, ``_s1``,
   ``_x0_y512`` (see `PARTS`), or a time such as ``_02d12h00m`` or ``_2020y11m04d_13h30m``;
2. a number alone that follows one of these or a well, as in ``plate_A12_1``;
3. a number alone, as in ``mouse3_0017``, where the names of a folder have several beginnings with
   several numbers each; ``image_0001`` to ``image_0100`` alone says nothing.

A name in the competition's form of sample ids is of its plate and well.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from flowseg.data.sartorius import group_of_sample

PARTS = (
    *("t", "tp", "time", "timepoint", "frame", "fr", "page", "z", "slice", "plane"),
    *("crop", "tile", "patch", "part", "roi", "x", "y", "row", "col", "aug", "rot", "flip"),
    *("s", "site", "f", "field", "fov", "pos", "position", "ph", "c", "ch", "channel"),
)
"""Words that, with a number, name a frame, part or variant of a picture, or a field of a well."""

_TIME = r"\d{1,4}d\d{1,2}h\d{1,2}m|\d{4}y\d{1,2}m\d{1,2}d|\d{1,4}h\d{1,2}m(?:\d{1,2}s)?"
_PART = re.compile(rf"[-_. ]+(?:(?:{'|'.join(PARTS)})[-_. ]?\d+|{_TIME})$", re.IGNORECASE)
_NUMBER = re.compile(r"[-_. ]+\d+$")
_WELL = re.compile(r"(?:^|[-_. ])[A-P](?:0?[1-9]|1[0-9]|2[0-4])$")
_SAMPLE = re.compile(r"[^_]+_[A-P][0-9]{1,2}-[0-9]+_Vessel-[0-9]+_")


def group_of_name(name: str) -> str:
    """What the name of an image, without suffix, shows of its movie, picture or well.

    Examples
    --------
    >>> group_of_name("m1_t003"), group_of_name("plate_A12_1_02d12h00m_3"), group_of_name("a_7")
    ('m1', 'plate_A12', 'a_7')
    >>> group_of_name("shsy5y[diff]_E10-4_Vessel-714_2019-06-16_11h30m00s_Ph_3")
    'shsy5y[diff]_E10'
    """
    if _SAMPLE.match(name):
        return group_of_sample(name)
    while True:
        shorter = _PART.sub("", name)
        if shorter == name:
            before = _NUMBER.sub("", name)
            if _PART.search(before) or _WELL.search(before):
                shorter = before
        if not shorter or shorter == name:
            return name
        name = shorter


def groups_of_names(names: Iterable[str]) -> dict[str, str]:
    """The group of each name; the name itself where it has nothing in common with another.

    Examples
    --------
    >>> groups_of_names(["a_01", "a_02", "b_01", "b_02", "c"])
    {'a_01': 'a', 'a_02': 'a', 'b_01': 'b', 'b_02': 'b', 'c': 'c'}
    >>> groups_of_names(["image_01", "image_02", "image_03"])
    {'image_01': 'image_01', 'image_02': 'image_02', 'image_03': 'image_03'}
    """
    groups = {name: group_of_name(name) for name in names}
    beginnings = {name: _NUMBER.sub("", name) for name, group in groups.items() if group == name}
    numbered = Counter(start for name, start in beginnings.items() if start not in ("", name))
    several = {start for start, count in numbered.items() if count > 1}
    if len(several) > 1:
        groups |= {name: start for name, start in beginnings.items() if start in several}
    sizes = Counter(groups.values())
    return {
        name: group if sizes[group] > 1 or _SAMPLE.match(name) else name
        for name, group in groups.items()
    }
