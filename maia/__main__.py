"""`python -m maia …` is `maia …`."""

from __future__ import annotations

from maia.cli import main

main()
