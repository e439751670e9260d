"""The competition's layout, and what can be wrong with it."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowseg.data.sartorius import (
    COLUMNS,
    FLAWED_IDS,
    group_of_sample,
    read_annotations,
    read_sartorius,
)
from flowseg.errors import FlowsegError
from flowseg.io.images import write_image
from flowseg.io.notes import Note
from flowseg.io.tables import write_table

HEAD = "id,annotation,width,height,cell_type,plate_time,sample_date,sample_id,elapsed_timedelta\n"
SAMPLE = "shsy5y[diff]_E10-4_Vessel-714_Ph_3"

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write rows of (id, annotation, width, height, cell_type, sample_id) and their images."""

    def write(*rows: tuple[object, ...], images: bool = True) -> Path:
        full = [(*row[:5], "", "", row[5] if len(row) > 5 else "", "") for row in rows]
        write_table(tmp_path / "train.csv", pd.DataFrame(full, columns=COLUMNS))
        (tmp_path / "train").mkdir(exist_ok=True)
        for image_id in {str(row[0]) for row in rows} if images else ():
            if "/" not in image_id and image_id:
                write_image(tmp_path / "train" / f"{image_id}.png", np.zeros((4, 6), np.uint8))
        return tmp_path

    return write


def test_records(make: Make) -> None:
    folder = make(
        ("b", "1 2 8 1", 6, 4, "cort"),
        ("a", "1 3", 6, 4, "shsy5y", SAMPLE),
        ("b", "2 3", 6, 4, "cort"),
    )
    first, second = read_sartorius(folder)
    assert (first.image_id, first.cell_type, first.shape) == ("a", "shsy5y", (4, 6))
    assert (first.group, second.group) == ("shsy5y[diff]_E10", "b")
    assert second.masks().to_strings() == ["1 2 8 1", "2 3"]
    assert second.image().shape == (4, 6)
    assert second.image().dtype == np.float32
    again = pickle.loads(pickle.dumps(second))
    assert again.masks().to_strings() == second.masks().to_strings()


def test_cell_types(make: Make) -> None:
    folder = make(("a", "1 1", 6, 4, "cort"), ("b", "1 1", 6, 4, "astro"))
    assert [r.image_id for r in read_sartorius(folder, ["astro"])] == ["b"]
    with pytest.raises(FlowsegError, match="unknown cell type 'neuron'"):
        read_sartorius(folder, ["neuron"])
    with pytest.raises(FlowsegError, match="lists no image of shsy5y"):
        read_sartorius(folder, ["shsy5y"])


def test_flawed_images_only_when_asked_for(make: Make) -> None:
    folder = make(*((i, "1 1", 6, 4, "shsy5y") for i in (*FLAWED_IDS, "a")))
    assert [r.image_id for r in read_sartorius(folder)] == ["a"]
    assert len(read_sartorius(folder, include_flawed=True)) == 1 + len(FLAWED_IDS)


def test_what_is_left_out_is_told(make: Make) -> None:
    folder = make(*((i, "1 1", 6, 4, "cort") for i in ("ce5d0de993bd", "a")))
    notes: list[Note] = []
    assert [record.image_id for record in read_sartorius(folder, note=notes.append)] == ["a"]
    assert [note.names for note in notes] == [("ce5d0de993bd",)]
    assert str(notes[0]).endswith("data.include_flawed=true takes them in")


def test_an_image_without_cells(make: Make) -> None:
    (record,) = read_sartorius(make(("a", "", 6, 4, "cort")))
    assert len(record.masks()) == 0


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        (("a", "1 2 3", 6, 4, "cort"), "row 3: the annotation holds an odd count"),
        (("a", "1 x", 6, 4, "cort"), "row 3: the annotation holds something that is not a whole"),
        (("a", "1 2.5", 6, 4, "cort"), "row 3: the annotation holds something that is not a whole"),
        (("a", "24 2", 6, 4, "cort"), "row 3: the annotation runs past the last pixel"),
        (("a", "1 " + "9" * 18, 6, 4, "cort"), "row 3: the annotation runs past"),
        (("a", "0 2", 6, 4, "cort"), "row 3: the annotation holds a start below 1"),
        (("a", "-5 2", 6, 4, "cort"), "row 3: the annotation holds something"),
        (("a", "5 0", 6, 4, "cort"), "row 3: the annotation holds a length below 1"),
        (("a", "", 6, 4, "cort"), "row 3: the annotation is blank"),
        (("a", "1 1", 7, 4, "cort"), "row 3: width, height or cell type of 'a' differ"),
        (("a", "1 1", 6, 4, "astro"), "row 3: width, height or cell type of 'a' differ"),
        (("b", "1 1", 6, 4, "neuron"), "row 3: unknown cell type 'neuron'"),
        (("b", "1 1", 6, 4, ""), "row 3: unknown cell type ''"),
        (("b", "1 1", "", 4, "cort"), "row 3: width or height is no whole number"),
        (("b", "1 1", "6.0", 4, "cort"), "row 3: width or height is no whole number"),
        (("b", "1 1", 6, -4, "cort"), "row 3: width or height is no whole number"),
        (("b", "1 1", 0, 4, "cort"), "row 3: an image of 0 x 4 pixels"),
        (("b", "1 1", 99_999_999, 99_999_999, "cort"), "row 3: an image of"),
        (("../b", "1 1", 6, 4, "cort"), "row 3: the image name '../b' is not a plain file name"),
        (("/etc/passwd", "1 1", 6, 4, "cort"), "row 3: the image name"),
        (("", "1 1", 6, 4, "cort"), "row 3: the image name ''"),
    ],
)
def test_a_bad_row(make: Make, bad: tuple[object, ...], problem: str) -> None:
    folder = make(("a", "1 1", 6, 4, "cort"), bad)
    for read in (read_sartorius, lambda f: read_annotations(f / "train.csv")):
        with pytest.raises(FlowsegError) as error:
            read(folder)
        assert problem in str(error.value)
        assert str(folder / "train.csv") in str(error.value)
        assert "\n" not in str(error.value)


def test_missing_things(tmp_path: Path, make: Make) -> None:
    with pytest.raises(FlowsegError, match="is no folder"):
        read_sartorius(tmp_path / "none")
    with pytest.raises(FlowsegError, match=r"holds no train\.csv"):
        read_sartorius(tmp_path)
    folder = make(("a", "1 1", 6, 4, "cort"), images=False)
    with pytest.raises(FlowsegError, match="the image of 'a' is missing") as error:
        read_sartorius(folder)
    assert "a.png" in str(error.value)
    (folder / "train.csv").write_text("id,annotation\n")
    with pytest.raises(FlowsegError, match="has no column 'width', 'height', 'cell_type'"):
        read_sartorius(folder)


def test_the_image_has_another_size(make: Make) -> None:
    folder = make(("a", "1 1", 6, 4, "cort"))
    (record,) = read_sartorius(folder)
    write_image(folder / "train" / "a.png", np.zeros((4, 7), np.uint8))
    with pytest.raises(FlowsegError, match="is 7 x 4 pixels") as error:
        read_sartorius(folder)
    assert str(folder / "train" / "a.png") in str(error.value)
    with pytest.raises(FlowsegError, match="but its annotation says 6 x 4"):
        record.image()


def test_a_truncated_image_is_noticed_on_reading(make: Make) -> None:
    folder = make(("a", "1 1", 6, 4, "cort"))
    path = folder / "train" / "a.png"
    path.write_bytes(path.read_bytes()[:-20])
    (record,) = read_sartorius(folder)
    with pytest.raises(FlowsegError, match="is cut off"):
        record.image()


@pytest.mark.parametrize(
    ("sample", "group"),
    [
        (SAMPLE, "shsy5y[diff]_E10"),
        ("astros_A1-2_Vessel-3_Ph_1", "astros_A1"),
        ("cort_B2", "cort_B2"),
        ("cort", "cort"),
        ("", ""),
        ("  ", ""),
    ],
)
def test_groups(sample: str, group: str) -> None:
    assert group_of_sample(sample) == group


@pytest.mark.slow
@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.text(max_size=200).map(lambda text: (HEAD + text).encode("utf-8", "replace")),
        st.lists(
            st.lists(
                st.sampled_from(
                    ["a", "b", "6", "4", "1 1", "9 9 9", "", "cort", "astro", '"', "-"]
                ),
                min_size=8,
                max_size=10,
            ),
            max_size=4,
        ).map(lambda rows: (HEAD + "\n".join(",".join(row) for row in rows)).encode()),
    )
)
def test_anything_is_read_or_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "train.csv"
    path.write_bytes(content)
    try:
        read_annotations(path)
    except FlowsegError as error:
        assert str(path) in str(error)  # noqa: PT017


class TestRealData:
    def test_counts(self, real_data: Path) -> None:
        records = read_sartorius(real_data)
        cells = dict.fromkeys(("cort", "astro", "shsy5y"), 0)
        for record in records:
            cells[record.cell_type] += len(record.masks())
        assert len(records) == 36
        assert cells == {"cort": 617, "astro": 606, "shsy5y": 3331}
        (with_well,) = [r for r in records if r.image_id == "0030fd0e6378"]
        assert with_well.group == "shsy5y[diff]_E10"
        assert all(r.group == r.image_id for r in records if r is not with_well)
        assert records[0].image().shape == (520, 704)

    def test_annotations_without_images(self, real_data: Path) -> None:
        path = real_data / "annotations_without_images.csv.gz"
        images = read_annotations(path)
        assert len(images) == 379
        assert sum(len(image.masks) for image in images.values()) == 29_044
