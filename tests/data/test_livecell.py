"""LIVECell: layouts, damage, and the memory it takes."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowseg.data.livecell import FLAWED, read_livecell, split_livecell
from flowseg.errors import FlowsegError
from flowseg.io import json_stream as jsonscan
from flowseg.io.images import write_image
from flowseg.io.json_stream import LIST, scan_items
from flowseg.io.notes import Note

NAME = "Huh7_Phase_A12_1_02d12h00m_3.tif"
SQUARE = [1.0, 1.0, 4.0, 1.0, 4.0, 3.0, 1.0, 3.0]

Make = Callable[..., Path]


def coco(**changes: Any) -> dict[str, Any]:
    image = {"id": 7, "width": 6, "height": 5, "file_name": NAME}
    cells = [
        {"id": 8, "image_id": 7, "category_id": 1, "segmentation": [SQUARE], "iscrowd": 0},
        {"id": 9, "image_id": 7, "category_id": 1, "segmentation": [[0, 0, 1, 0, 1, 1, 0, 1]]},
    ]
    return {"info": {}, "images": [image], "categories": [], "annotations": cells, **changes}


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write annotations and an image in the mirror's layout; return the LIVECell folder."""

    def write(
        document: dict[str, Any] | str,
        where: str = "LIVECell/livecell_coco_train.json",
        images: str = "livecell_train_val_images/Huh7",
    ) -> Path:
        root = tmp_path / "LIVECell_dataset_2021"
        path = root / "annotations" / where
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(document if isinstance(document, str) else json.dumps(document))
        folder = root / "images" / images
        folder.mkdir(parents=True, exist_ok=True)
        write_image(folder / NAME, np.zeros((5, 6), np.uint8))
        return root

    return write


@pytest.mark.parametrize("images", ["livecell_train_val_images/Huh7", "livecell_test_images", "."])
@pytest.mark.parametrize("inner", [True, False])
def test_layouts(make: Make, images: str, inner: bool) -> None:
    root = make(coco(), images=images)
    (record,) = read_livecell(root if inner else root.parent, ("train",))
    assert record.image_id == NAME.removesuffix(".tif")
    assert (record.cell_type, record.group, record.shape) == ("huh7", "huh7_A12", (5, 6))
    assert record.image().shape == (5, 6)
    assert record.masks().to_strings() == ["8 3 14 3", "1 1"]
    again = pickle.loads(pickle.dumps(record))
    assert again.masks().to_strings() == record.masks().to_strings()


def test_annotations_as_a_dict(make: Make) -> None:
    document = coco()
    document["annotations"] = {str(a["id"]): a for a in document["annotations"]}
    root = make(document, "LIVECell_single_cells/huh7/livecell_huh7_train.json")
    (record,) = read_livecell(root, ("train",))
    assert len(record.masks()) == 2


def test_single_cells_are_read_only_without_the_whole(make: Make) -> None:
    make(coco(annotations=[]), "LIVECell_single_cells/huh7/livecell_huh7_train.json")
    root = make(coco())
    (record,) = read_livecell(root, ("train",))
    assert len(record.masks()) == 2
    assert record.annotation.entries[0].path.parent.name == "LIVECell"


def test_an_image_without_cells(make: Make) -> None:
    (record,) = read_livecell(make(coco(annotations=[])), ("train",))
    assert len(record.masks()) == 0


def test_cells_too_small_for_a_pixel_are_left_out(make: Make) -> None:
    speck = {"image_id": 7, "segmentation": [[2, 2, 2.1, 2, 2.1, 2.1]]}
    document = coco()
    document["annotations"].insert(0, speck)
    (record,) = read_livecell(make(document), ("train",))
    assert record.masks().to_strings() == ["8 3 14 3", "1 1"]


def test_annotations_before_images_and_names_beyond_ascii(make: Make, tmp_path: Path) -> None:
    name = "Zellen_ü_A1.tif"
    document = coco()
    document["images"][0]["file_name"] = name
    document = dict(reversed(document.items()))
    for text in (json.dumps(document), json.dumps(document, ensure_ascii=False)):
        root = make(text)
        write_image(root / "images" / name, np.zeros((5, 6), np.uint8))
        with pytest.raises(FlowsegError, match="holds no image of"):
            read_livecell(root, ("train",))  # `zellen` is no type of LIVECell
        document["images"][0]["file_name"] = f"A172_{name}"
        root = make(json.dumps(document, ensure_ascii=False))
        write_image(root / "images" / f"A172_{name}", np.zeros((5, 6), np.uint8))
        assert read_livecell(root, ("train",))[0].image_id == "A172_Zellen_ü_A1"
        document["images"][0]["file_name"] = name


def test_cell_types_and_splits(make: Make) -> None:
    root = make(coco())
    with pytest.raises(FlowsegError, match="holds no image of a172"):
        read_livecell(root, ("train",), ["a172"])
    with pytest.raises(FlowsegError, match="unknown cell type 'astro'"):
        read_livecell(root, ("train",), ["astro"])
    with pytest.raises(FlowsegError, match="unknown split 'all'"):
        read_livecell(root, ("all",))
    with pytest.raises(FlowsegError, match="holds no annotations of the split 'val'"):
        read_livecell(root)


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ("", "not complete, valid JSON"),
        ("[]", "not complete, valid JSON"),
        ("{", "not complete, valid JSON"),
        ('{"images": [}', "not complete, valid JSON"),
        ('{"images": 3}', "not complete, valid JSON"),
        (json.dumps(coco())[:-40], "not complete, valid JSON"),
        (json.dumps(coco()) + "]", "not complete, valid JSON"),
        ('{"annotations": [' + "[" * 200_000, "nested too deeply"),
        ('{"x": ' + "9" * 10_000 + "}", "4300 digits"),
        (coco(images=[3]), "an image without id"),
        (coco(images=[{"file_name": "a.tif", "width": 6, "height": 5}]), "an image without id"),
        (coco(images=[{"id": 1, "file_name": "a.tif", "width": 6}]), "'a.tif' has no whole height"),
        (coco(images=[{"id": 1, "file_name": "a.tif", "width": 6, "height": "5"}]), "'a.tif' has"),
        (coco(images=[{"id": 1, "file_name": "a.tif", "width": 6, "height": 0}]), "'a.tif' has no"),
        (coco(images=[{"id": 1, "file_name": "a.tif", "width": 10**6, "height": 10**6}]), "large"),
        (coco(images=[]), "lists no image"),
        (coco(annotations=["x"]), "none of its annotations can be used (byte"),
        (coco(annotations=[{"image_id": 7}]), "no segmentation"),
        (coco(annotations=[{"image_id": 7, "segmentation": []}]), "no polygon"),
        (coco(annotations=[{"image_id": 70, "segmentation": [SQUARE]}]), "image 70 is not listed"),
        ('{"images": []}', "has no 'annotations'"),
    ],
)
def test_bad_files(make: Make, document: dict[str, Any] | str, problem: str) -> None:
    root = make(document)
    with pytest.raises(FlowsegError) as error:
        read_livecell(root, ("train",))
    assert problem in str(error.value)
    assert "livecell_coco_train.json" in str(error.value)
    assert "\n" not in str(error.value)


def test_bad_polygons_are_named_when_drawn(make: Make) -> None:
    cells = [{"id": 3, "image_id": 7, "segmentation": [[1, 2, 3, 4, "x", 6]]}]
    (record,) = read_livecell(make(coco(annotations=cells)), ("train",))
    with pytest.raises(FlowsegError, match=r"livecell_coco_train\.json: .*id 3: .* not a number"):
        record.masks()


@pytest.mark.parametrize("folder", ["Huh7/", "Huh7\\", "../", "/etc/"])
def test_names_with_folders_are_names_of_the_files(make: Make, folder: str) -> None:
    document = coco()
    document["images"][0]["file_name"] = folder + NAME
    (record,) = read_livecell(make(document), ("train",))
    assert record.image_id == NAME.removesuffix(".tif")
    assert record.image_path.name == NAME


@pytest.mark.parametrize("name", ["Huh7_x/..", "huh7_..\\", "huh7_\u0000x.tif", "Huh7_a/nul"])
def test_names_that_lead_elsewhere(make: Make, name: str) -> None:
    document = coco()
    document["images"][0]["file_name"] = name
    with pytest.raises(FlowsegError, match=r"not a plain file name|nowhere under images"):
        read_livecell(make(document), ("train",))


def test_text_that_is_not_utf8_beside_the_polygons(make: Make) -> None:
    root = make(coco())
    path = next(root.glob("annotations/*/*.json"))
    path.write_bytes(path.read_bytes().replace(b'"iscrowd": 0', b'"by": "\xfc"'))
    (record,) = read_livecell(root, ("train",))
    assert len(record.masks()) == 2


def test_missing_folders_and_images(make: Make, tmp_path: Path) -> None:
    with pytest.raises(FlowsegError, match="is no folder"):
        read_livecell(tmp_path / "none")
    with pytest.raises(FlowsegError, match="holds no LIVECell_dataset_2021"):
        read_livecell(tmp_path)
    root = make(coco())
    shutil.rmtree(root / "images")
    with pytest.raises(FlowsegError, match="is nowhere under images/"):
        read_livecell(root, ("train",))


class TestRulesThatTheReleaseBreaks:
    """Each image of `listed` has one cell, a square whose edge is its number."""

    @pytest.fixture
    def release(self, tmp_path: Path) -> Callable[..., Path]:
        def write(**listed: list[str]) -> Path:
            (tmp_path / "annotations" / "LIVECell").mkdir(parents=True, exist_ok=True)
            (tmp_path / "images").mkdir(exist_ok=True)
            for split, stems in listed.items():
                images, cells = [], []
                for number, stem in enumerate(stems, 1):
                    name = f"{stem}.tif"
                    write_image(tmp_path / "images" / name, np.zeros((40, 50), np.uint8))
                    images.append({"id": number, "file_name": name, "width": 50, "height": 40})
                    x, y = 10 * (number % 4), number % 30
                    corners = [x, y, x + 8, y, x + 8, y + 8, x, y + 8]
                    cells.append({"id": number, "image_id": number, "segmentation": [corners]})
                path = tmp_path / "annotations" / "LIVECell" / f"livecell_coco_{split}.json"
                path.write_text(json.dumps({"images": images, "annotations": cells}))
            return tmp_path

        return write

    def crops(self, field: str, numbers: str) -> list[str]:
        return [f"{field}_{number}" for number in numbers]

    def test_an_image_listed_twice_is_read_once(self, release: Callable[..., Path]) -> None:
        name = "Huh7_Phase_A10_1_00d00h00m_1"
        root = release(train=[name, "Huh7_Phase_A10_1_00d04h00m_1", name], test=[name])
        notes: list[Note] = []
        first, second = read_livecell(root, ("train",), note=notes.append)
        assert (first.image_id, second.image_id) == (name, "Huh7_Phase_A10_1_00d04h00m_1")
        assert len(first.masks()) == 2  # that of each entry: they lie apart
        assert str(notes[0]).startswith("1 entries of livecell_coco_train.json list an image again")
        assert pickle.loads(pickle.dumps(first)).masks().to_strings() == first.masks().to_strings()
        everything = read_livecell(root, ("train", "test"), note=notes.append)
        assert [record.image_id for record in everything] == [first.image_id, second.image_id]
        assert first.annotation.digest() != everything[0].annotation.digest()

    def test_what_is_validated_is_not_trained_on(self, release: Callable[..., Path]) -> None:
        mostly_val = self.crops("BV2_Phase_B4_1_00d00h00m", "1234")
        mostly_train = self.crops("BV2_Phase_B4_1_00d04h00m", "1234")
        both = "BV2_Phase_B4_2_00d04h00m_1"
        root = release(
            train=[mostly_val[0], *mostly_train[:3], both],
            val=[*mostly_val[1:], mostly_train[3], both],
        )
        notes: list[Note] = []
        training, validation = split_livecell(root, note=notes.append)
        assert [record.image_id for record in training] == mostly_train[:3]
        assert [record.image_id for record in validation] == [*mostly_val[1:], both]
        told = {note.names: note.text for note in notes}
        assert told[(both,)] == "images are listed in train and in val, and only validated"
        assert told[(mostly_val[0],)].startswith("training images are left out")
        assert told[(mostly_train[3],)].startswith("validation images are left out")
        assert told[("bv2_B4",)].startswith("wells are trained on and validated")
        # each alone is the same, and both together are all
        assert [r.image_id for r in read_livecell(root, ("train",))] == mostly_train[:3]
        assert [r.image_id for r in read_livecell(root, ("val",))] == [*mostly_val[1:], both]
        assert len(read_livecell(root)) == 9

    def test_a_validation_of_single_crops_is_still_one(self, release: Callable[..., Path]) -> None:
        fields = [self.crops(f"MCF7_Phase_E4_1_0{day}d00h00m", "1234") for day in range(3)]
        root = release(train=[*fields[0][:3], *fields[1]], val=[fields[0][3]])
        training, validation = split_livecell(root)
        assert [record.image_id for record in training] == fields[1]
        assert [record.image_id for record in validation] == [fields[0][3]]
        root = release(train=fields[0][:3], val=[fields[0][3]])
        with pytest.raises(FlowsegError, match="has 0 images to train on and 1 to validate on"):
            split_livecell(root)

    def test_wells_can_be_separated(self, release: Callable[..., Path]) -> None:
        def images(well: str, days: range) -> list[str]:
            return [f"A172_Phase_{well}_1_0{day}d00h00m_1" for day in days]

        train = [*images("A7", range(4)), *images("B7", range(3)), "BV2_Phase_C4_1_00d00h00m_1"]
        val = [*images("A7", range(4, 6)), *images("B7", range(4, 6)), "BV2_Phase_C4_1_01d00h00m_1"]
        root = release(train=train, val=val)
        notes: list[Note] = []
        training, validation = split_livecell(root, by_well=True, note=notes.append)
        assert {record.group for record in training} == {"a172_A7", "bv2_C4"}
        assert {record.group for record in validation} == {"a172_B7"}
        assert not any("wells are" in note.text for note in notes)
        assert len(split_livecell(root)[1]) == 5

    def test_flawed_images_only_when_asked_for(self, release: Callable[..., Path]) -> None:
        flawed = sorted(FLAWED)
        root = release(train=["BV2_Phase_B4_1_00d00h00m_1", *flawed])
        notes: list[Note] = []
        assert len(read_livecell(root, ("train",), note=notes.append)) == 1
        assert notes[0].names == tuple(flawed)
        assert "data.include_flawed=true" in str(notes[0])
        assert len(read_livecell(root, ("train",), include_flawed=True)) == 1 + len(FLAWED)

    def test_images_that_are_missing_and_files_of_macos(self, release: Callable[..., Path]) -> None:
        root = release(train=["BV2_Phase_B4_1_00d00h00m_1", "BV2_Phase_B4_1_00d00h00m_2"])
        (root / "images" / "BV2_Phase_B4_1_00d00h00m_2.tif").unlink()
        (root / "annotations" / "LIVECell" / "._livecell_coco_train.json").write_bytes(b"\0\5\x16")
        notes: list[Note] = []
        (record,) = read_livecell(root, ("train",), note=notes.append)
        assert record.image_id == "BV2_Phase_B4_1_00d00h00m_1"
        assert notes[0].names == ("BV2_Phase_B4_1_00d00h00m_2.tif",)

    def test_crowds_are_no_cells(self, make: Make) -> None:
        document = coco()
        document["annotations"][0]["iscrowd"] = 1
        notes: list[Note] = []
        (record,) = read_livecell(make(document), ("train",), note=notes.append)
        assert record.masks().to_strings() == ["1 1"]
        assert notes == [Note("images have iscrowd regions, which do not count", (NAME,))]


def test_a_file_that_changes_after_it_was_read(make: Make) -> None:
    root = make(coco())
    (record,) = read_livecell(root, ("train",))
    path = root / "annotations" / "LIVECell" / "livecell_coco_train.json"
    path.write_text(path.read_text().replace("4.0", "3.0"))
    os.utime(path, (1, 1))
    with pytest.raises(FlowsegError, match="has changed"):
        record.masks()
    path.unlink()
    with pytest.raises(FlowsegError, match="cannot be read"):
        record.masks()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=12,
)


class TestScan:
    @pytest.mark.slow
    @settings(max_examples=150, deadline=None)
    @given(
        items=st.lists(json_values, max_size=6),
        other=json_values,
        chunk=st.integers(1, 40),
        indent=st.sampled_from([None, 1]),
        ascii_only=st.booleans(),
        as_dict=st.booleans(),
    )
    def test_every_window_gives_what_json_gives(
        self,
        items: list[Any],
        other: Any,
        chunk: int,
        indent: int | None,
        ascii_only: bool,
        as_dict: bool,
    ) -> None:
        member: Any = {str(i): item for i, item in enumerate(items)} if as_dict else items
        text = json.dumps(
            {"other": other, "items": member}, indent=indent, ensure_ascii=ascii_only
        ).encode("utf-8", "surrogatepass")
        before, jsonscan._CHUNK = jsonscan._CHUNK, chunk
        try:
            found = list(scan_items(io.BytesIO(text), ("items",), lambda _: None))
        finally:
            jsonscan._CHUNK = before
        raw = [
            json.loads(text[item.start : item.end].decode("utf-8", "surrogatepass"))
            for item in found
        ]
        assert raw == items

    def test_an_item_without_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(jsonscan, "_MAX_ITEM", 1000)
        monkeypatch.setattr(jsonscan, "_CHUNK", 100)
        text = b'{"items": ["' + b"x" * 10_000 + b'"]}'
        with pytest.raises(ValueError, match="an item of more than 1,000 bytes"):
            list(scan_items(io.BytesIO(text), ("items",), lambda _: None))

    def test_a_document_that_is_a_list(self) -> None:
        text = b' [{"a": 1}, 2] '
        found = list(scan_items(io.BytesIO(text), (LIST,), lambda _: None, (LIST,)))
        assert [item.value for item in found] == [{"a": 1}, 2]
        for members, document in ((("items",), text), ((LIST,), b'{"items": []}')):
            with pytest.raises(ValueError, match=r"not complete, valid JSON|has no ''"):
                list(scan_items(io.BytesIO(document), members, lambda _: None, members))

    @pytest.mark.slow
    def test_memory_does_not_grow_with_the_file(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(jsonscan, "_CHUNK", 2**14)
        item = json.dumps({"segmentation": [SQUARE * 12]})
        peaks = []
        for count in (400, 8000):
            text = ('{"items": [' + ", ".join([item] * count) + "]}").encode()
            file = io.BytesIO(text)
            tracemalloc.start()
            assert sum(1 for _ in scan_items(file, ("items",), lambda _: None)) == count
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert peaks[1] < 1.3 * peaks[0]

    @pytest.mark.slow
    @settings(
        max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    @given(data=st.data())
    def test_damage_anywhere(self, make: Make, data: st.DataObject) -> None:
        text = bytearray(json.dumps(coco()).encode())
        for _ in range(data.draw(st.integers(1, 4))):
            place = data.draw(st.integers(0, len(text) - 1))
            text[place : place + data.draw(st.integers(0, 3))] = data.draw(
                st.sampled_from(
                    [b"", b"[", b"}", b'"', b",", b"9", b"-", b"\xff", b"null", b"1e999"]
                )
            )
        root = make(text.decode("latin-1"))
        try:
            for record in read_livecell(root, ("train",)):
                record.masks()
        except FlowsegError as error:
            assert str(root) in str(error)  # noqa: PT017


class TestRealData:
    def test_counts(self, real_data: Path) -> None:
        records = read_livecell(real_data)
        assert len(records) == 20
        assert len({r.cell_type for r in records}) == 7
        assert sum(len(r.masks()) for r in records) == 4528
        assert [r.image_id for r in records] == sorted(r.image_id for r in records)
        assert len(read_livecell(real_data, ("val",))) == 5

    def test_list_and_dict_hold_the_same_cells(self, real_data: Path, tmp_path: Path) -> None:
        source = real_data / "LIVECell_dataset_2021"
        root = tmp_path / source.name
        (root / "annotations").mkdir(parents=True)
        (root / "images").symlink_to(source / "images")
        single = root / "annotations" / "LIVECell_single_cells"
        single.symlink_to(source / "annotations" / single.name)
        lists = {r.image_id: r for r in read_livecell(source)}
        dicts = read_livecell(root)
        assert [r.image_id for r in dicts] == list(lists)
        for record in dicts[::4]:
            assert record.masks().to_strings() == lists[record.image_id].masks().to_strings()
