"""``python -m flowseg`` is the command ``flowseg``."""

from flowseg.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
