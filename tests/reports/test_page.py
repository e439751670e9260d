"""The frame that all pages share."""

from __future__ import annotations

import base64
import hashlib
import html
import os
import re
import subprocess
import sys
from pathlib import Path

import jinja2
import numpy as np
import pytest

import flowseg.reports
from flowseg.errors import FlowsegError
from flowseg.io.atomic import ensure_writable_file
from flowseg.reports.page import picture, write_page

TEMPLATES = Path(flowseg.reports.__file__).parent
HOSTILE = "a<img src=x onerror=alert(1)>&'\" {{ 7 * 7 }}"


def policy(page: str) -> str:
    """The Content-Security-Policy of a page."""
    (content,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    return html.unescape(content)


def render_table(rows: list[dict[str, object]], path: Path) -> str:
    """The page on a data set, whose table of cell types is `rows`."""
    names = ("left_out", "distributions", "wells", "folds", "flags", "galleries", "images")
    empty: dict[str, object] = dict.fromkeys(names, ())
    write_page(
        path,
        "dataset.html.j2",
        **{**empty, "title": HOSTILE, "totals": {}, "types": rows, "samples": {}},
        images_in_wells=0,
        folds_note="",
    )
    return path.read_text(encoding="utf-8")


def test_only_the_page_s_script_may_run(tmp_path: Path) -> None:
    page = render_table([], tmp_path / "p.html")
    script = re.search(r"<script>(.*)</script>", page, flags=re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy(page)
    assert "default-src 'none'" in policy(page)


def test_tables_sort_by_the_number_and_escape_text(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"n": 1234567, "x": 0.5, "t": None},
        {"n": np.int64(2), "x": 12.25, "t": HOSTILE},
    ]
    page = render_table(rows, tmp_path / "p.html")
    assert 'data-v="1234567.0">1,234,567<' in page
    assert 'data-v="0.5">0.500<' in page
    assert 'data-v="12.25">12.2<' in page
    assert '<th class="n"><button type="button">x</button></th>' in page
    assert '<th><button type="button">t</button></th>' in page
    assert "<td>–</td>" in page
    assert "<img src=x" not in page
    assert "&lt;img src=x" in page
    assert "{{ 7 * 7 }}" in page


def test_a_value_that_a_template_lacks_is_no_blank(tmp_path: Path) -> None:
    with pytest.raises(jinja2.UndefinedError):
        write_page(tmp_path / "p.html", "dataset.html.j2", title="t")
    assert not (tmp_path / "p.html").exists()


def test_pictures_are_inside_the_page() -> None:
    image = np.full((10, 20, 3), (250, 10, 10), np.uint8)
    shown = picture(image, "a caption", width=40)
    assert (shown.width, shown.height, shown.alt) == (40, 20, "a caption")
    assert shown.source.startswith("data:image/jpeg;base64,")


def test_where_no_page_can_be(tmp_path: Path) -> None:
    with pytest.raises(FlowsegError, match=r"is a folder; name a file"):
        ensure_writable_file(tmp_path)
    assert ensure_writable_file(tmp_path / "new" / "page.html").parent.is_dir()


@pytest.mark.slow
@pytest.mark.slow
def test_the_same_bytes_whatever_the_seed_of_hashes(tmp_path: Path) -> None:
    """Both pages and the curves, from processes whose sets and dicts differ in order."""
    code = (
        "import sys, numpy as np; from pathlib import Path\n"
        "from flowseg.evaluation.evaluate import evaluate\n"
        "from flowseg.io.images import write_image, write_labels\n"
        "from flowseg.reports.charts import write_curves\n"
        "from flowseg.reports.dataset_report import explore\n"
        "from flowseg.reports.evaluation_report import write_report\n"
        "here = Path(sys.argv[1]); data = here / 'data'; data.mkdir(parents=True)\n"
        "labels = np.zeros((30, 40), np.int32); labels[3:20, 5:20] = 1; labels[5, 30:] = 2\n"
        "write_image(data / 'a.png', labels.astype(np.uint8) * 90)\n"
        "write_labels(data / 'a_masks.tif', labels)\n"
        "explore(data, here / 'data.html')\n"
        "write_report(evaluate(data, data), here / 'scores.html')\n"
        "(here / 'm.csv').write_text('epoch,loss,score,score_a\\n1,2,3,4\\n2,1,2,3\\n')\n"
        "write_curves(here / 'm.csv', here / 'curves.png')\n"
    )
    for seed in ("1", "2"):
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / seed)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
        )
    for name in ("data.html", "scores.html", "curves.png"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_templates_travel_with_the_package() -> None:
    configured = (TEMPLATES.parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    assert '"*.html.j2"' in configured
    assert len(list(TEMPLATES.glob("*.html.j2"))) == 4
