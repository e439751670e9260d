"""Image files: read with nothing taken on trust, written whole or not at all."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowseg import files
from flowseg.errors import FlowsegError
from flowseg.files import (
    atomic_path,
    check_name,
    ensure_writable_folder,
    find_images,
    image_shape,
    read_image,
    read_labels,
    write_image,
    write_labels,
    write_text,
)
from flowseg.pages import list_pages

cv2 = files.load_cv2()


def one_line(error: pytest.ExceptionInfo[FlowsegError], path: Path) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert str(path).replace("\0", "\\x00") in text
    return text


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, body: bytes | None = None) -> bytes:
    """An 8-bit grey PNG that claims a size."""
    if body is None:
        body = zlib.compress(b"".join(b"\0" + bytes(width) for _ in range(height)))
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )


def write_lzw(path: Path, image: np.ndarray) -> None:
    """As LIVECell's images are; OpenCV packs so without another package."""
    options = (cv2.IMWRITE_TIFF_COMPRESSION, 5, cv2.IMWRITE_TIFF_ROWSPERSTRIP, 8)
    stored = image if image.ndim == 2 else np.ascontiguousarray(image[..., ::-1])
    path.write_bytes(cv2.imencode(".tif", stored, options)[1].tobytes())


@pytest.fixture
def noise(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 255, (40, 50), dtype=np.uint8)


class TestReadImage:
    @pytest.mark.parametrize("suffix", [".png", ".tif"])
    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    @pytest.mark.parametrize("channels", [(), (3,)])
    def test_reads_back_what_was_written(
        self, tmp_path: Path, rng: np.random.Generator, suffix: str, dtype: Any, channels: Any
    ) -> None:
        image = rng.integers(0, np.iinfo(dtype).max, (17, 23, *channels)).astype(dtype)
        path = tmp_path / f"a{suffix}"
        write_image(path, image)
        found = read_image(path)
        assert found.dtype == dtype
        assert found.flags.c_contiguous
        np.testing.assert_array_equal(found, image)
        assert image_shape(path) == (17, 23)

    @pytest.mark.parametrize("compression", [None, "zlib", "packbits", "lzw", "zstd"])
    @pytest.mark.parametrize("dtype", ["u1", ">u2", "u4", "i2", "f4", "f8"])
    def test_tiff_of_any_number_and_codec(
        self, tmp_path: Path, noise: np.ndarray, compression: str | None, dtype: str
    ) -> None:
        if compression in ("packbits", "lzw", "zstd"):
            pytest.importorskip("imagecodecs", reason="such files cannot be written without it")
        path = tmp_path / "a.tif"
        byteorder: Any = ">" if dtype.startswith(">") else "<"
        tifffile.imwrite(path, noise.astype(dtype), compression=compression, byteorder=byteorder)
        found = read_image(path)
        assert found.dtype == np.dtype(dtype).newbyteorder("=")
        assert found.dtype.isnative
        np.testing.assert_array_equal(found, noise)

    def test_lzw_colour_keeps_its_channels(self, tmp_path: Path, rng: np.random.Generator) -> None:
        image = rng.integers(0, 255, (9, 8, 3), dtype=np.uint8)
        write_lzw(tmp_path / "a.tif", image)
        np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), image)
        planes = np.ascontiguousarray(np.moveaxis(image, -1, 0))
        tifffile.imwrite(tmp_path / "b.tif", planes, photometric="rgb", planarconfig="separate")
        np.testing.assert_array_equal(read_image(tmp_path / "b.tif"), image)

    def test_tiled_and_bilevel_tiff(self, tmp_path: Path, noise: np.ndarray) -> None:
        big = np.kron(noise, np.ones((8, 8), np.uint8))
        tifffile.imwrite(tmp_path / "a.tif", big, tile=(64, 64), compression="zlib")
        np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), big)
        tifffile.imwrite(tmp_path / "b.tif", noise > 99)
        np.testing.assert_array_equal(read_image(tmp_path / "b.tif"), noise > 99)

    def test_tiles_that_claim_far_more_than_the_image(self, tmp_path: Path) -> None:
        path = tmp_path / "a.tif"
        tifffile.imwrite(path, np.ones((33, 20), np.uint8), tile=(16, 16), compression="zlib")
        with tifffile.TiffFile(path, mode="r+b") as file:
            file.pages[0].tags["TileWidth"].overwrite(2**31)
        with pytest.raises(FlowsegError, match="its tiles are far larger than it is"):
            read_image(path)

    def test_jpeg(self, tmp_path: Path) -> None:
        grey = np.full((33, 44), 120, np.uint8)
        (tmp_path / "a.JPG").write_bytes(cv2.imencode(".jpg", grey)[1].tobytes())
        np.testing.assert_array_equal(read_image(tmp_path / "a.JPG"), grey)
        assert image_shape(tmp_path / "a.JPG") == (33, 44)
        red = np.zeros((16, 16, 3), np.uint8)
        red[..., 2] = 250
        (tmp_path / "b.jpg").write_bytes(cv2.imencode(".jpg", red)[1].tobytes())
        assert read_image(tmp_path / "b.jpg")[8, 8].argmax() == 0

    def test_the_suffix_does_not_matter(self, tmp_path: Path, noise: np.ndarray) -> None:
        write_image(tmp_path / "a.png", noise)
        (tmp_path / "a.png").rename(tmp_path / "a.tif")
        np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), noise)

    def test_one_pixel_wide(self, tmp_path: Path) -> None:
        write_image(tmp_path / "a.png", np.arange(7, dtype=np.uint8)[:, None])
        assert read_image(tmp_path / "a.png").shape == (7, 1)

    def test_real_images(self, real_data: Path) -> None:
        for path in find_images(real_data / "test"):
            np.testing.assert_array_equal(read_image(path), cv2.imread(str(path), -1))
        pattern = real_data / "LIVECell_dataset_2021/images/*/*/*.tif"
        paths = find_images(pattern)
        assert len(paths) == 20
        assert {image_shape(path) for path in paths} == {(520, 704)}
        pytest.importorskip("imagecodecs")  # tifffile needs it for LZW, flowseg does not
        for path in paths:
            np.testing.assert_array_equal(read_image(path), tifffile.imread(path))


class TestBadImages:
    @pytest.mark.parametrize("name", ["a.png", "a.tif", "lzw.tif", "a.jpg"])
    def test_cut_off_anywhere(self, tmp_path: Path, noise: np.ndarray, name: str) -> None:
        whole = tmp_path / name
        if name == "a.jpg":
            whole.write_bytes(cv2.imencode(".jpg", noise)[1].tobytes())
        elif name == "lzw.tif":
            write_lzw(whole, np.kron(noise, np.ones((8, 8), np.uint8)))
        else:
            write_image(whole, noise)
        data = whole.read_bytes()
        read_image(whole)
        cut = tmp_path / f"cut{whole.suffix}"
        for length in {0, 1, 7, 8, 9, 20, 30, *range(40, len(data), 61), len(data) - 1}:
            cut.write_bytes(data[:length])
            with pytest.raises(FlowsegError) as error:
                read_image(cut)
            one_line(error, cut)

    def test_real_png_cut_in_half(self, real_data: Path, tmp_path: Path) -> None:
        data = next((real_data / "test").glob("*.png")).read_bytes()
        half = tmp_path / "half.png"
        half.write_bytes(data[: len(data) // 2])
        with pytest.raises(FlowsegError, match="is cut off") as error:
            read_image(half)
        one_line(error, half)

    def test_a_flipped_bit_in_a_png(self, tmp_path: Path, noise: np.ndarray) -> None:
        path = tmp_path / "a.png"
        write_image(path, noise)
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 4
        path.write_bytes(data)
        with pytest.raises(FlowsegError, match="checksum"):
            read_image(path)

    @pytest.mark.parametrize(
        ("content", "problem"),
        [(b"", "is empty"), (b"id,annotation\n", "is no PNG"), (b"\x89PNG", "is no PNG")],
    )
    def test_no_image(self, tmp_path: Path, content: bytes, problem: str) -> None:
        path = tmp_path / "a.png"
        path.write_bytes(content)
        for read in (read_image, image_shape, read_labels):
            with pytest.raises(FlowsegError, match=problem) as error:
                read(path)
            one_line(error, path)

    def test_missing_and_folder(self, tmp_path: Path) -> None:
        with pytest.raises(FlowsegError, match="is missing"):
            read_image(tmp_path / "none.png")
        with pytest.raises(FlowsegError, match="is a folder"):
            read_image(tmp_path)
        with pytest.raises(FlowsegError, match="cannot be read"):
            read_image(tmp_path / "a\0b.png")

    @pytest.mark.parametrize(
        ("size", "problem"),
        [
            ((100_000, 10_000), "more than the"),
            ((2**31 - 1, 2**31 - 1), "more than the"),
            ((0, 5), "claims a size of 0 x 5"),
            ((20_000, 20_000), "bytes long"),
        ],
    )
    def test_a_png_that_claims_too_much(
        self, tmp_path: Path, size: tuple[int, int], problem: str
    ) -> None:
        path = tmp_path / "a.png"
        path.write_bytes(png(*size, body=zlib.compress(b"\0" * 100)))
        for read in (read_image, image_shape):
            with pytest.raises(FlowsegError, match=problem) as error:
                read(path)
            one_line(error, path)

    def test_a_tiff_that_claims_too_much(self, tmp_path: Path, noise: np.ndarray) -> None:
        path = tmp_path / "a.tif"
        tifffile.imwrite(path, noise)
        with tifffile.TiffFile(path, mode="r+b") as tiff:
            tiff.pages[0].tags["ImageWidth"].overwrite(100_000)
            tiff.pages[0].tags["ImageLength"].overwrite(65_000)
        for read in (read_image, image_shape):
            with pytest.raises(FlowsegError, match="more than the"):
                read(path)

    def test_a_tiff_that_unpacks_without_end(self, tmp_path: Path) -> None:
        """512 MB of zeros behind a strip of 64 x 64; tifffile alone unpacks them all."""
        packer = zlib.compressobj(9)
        bomb = b"".join(packer.compress(bytes(2**24)) for _ in range(32)) + packer.flush()
        path = tmp_path / "a.tif"
        tifffile.imwrite(path, np.zeros((64, 64), np.uint8), compression="zlib", rowsperstrip=64)
        with tifffile.TiffFile(path, mode="r+b") as tiff:
            end = tiff.filehandle.seek(0, os.SEEK_END) or tiff.filehandle.tell()
            tiff.filehandle.write(bomb)
            tiff.pages[0].tags["StripOffsets"].overwrite(end)
            tiff.pages[0].tags["StripByteCounts"].overwrite(len(bomb))
        with pytest.raises(FlowsegError, match="unpacks to more than its size") as error:
            read_image(path)
        one_line(error, path)

    @pytest.mark.parametrize("pages", [2, 5])
    def test_a_list_of_pages_that_goes_round(
        self, tmp_path: Path, noise: np.ndarray, pages: int
    ) -> None:
        path = tmp_path / "a.tif"
        tifffile.imwrite(path, np.stack([noise] * pages), photometric="minisblack")
        with tifffile.TiffFile(path) as tiff:
            first, last = tiff.pages[0].offset, tiff.pages[pages - 1].offset
        content = bytearray(path.read_bytes())
        (tags,) = struct.unpack_from("<H", content, last)
        struct.pack_into("<I", content, last + 2 + 12 * tags, first)
        path.write_bytes(content)
        for read in (read_image, image_shape, list_pages):
            with pytest.raises(FlowsegError, match="has no end") as error:
                read(path)
            one_line(error, path)

    def test_a_large_strip_that_is_what_it_says(
        self, tmp_path: Path, rng: np.random.Generator
    ) -> None:
        image = rng.integers(0, 65_535, (600, 700), dtype=np.uint16)
        tifffile.imwrite(tmp_path / "a.tif", image, compression="zlib", rowsperstrip=600)
        np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), image)

    def test_a_codec_that_is_not_read(self, tmp_path: Path, noise: np.ndarray) -> None:
        tifffile.imwrite(tmp_path / "a.tif", noise, compression="lzma")
        with pytest.raises(FlowsegError, match="TIFF compression 34925"):
            read_image(tmp_path / "a.tif")

    def test_the_largest_allowed_size_is_a_slide_of_20000(self) -> None:
        assert files.MAX_PIXELS >= 20_000 * 20_000

    def test_several_pages_are_refused(self, tmp_path: Path, noise: np.ndarray) -> None:
        for name, options in {"a.tif": {}, "b.tif": {"imagej": True}}.items():
            path = tmp_path / name
            tifffile.imwrite(path, np.stack([noise] * 3), photometric="minisblack", **options)
            with pytest.raises(FlowsegError, match="holds 3 images") as error:
                read_image(path)
            one_line(error, path)

    def test_a_tiff_of_complex_numbers(self, tmp_path: Path) -> None:
        tifffile.imwrite(tmp_path / "a.tif", np.ones((4, 4), np.complex64))
        with pytest.raises(FlowsegError, match="no numbers that can be read"):
            read_image(tmp_path / "a.tif")

    @settings(
        max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    @given(data=st.data())
    def test_damage_anywhere_is_one_error(
        self, tmp_path: Path, noise: np.ndarray, data: st.DataObject
    ) -> None:
        """Bytes changed at random: the file reads, or FlowsegError says so; nothing else."""
        path = tmp_path / data.draw(st.sampled_from(["a.png", "a.tif", "lzw.tif", "a.jpg"]))
        if path.name == "a.jpg":
            content = cv2.imencode(".jpg", noise)[1].tobytes()
        elif path.name == "lzw.tif":
            write_lzw(path, noise)
            content = path.read_bytes()
        else:
            write_image(path, noise)
            content = path.read_bytes()
        broken = bytearray(content)
        # headers of TIFF stand at the end or the start: aim there as often as anywhere
        places = st.one_of(
            st.integers(0, len(broken) - 1),
            st.integers(0, min(300, len(broken) - 1)),
            st.integers(max(0, len(broken) - 200), len(broken) - 1),
        )
        for place in data.draw(st.lists(places, min_size=1, max_size=6)):
            broken[place] = data.draw(st.integers(0, 255))
        path.write_bytes(broken)
        for read in (read_image, image_shape):
            try:
                read(path)
            except FlowsegError as error:
                assert str(path) in str(error)  # noqa: PT017


class TestWithoutPackages:
    def run(self, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
        )

    def test_livecell_needs_no_imagecodecs(self, tmp_path: Path, noise: np.ndarray) -> None:
        """LIVECell is LZW; imagecodecs is not among flowseg's dependencies."""
        write_lzw(tmp_path / "a.tif", noise)
        tifffile.imwrite(tmp_path / "b.tif", noise)
        with tifffile.TiffFile(tmp_path / "b.tif", mode="r+b") as tiff:
            tiff.pages[0].tags["Compression"].overwrite(50_000)  # Zstandard
        code = """if True:
            import sys
            sys.modules["imagecodecs"] = None
            from flowseg.errors import FlowsegError
            from flowseg.files import read_image, write_labels
            folder = sys.argv[1]
            image = read_image(folder + "/a.tif")
            write_labels(folder + "/c.tif", image)
            assert (read_image(folder + "/c.tif") == image).all()
            try:
                read_image(folder + "/b.tif")
            except FlowsegError as error:
                print(image.sum(), error)
        """
        done = self.run(code, str(tmp_path))
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(str(noise.sum()))
        assert "pip install imagecodecs" in done.stdout

    @pytest.mark.parametrize(
        ("failure", "remedy"),
        [
            ("ImportError('libGL.so.1: cannot open shared object file')", "libgl1"),
            ("ModuleNotFoundError('No module named cv2', name='cv2')", "pip install opencv-python"),
        ],
    )
    def test_a_server_without_libgl(self, failure: str, remedy: str) -> None:
        code = f"""if True:
            import sys
            class Broken:
                def find_spec(self, name, path, target=None):
                    if name == "cv2":
                        raise {failure}
            sys.meta_path.insert(0, Broken())
            from flowseg.errors import FlowsegError
            from flowseg.files import load_cv2
            try:
                load_cv2()
            except FlowsegError as error:
                print(error)
        """
        done = self.run(code)
        assert done.returncode == 0, done.stderr
        assert remedy in done.stdout
        assert len(done.stdout.splitlines()) == 1


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
            (np.full((4, 4), 0.5, np.float32), "integers"),
            (np.full((4, 4), 2**31, np.uint32), "int32"),
            (np.zeros((4, 4, 3), np.uint8), "colour image"),
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
        def refuse(_: Path) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "touch", refuse)
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


def test_load_cv2_is_the_only_import_of_opencv() -> None:
    """One place that says what to install; a second import would fail without that line."""
    package = Path(files.__file__).parent
    direct = [p for p in package.rglob("*.py") if "import cv2" in p.read_text()]
    assert direct == []


def test_nothing_but_the_error_is_said(
    tmp_path: Path, noise: np.ndarray, capfd: pytest.CaptureFixture[str]
) -> None:
    """OpenCV and tifffile print their own warnings on damaged files unless told not to."""
    makers: dict[str, Callable[[Path], None]] = {
        "a.tif": lambda p: write_lzw(p, noise),
        "b.tif": lambda p: tifffile.imwrite(p, noise, compression="zlib"),
    }
    for name, make in makers.items():
        path = tmp_path / name
        make(path)
        data = bytearray(path.read_bytes())
        data[-400:-300] = bytes(100)
        path.write_bytes(data)
        try:
            read_image(path)
        except FlowsegError as error:
            one_line(pytest.ExceptionInfo.from_exception(error), path)
    assert capfd.readouterr() == ("", "")
