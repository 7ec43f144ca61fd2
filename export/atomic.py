"""Writes a file whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from export.errors import ExportError


def write_bytes(path: Path, content: bytes) -> None:
    """Replace ``path`` by ``content`` through a temporary file beside it; its folder is made when it is missing.

    Raises ExportError when the folder or the file cannot be written; ``path`` is then as it was before.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        reason = error.strerror or str(error)
        raise ExportError(f"'{path}' cannot be written: {reason}; make room or choose another folder") from error
