"""Errors that the user can fix, as messages of napari."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from napari.utils.notifications import show_error

from flowseg.errors import as_user_error


@contextmanager
def errors_shown() -> Iterator[None]:
    """Show such an error in place of raising it; also as a decorator."""
    try:
        yield
    except Exception as error:
        user_error = as_user_error(error)
        if user_error is None:
            raise
        show_error(str(user_error))
