"""Keeps the doctests from importing what only a CUDA build of torch brings."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("triton") else ["flowseg/flow/cuda.py"]
