"""Where this machine gets its Python packages from, for what is built within another root."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")

_OPTIONS = ("cert", "index-url", "extra-index-url", "find-links", "trusted-host", "default-timeout")


def mounts(folder: Path) -> dict[str, str]:
    """What to mount where: pip's configuration, made in `folder`, and all that it names."""
    answer = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    )
    values = dict(re.findall(r"^(?:global|install|:env:)\.([\w-]+)='(.*)'$", answer.stdout, re.MULTILINE))
    conf = folder / "pip.conf"
    conf.write_text(
        "[global]\n" + "".join(f"{name} = {values[name]}\n" for name in _OPTIONS if name in values)
    )
    named = [path for value in values.values() for path in re.findall(r"(?:file://|\s|^)(/[\w./-]+)", value)]
    # The files of an index that is a folder lie beside it.
    found = {str(AUTHORITIES), *(path.removesuffix("/simple") for path in named)}
    return {path: path for path in sorted(found) if Path(path).exists()} | {str(conf): "/etc/pip.conf"}
