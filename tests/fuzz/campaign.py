"""Read very many damaged files: `python tests/fuzz/campaign.py --inputs 100000`.

Each reader runs in a process of its own whose memory is limited, and each input has ten seconds.
Input K of a reader depends on the seed and K alone: `--only png --first K --inputs 1 --keep DIR`
makes it again.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from targets import TARGETS, Target

from flowseg.errors import FlowsegError

SECONDS = 10
MEMORY = 2**30


def attempt(target: Target, data: bytes, path: Path) -> str | None:
    """Read one input; None where it was read, else the error's text.

    Raises
    ------
    AssertionError
        If anything but a FlowsegError of one line that names the file came out.
    """
    path.write_bytes(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            target.read(path)
    except FlowsegError as error:
        text = str(error)
        assert "/fuzz-" in text, f"names no file: {text[:300]}"
        assert "\n" not in text, text[:300]
        assert len(text) <= 4000, f"{len(text)} characters: {text[:300]}"
        assert "enough memory" not in text, text[:300]
        return text
    except Exception as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if "/flowseg/" in f.filename]
        where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}: " if frames else ""
        raise AssertionError(f"{where}{type(error).__name__}: {str(error)[:300]}") from error
    return None


def one(target: Target, seed: int, index: int) -> bytes:
    """Input number `index`."""
    return target.make(Random(f"{seed} {target.path} {index}"))


def _work(name: str, seed: int, first: int, last: int, pipe: Connection, place: Any) -> None:
    # the decoders of PNG, JPEG and TIFF write what they find odd past Python, a line a file
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    target = TARGETS[name]
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir=shm()))
    target.prepare(folder)
    path = folder / target.path
    attempt(target, one(target, seed, 0), path)  # compiles what is compiled
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    read = refused = 0
    slowest, problems = 0.0, []
    for index in range(first, last):
        place.value = index
        data = one(target, seed, index)
        started = time.perf_counter()
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            if attempt(target, data, path) is None:
                read += 1
            else:
                refused += 1
        except AssertionError as error:
            problems.append((index, str(error)))
        signal.setitimer(signal.ITIMER_REAL, 0)
        slowest = max(slowest, time.perf_counter() - started)
    shutil.rmtree(folder)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    pipe.send((read, refused, slowest, peak, problems))


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def shm() -> str | None:
    """A folder in memory where there is one."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def run(name: str, seed: int, first: int, inputs: int) -> bool:
    """Read `inputs` inputs of one reader, print a line on them; whether all went well."""
    last = first + inputs
    total = [0, 0]
    slowest, peak, problems = 0.0, 0, []
    started = time.perf_counter()
    # spawn: a fork would take over the memory and the threads of this process
    context = multiprocessing.get_context("spawn")
    while first < last:
        end = min(last, first + 25_000)
        ours, theirs = context.Pipe(duplex=False)
        place = context.Value("q", first)
        worker = context.Process(target=_work, args=(name, seed, first, end, theirs, place))
        worker.start()
        theirs.close()
        try:
            read, refused, slow, most, found = ours.recv()
        except EOFError:
            worker.join()
            why = "hangs" if worker.exitcode == -signal.SIGALRM else f"ends with {worker.exitcode}"
            problems.append((place.value, f"the process {why}"))
            first = place.value + 1
            continue
        worker.join()
        total[0] += read
        total[1] += refused
        slowest, peak = max(slowest, slow), max(peak, most)
        problems += found
        first = end
    say(
        f"{name:<15} {inputs:>8,} inputs  {total[0]:>8,} read  {total[1]:>8,} refused  "
        f"{len(problems):>5,} problems  slowest {slowest:.2f} s  peak {peak / 1e6:.0f} MB  "
        f"in {time.perf_counter() - started:.0f} s"
    )
    kinds: dict[str, list[int]] = {}
    for index, text in problems:
        kinds.setdefault(":".join(text.split(":")[:3]), []).append(index)
    for indices in kinds.values():
        text = dict(problems)[indices[0]]
        say(f"  {len(indices)} x, first {indices[0]}: {' '.join(text.split())}")
    return not problems


def main() -> int:
    """Run the campaign; 1 where a problem was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000, help="of each reader")
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--only", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--keep", type=Path, help="only write the inputs into this folder")
    args = parser.parse_args()
    if args.keep is not None:
        for name in args.only:
            for index in range(args.first, args.first + args.inputs):
                path = args.keep / f"{index}-{Path(TARGETS[name].path).name}"
                path.write_bytes(one(TARGETS[name], args.seed, index))
        return 0
    bad = [name for name in args.only if not run(name, args.seed, args.first, args.inputs)]
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
