"""The export's ``manifest.json``: what the files are, what made them, and how far the stages agree."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from export.atomic import write_bytes
from export.errors import ExportError

MANIFEST_NAME = "manifest.json"

_TOOLS = ("ai-edge-litert", "numpy", "onnx", "onnxscript", "tensorflow", "tinynas", "torch")


def write_manifest(
    directory: Path,
    *,
    settings: Mapping[str, Any],
    agreement: Mapping[str, Any] | None = None,
    compiler: str | None = None,
    created: str | None = None,
) -> Path:
    """Write ``manifest.json`` over every file in ``directory`` and below it, and return its path.

    ``settings`` and ``agreement`` are JSON values, ``compiler`` is the C compiler's own version line, ``created`` a
    timestamp; what is None is left out, so that the same export gives the same bytes. Raises ExportError when a file
    cannot be read, the manifest cannot be written, or a value has no JSON form.
    """
    content: dict[str, Any] = {
        "files": _files(directory),
        "versions": tool_versions() | ({} if compiler is None else {"compiler": compiler}),
        "settings": dict(settings),
    }
    if agreement is not None:
        content["agreement"] = dict(agreement)
    if created is not None:
        content["created"] = created
    try:
        text = json.dumps(content, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise ExportError(f"the manifest of '{directory}' has no JSON form: {error}; mend that value") from error
    path = directory / MANIFEST_NAME
    write_bytes(path, (text + "\n").encode())
    return path


def tool_versions() -> dict[str, str]:
    """The installed version of each tool that takes part in an export, by distribution name, and Python's."""
    versions = {"python": platform.python_version()}
    for tool in _TOOLS:
        try:
            versions[tool] = metadata.version(tool)
        except metadata.PackageNotFoundError:
            versions[tool] = "not installed"
    return versions


def _files(directory: Path) -> dict[str, dict[str, Any]]:
    if not directory.is_dir():
        raise ExportError(f"there is no export in '{directory}' to describe; export into it first")
    files = {}
    try:
        for path in sorted(directory.rglob("*")):
            if path.is_file() and path != directory / MANIFEST_NAME:
                with path.open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                files[path.relative_to(directory).as_posix()] = {"sha256": digest, "size_bytes": path.stat().st_size}
    except OSError as error:
        raise ExportError(f"'{error.filename}' cannot be read for the manifest: {error.strerror}") from error
    return files
