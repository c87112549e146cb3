"""`maia`, and `python -m maia`. Ctrl-C ends it with a word, also while the command line is being imported."""

from __future__ import annotations

import os
import signal
import sys

_INTERRUPTED = 130


def main() -> None:
    """Run `maia` with the arguments of the process."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)
    from maia.cli import main as run

    run()


def _end(*_: object) -> None:
    """End the process, which has begun nothing yet: an exception could be lost in an import."""
    os.write(2, b"maia: interrupted\n")
    if "--json" in sys.argv:
        os.write(1, b'{"error":"interrupted","exit_status":%d}\n' % _INTERRUPTED)
    os._exit(_INTERRUPTED)


if __name__ == "__main__":
    main()
