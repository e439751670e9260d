"""OpenCV, imported where it is needed."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

from flowseg.errors import FlowsegError


@cache
def load_cv2() -> Any:
    """Import OpenCV, or say what a bare server lacks."""
    try:
        cv2 = import_module("cv2")
        # problems of a file are raised here, in one line; OpenCV would print them as well
        if hasattr(cv2, "setLogLevel"):  # OpenCV 4
            cv2.setLogLevel(0)
        else:
            cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    except ModuleNotFoundError as error:
        if error.name != "cv2":
            raise
        raise FlowsegError(
            "OpenCV is not installed", remedy="install it: pip install opencv-python"
        ) from error
    except ImportError as error:
        raise FlowsegError(
            f"OpenCV cannot be loaded: {error}",
            remedy="install what it needs (Debian, Ubuntu: apt-get install libgl1 libglib2.0-0) "
            "or the build that needs no display: "
            "pip uninstall opencv-python && pip install opencv-python-headless",
        ) from error
    return cv2
