"""Modules that load when they are first used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

LOADED = "print('loaded')\nANSWER = 42\n"
PROGRAM = """
import sys
from maia.commands.laziness import load_lazily
load_lazily("dear")
load_lazily("dear")
import dear
import dear as same
print("imported", same is dear, sys.modules["dear"] is dear)
if "submodule" in sys.argv:
    from dear import part
    print(part.NAME)
else:
    print(dear.ANSWER)
    import dear as whole
    print(whole.ANSWER, type(whole).__name__, hasattr(dear, "no_such_thing"))
"""


def run(folder: Path, *arguments: str) -> list[str]:
    (folder / "dear").mkdir()
    (folder / "dear" / "__init__.py").write_text(LOADED)
    (folder / "dear" / "part.py").write_text("NAME = 'part'\n")
    program = f"import sys; sys.path.insert(0, {str(folder)!r})\n{PROGRAM}"
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def test_it_loads_once_and_when_it_is_used(tmp_path: Path) -> None:
    assert run(tmp_path) == ["imported True True", "loaded", "42", "42 module False"]


def test_its_parts_can_be_imported(tmp_path: Path) -> None:
    assert run(tmp_path, "submodule") == ["imported True True", "loaded", "part"]
