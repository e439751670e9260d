"""Images are read with nothing taken on trust, whatever their kind."""

from __future__ import annotations

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
from PIL import ExifTags, Image

from flowseg.errors import FlowsegError
from flowseg.io import images
from flowseg.io.binary import MAX_PIXELS
from flowseg.io.images import image_shape, read_image, read_labels, write_image
from flowseg.io.opencv import load_cv2
from flowseg.io.paths import find_images
from helpers.pictures import chunk, one_line, png, write_lzw

cv2 = load_cv2()


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

    def test_jpeg(self, tmp_path: Path) -> None:
        grey = np.full((33, 44), 120, np.uint8)
        (tmp_path / "a.JPG").write_bytes(cv2.imencode(".jpg", grey)[1].tobytes())
        np.testing.assert_array_equal(read_image(tmp_path / "a.JPG"), grey)
        assert image_shape(tmp_path / "a.JPG") == (33, 44)
        red = np.zeros((16, 16, 3), np.uint8)
        red[..., 2] = 250
        (tmp_path / "b.jpg").write_bytes(cv2.imencode(".jpg", red)[1].tobytes())
        assert read_image(tmp_path / "b.jpg")[8, 8].argmax() == 0

    @pytest.mark.parametrize("extra", [b"", b"tRNS"])
    @pytest.mark.parametrize(
        ("colour_type", "channels", "bits"),
        [
            *((0, 1, bits) for bits in (1, 2, 4, 8, 16)),
            *((3, 1, bits) for bits in (1, 2, 4, 8)),
            *((kind, n, bits) for kind, n in ((2, 3), (4, 2), (6, 4)) for bits in (8, 16)),
        ],
    )
    def test_png_of_any_kind(
        self,
        tmp_path: Path,
        rng: np.random.Generator,
        colour_type: int,
        channels: int,
        bits: int,
        extra: bytes,
    ) -> None:
        """As OpenCV reads it: grey is spread to 8 bits, palettes and transparency are colours."""
        chunks = b""
        if colour_type == 3:
            chunks += chunk(b"PLTE", rng.bytes(3 * 2**bits))
        if extra and colour_type in (0, 2, 3):
            chunks += chunk(b"tRNS", {0: b"\0\1", 2: b"\0\1" * 3, 3: b"\0\x80"}[colour_type])
        rows = b"".join(b"\0" + rng.bytes(-(-13 * bits * channels // 8)) for _ in range(9))
        header = struct.pack(">IIBBBBB", 13, 9, bits, colour_type, 0, 0, 0)
        data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunks
        data += chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
        (tmp_path / "a.png").write_bytes(data)
        found = read_image(tmp_path / "a.png")
        expected = cv2.imdecode(np.frombuffer(data, np.uint8), -1)
        if expected.ndim == 3:
            expected = expected[..., [2, 1, 0, 3][: expected.shape[2]]]
        assert found.dtype == (np.uint16 if bits == 16 else np.uint8)
        assert found.flags.writeable
        np.testing.assert_array_equal(found, expected)

    def test_jpeg_of_a_turned_camera_or_a_printer(self, tmp_path: Path, noise: np.ndarray) -> None:
        path, turned = tmp_path / "a.jpg", Image.Exif()
        turned[ExifTags.Base.Orientation] = 6
        Image.fromarray(noise).save(path, exif=turned)
        assert read_image(path).shape == image_shape(path) == noise.shape
        Image.fromarray(noise).convert("CMYK").save(path)
        with pytest.raises(FlowsegError, match="colours of the kind CMYK") as error:
            read_image(path)
        one_line(error, path)

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
    @pytest.mark.slow
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
            if name == "a.png" and length >= len(data) - 4:  # all but the end of the end marker
                np.testing.assert_array_equal(read_image(cut), noise)
                continue
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
            ((0, 5), "is damaged"),
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

    def test_the_largest_allowed_size_is_a_slide_of_20000(self) -> None:
        assert MAX_PIXELS >= 20_000 * 20_000

    @pytest.mark.slow
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

    @pytest.mark.slow
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
            from flowseg.io.images import read_image, write_labels
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
            from flowseg.io.opencv import load_cv2
            try:
                load_cv2()
            except FlowsegError as error:
                print(error)
        """
        done = self.run(code)
        assert done.returncode == 0, done.stderr
        assert remedy in done.stdout
        assert len(done.stdout.splitlines()) == 1


def test_load_cv2_is_the_only_import_of_opencv() -> None:
    """One place that says what to install; a second import would fail without that line."""
    package = Path(images.__file__).parents[1]
    direct = [p for p in package.rglob("*.py") if "import cv2" in p.read_text()]
    assert direct == []


def test_nothing_but_the_error_is_said(
    tmp_path: Path, noise: np.ndarray, capfd: pytest.CaptureFixture[str]
) -> None:
    """Decoders print their own warnings on damaged files unless told not to."""
    makers: dict[str, Callable[[Path], None]] = {
        "a.tif": lambda p: write_lzw(p, noise),
        "b.tif": lambda p: tifffile.imwrite(p, noise, compression="zlib"),
        "c.png": lambda p: write_image(p, np.stack([noise.astype(np.uint16)] * 3, axis=-1)),
        "d.jpg": lambda p: Image.fromarray(noise).save(p),
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
