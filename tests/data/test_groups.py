"""What file names show of movies, pictures and wells."""

from __future__ import annotations

import pytest

from flowseg.data.groups import group_of_name, groups_of_names


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("m1_t000", "m1"),
        ("mouse 3 frame 12", "mouse 3"),
        ("scan-Crop2", "scan"),
        ("slide7_x0_y512", "slide7"),
        ("slide7_tile_4_rot90", "slide7"),
        ("exp_A01_s2_t03", "exp_A01"),
        ("exp_A01_3", "exp_A01"),
        ("VID12_B3_1_2020y11m04d_13h30m", "VID12_B3"),
        ("Huh7_Phase_A12_1_02d12h00m_3", "Huh7_Phase_A12"),
        ("cort[oka-high]_B5-1_Vessel-377_2020-11-04_13h30m00s_Ph_1", "cort[oka-high]_B5"),
        # these show nothing
        ("image_0012", "image_0012"),
        ("t001", "t001"),
        ("_t001", "_t001"),
        ("0030fd0e6378", "0030fd0e6378"),
        ("ctrl_day", "ctrl_day"),
        ("", ""),
    ],
)
def test_the_group_that_a_name_shows(name: str, group: str) -> None:
    assert group_of_name(name) == group


def test_numbers_alone_show_it_where_there_are_several_beginnings() -> None:
    names = ["a_0001", "a_0002", "b-1", "b-2", "c_0001", "d"]
    groups = groups_of_names(names)
    assert groups == dict(zip(names, ["a", "a", "b", "b", "c_0001", "d"], strict=True))
    one_beginning = ["a_0001", "a_0002", "c_0001", "d"]
    assert groups_of_names(one_beginning) == {name: name for name in one_beginning}


def test_a_group_of_one_has_the_name_of_its_image() -> None:
    assert groups_of_names(["m1_t1", "m2_t1", "m2_t2"]) == {
        "m1_t1": "m1_t1",
        "m2_t1": "m2",
        "m2_t2": "m2",
    }
