"""The command line: parses, calls one worker, prints its result."""

from __future__ import annotations

import argparse
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from io import TextIOWrapper
from types import ModuleType
from typing import NoReturn

from flowseg._version import __version__
from flowseg.errors import Stopped, as_user_error

_COMMANDS = (
    *("train", "cross-validate", "predict", "pseudo-label", "distill", "evaluate", "validate"),
    *("explore", "export", "convert", "models", "info", "bundle", "submit", "demo"),
)


class _Parser(argparse.ArgumentParser):
    """Tells what is wrong in one line, as all else does."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Names the defaults that say something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        silent = action.default in (None, False, [])
        return action.help if silent else super()._get_help_string(action)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = _Parser(
        prog="flowseg", description="Instance segmentation of neurons in phase-contrast images."
    )
    parser.add_argument("--version", action="version", version=f"flowseg {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in _COMMANDS:
        module = _module(name)
        summary = (module.__doc__ or "").strip()
        command = commands.add_parser(
            name,
            help=summary,
            description=summary,
            formatter_class=_Help,
            allow_abbrev=False,  # `--pre` may mean two options tomorrow
        )
        module.add_arguments(command)
        level = command.add_mutually_exclusive_group()
        level.add_argument("--verbose", action="store_true", help="log more")
        level.add_argument(
            "--quiet", action="store_true", help="log warnings only, and show no progress bars"
        )
        command.add_argument(
            "--debug", action="store_true", help="show where in the code an error arose"
        )
    return parser


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    """Declare ``--device``; what there is, torch knows when the command runs."""
    parser.add_argument(
        "--device", default="auto", help="where to compute: auto, cpu, cuda, cuda:1, mps"
    )


def duration(text: str) -> float:
    """Seconds of a time such as 1h30m, for argparse."""
    found = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?", text)
    hours, minutes = (int(part or 0) for part in found.groups()) if found else (0, 0)
    if not hours and not minutes:
        raise argparse.ArgumentTypeError(f"{text!r} is no time such as 45m, 2h or 1h30m")
    return 3600.0 * hours + 60.0 * minutes


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, and return its exit code.

    0: done. 2: an error you can fix. 75: stopped by SIGTERM or Ctrl-C, and the same command goes on
    (a training with --resume).
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # what the console cannot print is escaped
            stream.reconfigure(errors="backslashreplace")
    parser = build_parser()
    args, unknown = parser.parse_known_args(argv)
    if unknown:  # argparse itself would point to the help of `flowseg`
        parser.exit(
            2,
            f"flowseg {args.command}: unrecognized arguments: {' '.join(unknown)}; "
            f"see flowseg {args.command} --help\n",
        )
    # Threads of torch that wait must sleep: on a busy machine spinning ones cost a tenfold.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if args.quiet:
        os.environ["TQDM_DISABLE"] = "1"  # read when tqdm is imported, here and in processes
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    level = logging.DEBUG if args.verbose else logging.WARNING if args.quiet else logging.INFO
    logging.getLogger("flowseg").setLevel(level)
    try:
        with _sigterm_raised():
            return int(_module(args.command).run(args))
    except KeyboardInterrupt as error:
        sys.stderr.write(f"flowseg {args.command}: {str(error) or 'stopped'}\n")
        return Stopped.EXIT_CODE
    except BrokenPipeError:
        # The reader of our output has gone; nothing is left to say to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        known = as_user_error(error)
        if known is None or args.debug:
            raise
        sys.stderr.write(f"flowseg {args.command}: {known}\n")
        return 2


@contextmanager
def _sigterm_raised() -> Iterator[None]:
    """Raise `Stopped` where SIGTERM comes, so that temporary files are removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> NoReturn:
        raise Stopped

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _module(command: str) -> ModuleType:
    return import_module(f"flowseg.cli.{command.replace('-', '_')}")


def say(text: str) -> None:
    """Print a result."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
