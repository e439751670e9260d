"""``python predict.py ...`` is ``flowseg predict ...``."""

import sys

from flowseg.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["predict", *sys.argv[1:]]))
