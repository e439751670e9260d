"""Every reader of flowseg that takes files from strangers, and how its files are damaged.

A target makes inputs from a `Random` alone, so that each is made again from its seed, and reads
one from a file. Whatever the bytes are, it ends well or with a FlowsegError that names the file.
"""

from __future__ import annotations

import gzip
import io
import json
import pickle
import struct
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any

import mutations
import numpy as np

from flowseg.arrays.rle import Masks, rle_decode
from flowseg.config.loading import load_config, to_yaml
from flowseg.config.schema import CellTypeSettings, NetworkConfig
from flowseg.data.livecell import read_livecell
from flowseg.data.sartorius import read_annotations
from flowseg.errors import FlowsegError
from flowseg.evaluation.sources import read_predictions, read_truth
from flowseg.formats.seg_npy import read_seg, write_seg
from flowseg.formats.submission import validate_submission
from flowseg.io.image_source import list_images
from flowseg.io.images import read_image, read_labels, write_image
from flowseg.io.opencv import load_cv2
from flowseg.network.checkpoint import Card, load_network, read_card, save_network
from flowseg.network.unet import FlowNetwork

__all__ = ["TARGETS", "Target"]

CELL = "Huh7_Phase_A12_1_02d12h00m_3"
TRAIN_HEAD = (
    "id,annotation,width,height,cell_type,plate_time,sample_date,sample_id,elapsed_timedelta"
)


@dataclass(frozen=True)
class Target:
    """One reader under test.

    Attributes
    ----------
    path : str
        Where its file lies in the folder of the trial.
    make : callable
        The bytes of one input.
    read : callable
        Reads the file; checks what it gives.
    prepare : callable
        Puts beside the file what the reader needs, once.
    """

    path: str
    make: Callable[[Random], bytes]
    read: Callable[[Path], object]
    prepare: Callable[[Path], object] = lambda _: None


def _from(
    seeds: Callable[[], Sequence[bytes]],
    tokens: Sequence[bytes] = (),
    mend: Callable[[bytes, Random], bytes] = lambda data, _: data,
) -> Callable[[Random], bytes]:
    """Inputs that are damaged copies of valid files."""
    kept = cache(seeds)

    def make(random: Random) -> bytes:
        data, other = random.choice(kept()), random.choice(kept())
        return mend(mutations.damage(data, other, tokens, random), random)

    return make


def _document(seed: Any, tokens: Sequence[bytes] = ()) -> Callable[[Random], bytes]:
    """JSON with values replaced, and half of the time bytes as well."""
    broken = _from(lambda: (json.dumps(seed).encode(),), tokens)

    def make(random: Random) -> bytes:
        if random.random() < 0.4:
            return broken(random)
        data = mutations.as_json(mutations.change_value(seed, random), random)
        return mutations.damage(data, data, tokens, random) if random.random() < 0.2 else data

    return make


# --- run lengths and tables -----------------------------------------------------------------


def _runs(random: Random) -> bytes:
    """Ascending runs inside the image, then damaged."""
    at, words = 1, []
    for _ in range(random.randrange(8)):
        start, length = at + random.randrange(4), random.randrange(1, 5)
        words += [start, length]
        at = start + length
    text = " ".join(map(str, words)).encode()
    tokens = (b" ", b"\t", b"-1", b"1e3", b"+5", b"0x1", "\u0661".encode(), b"1_0", b"\0", b"\xff")
    return mutations.damage(text, b"1 2 3 4", tokens, random) if random.random() < 0.9 else text


def _read_runs(path: Path) -> None:
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    for shape in ((7, 9), (1, 1), (520, 704)):
        try:
            mask = rle_decode(text, shape)
        except Exception as error:
            error.args = (f"{path}: {error}",)  # it is not read from a file
            raise
        again = Masks.from_dense([mask]).to_strings()[0]
        assert np.array_equal(rle_decode(again, shape), mask)


_CSV = (
    *(b",", b'"', b'""', b"\n", b"\r\n", b"\r", b"\0", b"\xff", b"\xef\xbb\xbf", b"1 1", b" ,"),
    *(b"shsy5y", b"cort", b"../x", b"a/b", b"nul", "\u2028".encode(), b"<script>", b"1e9"),
)


def _train_tables() -> list[bytes]:
    rest = "19h30m00s,2019-06-16,shsy5y[diff]_E10-4_Vessel-714_Ph_3,0 days 11:30:00"
    row = "a1,{},9,7,shsy5y," + rest
    one = "\n".join([TRAIN_HEAD, row.format("1 3 10 2"), row.format("30 4"), ""])
    two = "id,annotation,width,height,cell_type\nb,,704,520,cort\nc,1 2,1,2,astro\n"
    return [one.encode(), two.encode(), one.replace("\n", "\r\n").encode()]


def _read_train(path: Path) -> None:
    for image in read_annotations(path).values():
        _check_masks(image.masks, image.shape)


def _packed(make: Callable[[Random], bytes]) -> Callable[[Random], bytes]:
    """Packed with gzip; a third of the time the packed bytes are damaged."""

    def packed(random: Random) -> bytes:
        data = gzip.compress(make(random), 1)
        return mutations.damage(data, data, (), random) if random.random() < 0.3 else data

    return packed


def _submissions() -> list[bytes]:
    return [b"id,predicted\na,1 3 10 2\na,20 2\nb,\n", b"id,predicted\nb,1 1 40 7\na,\n"]


def _read_submission(path: Path) -> None:
    truth = read_truth(path.with_name("truth.csv"))
    validate_submission(path, {name: source.shape for name, source in truth.items()})
    for source in read_predictions(path, truth).values():
        _check_masks(source.masks(), source.shape)


def _write_truth(folder: Path) -> None:
    text = "id,annotation,width,height,cell_type\na,,9,7,cort\nb,,11,5,cort\n"
    (folder / "truth.csv").write_text(text, encoding="utf-8")


def _check_masks(masks: Masks, shape: tuple[int, int]) -> None:
    assert masks.shape == shape
    assert (masks.lengths > 0).all()
    assert (masks.starts >= 0).all()
    assert (masks.starts + masks.lengths <= shape[0] * shape[1]).all()


# --- documents ------------------------------------------------------------------------------

_COCO = {
    "info": {"description": "x"},
    "licenses": [],
    "images": [{"id": 7, "width": 6, "height": 5, "file_name": f"{CELL}.tif"}],
    "categories": [{"id": 1, "name": "cell"}],
    "annotations": [
        {"id": 8, "image_id": 7, "category_id": 1, "segmentation": [[1.0, 1, 4, 1, 4, 3.5, 1, 3]]},
        {"id": 9, "image_id": 7, "category_id": 1, "segmentation": [[0, 0, 1, 0, 1, 1, 0, 1]]},
    ],
}
_PACKED = {
    **_COCO,
    "annotations": [
        {"image_id": 7, "category_id": 1, "segmentation": {"size": [5, 6], "counts": [2, 3, 25]}},
        {"image_id": 7, "category_id": 1, "segmentation": {"size": [5, 6], "counts": "23i0"}},
    ],
}
_JSON = (b"[", b"{", b"]", b"}", b'"', b"[[[[[[", b"null", b"1e999", b"-", b"\\u", b"\\ud800")


def _prepare_livecell(folder: Path) -> None:
    (folder / "annotations" / "LIVECell").mkdir(parents=True)
    (folder / "images").mkdir()
    write_image(folder / "images" / f"{CELL}.tif", np.zeros((5, 6), np.uint8))


def _read_livecell(path: Path) -> None:
    for record in read_livecell(path.parents[2], ("train",)):
        _check_masks(record.masks(), record.shape)


def _read_coco(path: Path) -> None:
    for source in read_truth(path).values():
        _check_masks(source.masks(), source.shape)


_SETTINGS: Mapping[str, Any] = {
    "cell_types": {"shsy5y": {"diameter": 17.5, "min_size": 30}},
    "seed": 1,
    "network": {"channels": [4, 8], "flow_scale": 5.0},
    "training": {"epochs": 3, "precision": "auto", "workers": None, "learning_rate": "2e-3"},
    "data": {"include_flawed": False, "repair": "none"},
}
_YAML = (
    *(b"&a ", b"*a", b"<<: *a", b"- ", b": ", b"? ", b"!!int ", b"!!float ", b"!!bool x", b"!!set"),
    *(b"!!python/object/apply:os.system [x]", b"!!timestamp x", b"!!binary x", b"!!null x"),
    *(b"{", b"[", b"}", b"]", b"|", b">", b"'", b'"', b"\t", b"---", b"...", b"%YAML"),
    *(b"1:60:60", b"2001-99-99", b"~", b".inf", b".nan", b"no", b"0b", b"0o9", b"@", b"`", b"\x85"),
    *(b"1:60:60." + b"9" * 400, b"9" * 400, b"- &a [*a, *a]\n", b"#", b"\0", b"\xff\xfe"),
    b"0x" + b"f" * 5000,
)


def _yaml(random: Random) -> bytes:
    return _yaml_document(random) if random.random() < 0.4 else _yaml_text(random)


_yaml_document = _document(_SETTINGS, _YAML)
_yaml_text = _from(
    lambda: (
        b"training:\n  epochs: 3\n  precision: auto\nnetwork:\n  channels: [4, 8]\n",
        b"cells:\n  cort: {diameter: 17.5}\n  x: {}\nseed: 3\ndata: {folds: 5, fold: 1}\n",
        to_yaml(load_config("cort")).encode()[:600],
    ),
    _YAML,
)


# --- images ---------------------------------------------------------------------------------


def _picture(shape: tuple[int, ...], dtype: Any = np.uint8) -> np.ndarray[Any, Any]:
    top = int(np.iinfo(dtype).max)
    return np.random.default_rng(0).integers(0, top, shape, dtype)


def _encoded(suffix: str, image: np.ndarray[Any, Any], *options: int) -> bytes:
    return bytes(load_cv2().imencode(suffix, image, list(options))[1].tobytes())


def _pngs() -> list[bytes]:
    images = (
        *(_picture((9, 7)), _picture((6, 5, 3)), _picture((4, 4, 4)), _picture((5, 3), np.uint16)),
    )
    found = [_encoded(".png", image) for image in images]
    text = struct.pack(">I", 9) + b"tEXtComment\0" + b"x" + bytes(4)
    return [*found, mutations.mend_png(found[0][:33] + text + found[0][33:])]


_PNG = (
    *(b"IHDR", b"IDAT", b"IEND", b"PLTE", b"tRNS", b"acTL", b"fcTL", b"fdAT", b"eXIf", b"iCCP"),
    *(b"zTXt", b"iTXt", b"sBIT", b"gAMA", b"cICP", b"\0\0\0\0IDAT", b"II*\0\x08\0\0\0"),
)


def _png(random: Random) -> bytes:
    way = random.random()
    if way < 0.3:
        return mutations.repack_png(random.choice(_png_seeds()), _PNG, random)
    data = _png_damaged(random)
    return mutations.mend_png(data) if way < 0.9 else data


_png_seeds = cache(_pngs)
_png_damaged = _from(_pngs, _PNG)


def _jpegs() -> list[bytes]:
    cv2 = load_cv2()
    grey, colour = _picture((17, 23)), _picture((16, 9, 3))
    return [
        _encoded(".jpg", grey),
        _encoded(".jpg", colour, cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
        _encoded(".jpg", colour, cv2.IMWRITE_JPEG_RST_INTERVAL, 1),
    ]


_JPEG = (
    *(b"\xff\xd8", b"\xff\xd9", b"\xff\xda", b"\xff\xc0", b"\xff\xc2", b"\xff\xc4", b"\xff\xe1"),
    *(b"\xff\x00", b"\xff\x01", b"\xff\xd0", b"\xff\xff\xff", b"\xff\xfe\xff\xff"),
)


def _tiffs() -> list[bytes]:
    import tifffile

    grey, deep = _picture((19, 17)), _picture((8, 40), np.uint16)
    found = []
    for image, options in (
        (grey, {}),
        (grey, {"compression": "zlib", "rowsperstrip": 4}),
        (deep, {"compression": "zlib", "byteorder": ">", "predictor": True}),
        (_picture((33, 20)), {"tile": (16, 16), "compression": "zlib"}),
        (_picture((7, 6, 3)), {"photometric": "rgb"}),
        (_picture((3, 7, 6)), {"photometric": "rgb", "planarconfig": "separate"}),
        (np.stack([grey] * 3), {"photometric": "minisblack", "bigtiff": True}),
        (np.stack([grey] * 2), {"imagej": True}),
        (grey.astype(np.float32), {"ome": True}),
    ):
        file = io.BytesIO()
        tifffile.imwrite(file, image, **options)
        found.append(file.getvalue())
    tile = _picture((32, 32))
    boxed = _encoded(".jp2", tile)
    for data, compression in (
        (_encoded(".jpg", tile), 7),
        (boxed[boxed.index(b"\xff\x4f\xff\x51") :], 34712),
    ):
        found.append(_tiled(data, compression))
    lzw = load_cv2().IMWRITE_TIFF_COMPRESSION
    return [*found, _encoded(".tif", grey, lzw, 5), _encoded(".tif", deep, lzw, 5)]


def _tiled(data: bytes, compression: int) -> bytes:
    """A TIFF of six tiles that are packed already, of which tifffile is told afterwards.

    Else an older one needs imagecodecs.
    """
    import tifffile

    file = io.BytesIO()
    layout = {"shape": (60, 80), "dtype": np.uint8, "tile": (32, 32)}
    tifffile.imwrite(file, iter([data] * 6), compression="zlib", **layout)
    file.seek(0)
    with tifffile.TiffFile(file, mode="r+b") as tiff:
        tiff.pages[0].tags["Compression"].overwrite(compression)
    return file.getvalue()


_TIFF = (
    *(b"II*\0", b"MM\0*", b"\x00\x01", b"\x01\x01", b"\x11\x01", b"\x17\x01", b"\x03\x01"),
    *(b"\x44\x01", b"\x45\x01", b"\xff\xc0", b"\xff\x4f\xff\x51", b"\xff\x01"),
)


def _read_picture(path: Path) -> None:
    assert read_image(path).ndim in (2, 3)
    with suppress(FlowsegError):  # a colour image is read and holds no labels
        assert read_labels(path).min(initial=0) >= 0


def _read_pages(path: Path) -> None:
    for source in list_images(path)[:4]:
        with source.open_regions() as read:
            height, width = source.shape
            read(slice(height // 2, height), slice(0, (width + 1) // 2))
        source.read()
    _read_picture(path)


# --- Cellpose's pickles and checkpoints -----------------------------------------------------


def _segs() -> list[bytes]:
    labels = np.zeros((6, 7), np.int32)
    labels[1:4, 2:5] = 3
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for image in (None, _picture((6, 7))):
            path = Path(folder, "a_seg.npy")
            write_seg(path, labels, file_name="a.tif", image=image)
            found.append(path.read_bytes())
    start = found[0].index(b"\n") + 1
    content = np.empty((), object)
    content[()] = {"masks": labels.astype(np.uint16), "colors": [1], "filename": "x"}
    return [*found, *(found[0][:start] + pickle.dumps(content, protocol=p) for p in (0, 2, 4))]


_PICKLE = (
    *(b"cos\nsystem\n(S'x'\ntR", b"(", b")", b".", b"R", b"b", b"}", b"]", b"\x80\x04", b"\x93"),
    *(b"\x8a\xff", b"\x8b\xff\xff\xff\x7f", b"B\xff\xff\xff\x7f", b"X\xff\xff\xff\x7f", b"q\xff"),
    *(b"\x8d\xff\xff\xff\xff\x00\x00\x00\x00", b"\x96\xff\xff\xff\x7f", b"r\xff\xff\xff\x7f", b"2"),
    *(b"\x8e\xff\xff\xff\xff\x00\x00\x00\x00", b"j\xff\xff\xff\x7f", b"Q", b"P1\n", b"I9\n"),
)


def _read_seg(path: Path) -> None:
    labels = read_seg(path)
    assert labels.dtype == np.int32
    assert labels.ndim == 2


@cache
def _weights() -> bytes:
    card = Card(
        NetworkConfig(channels=(1, 2), blocks_per_level=1),
        {"a": CellTypeSettings(diameter=9.0)},
        {"x": 1},
    )
    network = FlowNetwork(card.network, 1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "m.safetensors")
        save_network(path, network.state_dict(), card)
        return path.read_bytes()


def _checkpoint(random: Random) -> bytes:
    """Damaged bytes; or the header, or the card within it, damaged as a document."""
    data = _weights()
    (length,) = struct.unpack_from("<Q", data)
    header, rest = data[8 : 8 + length], data[8 + length :]
    way = random.random()
    if way < 0.25:
        return mutations.damage(data, data, _JSON, random)
    document = json.loads(header)
    if way < 0.75:
        card = mutations.change_value(json.loads(document["__metadata__"]["flowseg"]), random)
        document["__metadata__"]["flowseg"] = mutations.as_json(card, random).decode("latin-1")
    elif way < 0.9:
        document = mutations.change_value(document, random)
    header = mutations.as_json(document, random)
    if way > 0.9:
        header = mutations.damage(header, header, _JSON, random)
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + rest


def _read_checkpoint(path: Path) -> None:
    read_card(path)
    load_network(path)


# --- Zarr, where it is installed ------------------------------------------------------------

_ARRAY = {
    **{"shape": [6, 5], "chunks": [3, 5], "dtype": "|u1", "fill_value": 0, "order": "C"},
    **{"filters": None, "dimension_separator": ".", "compressor": {"id": "zlib", "level": 1}},
    "zarr_format": 2,
}


def _prepare_zarr(folder: Path) -> None:
    store = folder / "a.zarr"
    store.mkdir()
    (store / ".zarray").write_text(json.dumps(_ARRAY), encoding="utf-8")
    for name in ("0.0", "1.0"):
        (store / name).write_bytes(zlib.compress(_picture((3, 5)).tobytes()))


def _read_zarr(path: Path) -> None:
    for source in list_images(path.parent):
        source.read()
        with source.open_regions() as read:
            read(slice(0, 1), slice(0, 1))


_ZARR: Mapping[str, Target] = {
    "zarr": Target("a.zarr/.zarray", _document(_ARRAY, _JSON), _read_zarr, _prepare_zarr),
    "zarr chunk": Target(
        "a.zarr/0.0",
        _from(lambda: (zlib.compress(_picture((3, 5)).tobytes()),)),
        _read_zarr,
        _prepare_zarr,
    ),
}

TARGETS: Mapping[str, Target] = {
    "rle": Target("a.txt", _runs, _read_runs),
    "train.csv": Target("train.csv", _from(_train_tables, _CSV), _read_train),
    "train.csv.gz": Target("train.csv.gz", _packed(_from(_train_tables, _CSV)), _read_train),
    "submission.csv": Target(
        "submission.csv", _from(_submissions, _CSV), _read_submission, _write_truth
    ),
    "livecell": Target(
        "annotations/LIVECell/x_train.json",
        _document(_COCO, _JSON),
        _read_livecell,
        _prepare_livecell,
    ),
    "coco": Target("truth.json", _document(_PACKED, _JSON), _read_coco),
    "yaml": Target("config.yaml", _yaml, lambda path: load_config("cort", path)),
    "png": Target("a.png", _png, _read_picture),
    "jpeg": Target("a.jpg", _from(_jpegs, _JPEG), _read_picture),
    "tiff": Target("a.tif", _from(_tiffs, _TIFF), _read_pages),
    "seg.npy": Target("a_seg.npy", _from(_segs, _PICKLE), _read_seg),
    "checkpoint": Target("m.safetensors", _checkpoint, _read_checkpoint),
    **(_ZARR if find_spec("zarr") else {}),
}
