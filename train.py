"""``python train.py ...`` is ``flowseg train ...``."""

import sys

from flowseg.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["train", *sys.argv[1:]]))
