"""Files: written whole or not at all, under names that lead nowhere else, and found again."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import tifffile

from flowseg.errors import FlowsegError
from flowseg.io.atomic import atomic_path, ensure_writable_folder, write_text
from flowseg.io.images import read_labels, write_image, write_labels
from flowseg.io.opencv import load_cv2
from flowseg.io.paths import check_name, find_images, find_inputs, image_names
from flowseg.reports.page import picture
from helpers.pictures import one_line


class TestLabels:
    @pytest.mark.parametrize(("top", "dtype"), [(0, "u2"), (65_535, "u2"), (65_536, "u4")])
    def test_round_trip_in_the_smallest_type(self, tmp_path: Path, top: int, dtype: str) -> None:
        labels = np.zeros((30, 40), np.int32)
        labels[3:9, 4:11] = top
        path = tmp_path / "a.tif"
        write_labels(path, labels)
        assert tifffile.imread(path).dtype == dtype
        found = read_labels(path)
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found, labels)
        with tifffile.TiffFile(path) as tiff:
            assert tiff.pages[0].compression == 8

    def test_same_labels_same_bytes(self, tmp_path: Path, rng: np.random.Generator) -> None:
        labels = rng.integers(0, 900, (64, 64), dtype=np.int32)
        for name in ("a.tif", "b.tif"):
            write_labels(tmp_path / name, labels)
        assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()

    @pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "?"])
    def test_any_integer_type(self, tmp_path: Path, dtype: str) -> None:
        labels = np.array([[0, 1], [1, 0]], dtype)
        tifffile.imwrite(tmp_path / "a.tif", labels)
        np.testing.assert_array_equal(read_labels(tmp_path / "a.tif"), labels.astype(np.int32))

    @pytest.mark.parametrize(
        ("labels", "problem"),
        [
            (np.full((4, 4), -1, np.int16), "negative"),
            (np.full((4, 4), 0.5, np.float32), r"it holds 0\.5; save whole"),
            (np.full((4, 4), 2**31, np.uint32), "int32"),
            (np.full((4, 4), np.nan, np.float32), "it holds nan"),
            (np.full((4, 4), 1e30, np.float64), "int32"),
            (np.arange(48, dtype=np.uint8).reshape(4, 4, 3), "colour image"),
        ],
    )
    def test_no_labels(self, tmp_path: Path, labels: np.ndarray, problem: str) -> None:
        path = tmp_path / "a.tif"
        tifffile.imwrite(path, labels)
        with pytest.raises(FlowsegError, match=problem) as error:
            read_labels(path)
        one_line(error, path)

    def test_negative_labels_are_not_written(self, tmp_path: Path) -> None:
        with pytest.raises(FlowsegError):
            write_labels(tmp_path / "a.tif", np.full((3, 3), -2))
        assert list(tmp_path.iterdir()) == []


class TestAtomic:
    def test_a_failure_leaves_the_old_file_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "a.csv"
        write_text(path, "old")

        def fail() -> None:
            with atomic_path(path) as part:
                part.write_text("half")
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fail()
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]

    def test_the_temporary_name_keeps_the_suffixes(self, tmp_path: Path) -> None:
        name = "x" * 240 + ".csv.gz"
        with atomic_path(tmp_path / name) as part:
            assert part.parent == tmp_path
            assert part.name.endswith(".csv.gz")
            part.touch()
        assert [path.name for path in tmp_path.iterdir()] == [name]

    @pytest.mark.parametrize("sort", ["no folder", "file as folder", "is a folder", "not written"])
    def test_what_cannot_be_written(self, tmp_path: Path, sort: str) -> None:
        (tmp_path / "file").touch()
        (tmp_path / "folder").mkdir()
        path = {
            "no folder": tmp_path / "none" / "a.txt",
            "file as folder": tmp_path / "file" / "a.txt",
            "is a folder": tmp_path / "folder",
            "not written": tmp_path / "b.txt",
        }[sort]

        def write() -> None:
            with atomic_path(path) as part:
                if sort != "not written":
                    part.write_text("text")

        with pytest.raises(FlowsegError, match="cannot be written") as error:
            write()
        one_line(error, path)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]

    def test_a_full_disk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        write_text(tmp_path / "a.txt", "old")
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(FlowsegError, match="No space left"):
            write_text(tmp_path / "a.txt", "new")
        assert [p.read_text() for p in tmp_path.iterdir()] == ["old"]

    def test_permissions_follow_the_umask(self, tmp_path: Path) -> None:
        old = os.umask(0o027)
        try:
            write_text(tmp_path / "a.txt", "text")
            write_labels(tmp_path / "a.tif", np.zeros((3, 3), np.int32))
        finally:
            os.umask(old)
        assert {p.stat().st_mode & 0o777 for p in tmp_path.iterdir()} == {0o640}

    def test_a_link_is_replaced_not_followed(self, tmp_path: Path) -> None:
        outside, link = tmp_path / "outside.txt", tmp_path / "out" / "a.txt"
        outside.write_text("precious")
        link.parent.mkdir()
        link.symlink_to(outside)
        write_text(link, "new")
        assert outside.read_text() == "precious"
        assert not link.is_symlink()

    @pytest.mark.parametrize(
        "image",
        [np.zeros((3, 3), np.float32), np.zeros((3, 3, 2), np.uint8), np.zeros(3, np.uint8)],
    )
    def test_images_of_another_kind(self, tmp_path: Path, image: np.ndarray) -> None:
        with pytest.raises(FlowsegError, match="cannot hold"):
            write_image(tmp_path / "a.png", image)

    def test_an_unknown_suffix(self, tmp_path: Path) -> None:
        with pytest.raises(FlowsegError, match="name it"):
            write_image(tmp_path / "a.bmp", np.zeros((3, 3), np.uint8))


class TestFolders:
    def test_made_and_left_empty(self, tmp_path: Path) -> None:
        folder = ensure_writable_folder(tmp_path / "a" / "b")
        assert folder.is_dir()
        assert list(folder.iterdir()) == []

    def test_a_file_is_in_the_way(self, tmp_path: Path) -> None:
        (tmp_path / "a").touch()
        for path in (tmp_path / "a", tmp_path / "a" / "b"):
            with pytest.raises(FlowsegError, match="folder") as error:
                ensure_writable_folder(path)
            one_line(error, path)

    def test_nobody_may_write_there(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "mkdir", refuse)
        with pytest.raises(FlowsegError, match="Permission denied"):
            ensure_writable_folder(tmp_path)


class TestNames:
    @pytest.mark.parametrize("name", ["a", "0030fd0e6378", "cell 1 (copy)", "ü", "..a", "a.b"])
    def test_plain(self, name: str) -> None:
        assert check_name(name) == name

    @pytest.mark.parametrize(
        "name",
        [
            *("", ".", "..", "../a", "/etc/passwd", "a/b", "a\\b", "C:a", "a\0", "a\nb", "x" * 201),
            *("con", "NUL", "aux.x", "LPT1", "\udcff"),
        ],
    )
    def test_leads_elsewhere(self, name: str) -> None:
        with pytest.raises(FlowsegError, match="not a plain file name") as error:
            check_name(name, file="t.csv")
        assert str(error.value).startswith("t.csv: ")


class TestFindImages:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        for name in ("b10.png", "b9.PNG", "a.tif", ".hidden.png", "notes.txt", "c.jpeg"):
            (tmp_path / name).touch()
        (tmp_path / "sub.png").mkdir()
        return tmp_path

    def test_a_folder_in_natural_order(self, folder: Path) -> None:
        assert [p.name for p in find_images(folder)] == ["a.tif", "b9.PNG", "b10.png", "c.jpeg"]

    def test_a_glob(self, folder: Path) -> None:
        assert [p.name for p in find_images(f"{folder}/b*")] == ["b9.PNG", "b10.png"]
        assert [p.name for p in find_images(f"{folder}/*")] == [p.name for p in find_images(folder)]

    def test_a_file(self, folder: Path) -> None:
        assert find_images(folder / "notes.txt") == [folder / "notes.txt"]

    def test_a_name_that_looks_like_a_glob(self, folder: Path) -> None:
        (folder / "[1].png").touch()
        assert find_images(folder / "[1].png") == [folder / "[1].png"]

    def test_nothing(self, folder: Path) -> None:
        (folder / "empty").mkdir()
        for pattern in (folder / "none", folder / "x*.png", folder / "empty", folder / "a\0"):
            with pytest.raises(FlowsegError) as error:
                find_images(pattern)
            one_line(error, pattern)

    def test_two_of_one_stem(self, folder: Path) -> None:
        (folder / "a.png").touch()
        with pytest.raises(FlowsegError, match="would be 'a'") as error:
            find_images(folder)
        assert "a.tif" in str(error.value)
        assert "a.png" in str(error.value)

    def test_two_of_one_stem_in_two_folders(self, folder: Path) -> None:
        for name in ("x", "y"):
            (folder / name).mkdir()
            (folder / name / "same.png").touch()
        with pytest.raises(FlowsegError, match="rename"):
            find_images(f"{folder}/**/same.png")


def test_a_picture_for_which_there_is_no_memory_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, image = tmp_path / "a.png", np.zeros((3, 3), np.uint8)
    write_image(path, image)
    before = path.read_bytes()
    # What OpenCV has packed so far is given back, and no error is raised.
    monkeypatch.setattr(load_cv2(), "imencode", lambda *_: (False, np.zeros(9, np.uint8)))
    with pytest.raises(FlowsegError, match="too little memory") as error:
        write_image(path, image + 1)
    assert str(error.value).startswith(str(path))
    with pytest.raises(FlowsegError, match="too little memory"):
        picture(np.zeros((3, 3, 3), np.uint8), "nothing")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


class TestWells:
    """A folder for each well, and the same names in each."""

    @pytest.fixture
    def plate(self, tmp_path: Path) -> Path:
        for well in ("A1", "A2"):
            (tmp_path / "plate" / well).mkdir(parents=True)
            write_image(tmp_path / "plate" / well / "s1.png", np.zeros((4, 5), np.uint8))
        return tmp_path / "plate"

    def test_recursive_names_keep_the_folders(self, plate: Path) -> None:
        found = find_inputs([str(plate)], plate, recursive=True)
        assert list(image_names(found).values()) == ["A1_s1", "A2_s1"]

    def test_folders_and_globs(self, plate: Path) -> None:
        for patterns in (["A1", "A2"], ["*/s1.png"], ["A1/s1.png", "A2"]):
            found = find_inputs([str(plate / pattern) for pattern in patterns], plate)
            assert sorted(image_names(found).values()) == ["A1_s1", "A2_s1"]

    def test_the_option_is_named_where_only_folders_hold_images(self, plate: Path) -> None:
        with pytest.raises(FlowsegError, match=r"folders that do.*--recursive"):
            find_inputs([str(plate)], plate)

    def test_names_that_are_one_in_spite_of_their_folders(self, plate: Path) -> None:
        write_image(plate / "A1" / "s1.tif", np.zeros((4, 5), np.uint8))
        with pytest.raises(FlowsegError, match="has the same name as"):
            find_inputs([str(plate)], plate, recursive=True)
