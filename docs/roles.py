"""Shows the Sphinx roles of the docstrings (:func:`flowseg.x`) as plain code in the API pages."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

_ROLE = re.compile(r":(?:func|class|meth|mod|data|attr):`~?([^`]+)`")


class PlainRoles(Extension):
    """Rewrites each docstring before it is parsed."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:  # noqa: ARG002  (griffe passes more)
        """Called by griffe for every object that it has loaded."""
        if obj.docstring is not None:
            obj.docstring.value = _ROLE.sub(r"`\1`", obj.docstring.value)
