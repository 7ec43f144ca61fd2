"""The manifest names every file by its content, and two exports that are the same have the same one."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy
import pytest

from export.errors import ExportError
from export.manifest import tool_versions, write_manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "c").mkdir()
    (tmp_path / "model.onnx").write_bytes(b"onnx")
    (tmp_path / "c" / "model.c").write_bytes(b"")
    return tmp_path


def test_every_file_is_listed_with_its_size_and_hash(folder: Path) -> None:
    path = write_manifest(folder, settings={"seed": 1}, agreement={"inputs": 3}, compiler="gcc 12", created="2030")
    content = json.loads(path.read_text())
    assert content["files"] == {
        "c/model.c": {"sha256": hashlib.sha256(b"").hexdigest(), "size_bytes": 0},
        "model.onnx": {"sha256": hashlib.sha256(b"onnx").hexdigest(), "size_bytes": 4},
    }
    assert (content["settings"], content["agreement"], content["created"]) == ({"seed": 1}, {"inputs": 3}, "2030")
    assert content["versions"]["compiler"] == "gcc 12"
    assert content["versions"]["numpy"] == numpy.__version__


def test_manifest_is_reproducible_and_does_not_list_itself(folder: Path) -> None:
    path = write_manifest(folder, settings={"b": 1, "a": [2]})
    first = path.read_bytes()
    assert write_manifest(folder, settings={"a": [2], "b": 1}).read_bytes() == first
    assert "created" not in json.loads(first)
    assert sorted(entry.name for entry in folder.iterdir()) == ["c", "manifest.json", "model.onnx"]


def test_versions_name_every_tool_of_the_chain() -> None:
    tools = {"python", "torch", "tensorflow", "onnx", "onnxscript", "ai-edge-litert", "numpy"}
    versions = tool_versions()
    assert tools <= set(versions)
    assert all(versions[tool] != "not installed" for tool in tools)


@pytest.mark.parametrize("value", [float("nan"), Path("x"), {1: object()}])
def test_value_without_a_json_form_is_refused_and_the_old_manifest_stays(folder: Path, value: object) -> None:
    before = write_manifest(folder, settings={}).read_bytes()
    with pytest.raises(ExportError, match="has no JSON form"):
        write_manifest(folder, settings={"value": value})
    assert (folder / "manifest.json").read_bytes() == before


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no export in"):
        write_manifest(tmp_path / "absent", settings={})
    assert not (tmp_path / "absent").exists()
