"""A benchmark as a command that ends in order: by Ctrl-C and SIGTERM too, with every process that it has started."""

import argparse
import signal
import sys
from collections.abc import Callable

from benchmarks.overhead_parts.processes import Failed

_INTERRUPTED = 130  # the status of a program that Ctrl-C ended, by the shell's convention


def in_order(run: Callable[[], int]) -> int:
    """The exit status: what `run` returns, or 1 where it raises Failed, whose reason is printed."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell has told it to be ignored
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return run()
    except Failed as reason:
        print(f"FAILED: {reason}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; every process that was started has ended", file=sys.stderr)
        return _INTERRUPTED


def at_least_1(text: str) -> int:
    """The type of an argument that counts."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def _interrupt(*_: object) -> None:
    """SIGTERM as Ctrl-C: the runner knows how to end its loop by that, where an exception thrown into whatever callback
    runs just then may be swallowed."""
    signal.raise_signal(signal.SIGINT)
