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

from flowseg.data import json_stream as jsonscan
from flowseg.data.json_stream import scan_items
from flowseg.data.livecell import read_livecell
from flowseg.errors import FlowsegError
from flowseg.io.images import write_image

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
    assert record.annotation.path.parent.name == "LIVECell"


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
        (coco(images=[{"id": 1, "file_name": "a.tif", "width": 6}]), "an image without id"),
        (coco(images=[{"id": 1, "file_name": "a.tif", "width": 6, "height": "5"}]), "without id"),
        (coco(images=[{"id": 1, "file_name": "a.tif", "width": 6, "height": 0}]), "without id"),
        (coco(images=[{"id": 1, "file_name": "a.tif", "width": 10**6, "height": 10**6}]), "id"),
        (coco(images=[]), "annotates image 7, which it does not list"),
        (coco(annotations=["x"]), "an annotation without image_id or polygons"),
        (coco(annotations=[{"image_id": 7}]), "an annotation without"),
        (coco(annotations=[{"image_id": 7, "segmentation": {"counts": "a"}}]), "an annotation w"),
        (coco(annotations=[{"image_id": 7, "segmentation": []}]), "an annotation without"),
        (coco(annotations=[{"image_id": 10**30, "segmentation": [SQUARE]}]), "int too big"),
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
    cells = [{"image_id": 7, "segmentation": [[1, 2, 3, 4, "x", 6]]}]
    (record,) = read_livecell(make(coco(annotations=cells)), ("train",))
    with pytest.raises(FlowsegError, match=r"livecell_coco_train\.json: .* not a number"):
        record.masks()


@pytest.mark.parametrize("name", ["Huh7_../x.tif", "huh7_/../../etc/x.tif", "huh7_\\x.tif"])
def test_names_that_lead_elsewhere(make: Make, name: str) -> None:
    document = coco()
    document["images"][0]["file_name"] = name
    with pytest.raises(FlowsegError, match="not a plain file name"):
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


def test_one_image_listed_twice(make: Make) -> None:
    document = coco()
    document["images"].append({**document["images"][0], "id": 70})
    with pytest.raises(FlowsegError, match="lists too"):
        read_livecell(make(document), ("train",))


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
