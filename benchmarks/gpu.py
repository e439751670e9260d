"""Everything that a GPU has to show, in one command: `make gpu`, or

    python benchmarks/gpu.py --out gpu --minutes 9 [--peer-python CP3/bin/python] [--only net,fit]

It needs a Python with torch and what flowseg needs, no data and no network. Each stage (see
gpu_stages.py) is a process of its own with a limit; its figures are written at once, and a stage
that fails or takes too long costs no other. In the end `gpu.md` has a row for each figure, with its
target, and the exit code is 1 if a gate failed. With `--device cpu --small` the same runs anywhere
within a minute, so that the script is right when a GPU is at hand for minutes only.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from flowseg.io.atomic import write_text

STAGES = {
    "data": 60,
    "warm_up": 90,
    "tests": 90,
    "machine": 30,
    "step": 40,
    "fit": 110,
    "predict": 80,
    "loader": 60,
    "net": 60,
    "peer": 150,
    "repeat": 100,
    "memory": 60,
    "nccl": 60,
}
"""Names in their order, and limits in seconds."""

FIRST = ("data", "warm_up", "tests")
LAST = ("repeat", "memory", "nccl")
"""They time nothing on the card, and run side by side."""


def run_stage(name: str, args: argparse.Namespace, limit: float) -> dict[str, Any]:
    """Run a stage in a process group of its own; its rows, and how it ended."""
    folder: Path = args.out
    rows = folder / f"{name}.rows.json"
    rows.unlink(missing_ok=True)
    command = [sys.executable, str(Path(__file__).with_name("gpu_stages.py")), name, str(folder)]
    command += ["--device", args.device]
    command += ["--small"] if args.small else []
    command += ["--peer-python", args.peer_python] if args.peer_python else []
    command += ["--limit", str(limit)]
    start = time.perf_counter()
    with (folder / f"{name}.log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            status: int | str = process.wait(limit)
        except subprocess.TimeoutExpired:
            status = f"over its limit of {limit:.0f} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    found = json.loads(rows.read_text(encoding="utf-8")) if rows.exists() else []
    seconds = round(time.perf_counter() - start, 1)
    return {"seconds": seconds, "status": status, "rows": found}


def table(result: dict[str, dict[str, Any]]) -> str:
    """The figures as a Markdown table: what a stage measured, its target, and whether it is met."""
    lines = ["| stage | what | value | target | |", "|---|---|---|---|---|"]
    for name, stage in result.items():
        for row in stage["rows"]:
            value = f"{row['value']:.4g}" if isinstance(row["value"], float) else row["value"]
            met = {None: "", True: "met", False: "**missed**"}[row["met"]]
            target = row["target"] or ""
            lines.append(f"| {name} | {row['what']} | {value} {row['unit']} | {target} | {met} |")
        if stage["status"] != 0:
            lines.append(f"| {name} | ended with {stage['status']} | | | **failed** |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("gpu"), help="a folder for the results")
    parser.add_argument("--minutes", type=float, default=9.0, help="for all stages")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="stand-ins in size, for any machine")
    parser.add_argument("--peer-python", help="python with cellpose 3.x, for the stage peer")
    parser.add_argument("--only", help="these stages, with commas; others keep their figures")
    args = parser.parse_args()
    args.out = args.out.resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    wanted = args.only.split(",") if args.only else list(STAGES)
    if unknown := set(wanted) - set(STAGES):
        parser.error(f"there is no stage {', '.join(sorted(unknown))}: {', '.join(STAGES)}")
    os.environ["NUMBA_CACHE_DIR"] = str(args.out / "numba")  # each stage starts compiled loops warm
    store = args.out / "gpu.json"
    result = json.loads(store.read_text(encoding="utf-8")) if store.exists() else {}
    end = time.perf_counter() + 60 * args.minutes

    def run(name: str) -> None:
        limit = min(end - time.perf_counter(), STAGES[name])
        if limit < 5:
            result[name] = {"seconds": 0, "status": "no time left", "rows": []}
        else:
            result[name] = run_stage(name, args, limit)
        write_text(store, json.dumps(result, indent=1))
        print(f"{name}: {result[name]['status']}, {result[name]['seconds']} s", flush=True)

    alone = [(name,) for name in STAGES if name not in (*FIRST, *LAST)]
    for group in (FIRST, *alone, LAST):
        with ThreadPoolExecutor(len(group)) as pool:
            list(pool.map(run, [name for name in group if name in wanted]))
    ordered = {name: result[name] for name in STAGES if name in result}
    write_text(args.out / "gpu.md", table(ordered))
    print(table(ordered))
    failed = any(stage["status"] != 0 for stage in ordered.values())
    missed = any(row["gate"] and not row["met"] for s in ordered.values() for row in s["rows"])
    return int(failed or missed)


if __name__ == "__main__":
    sys.exit(main())
