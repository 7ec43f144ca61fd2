"""The page on search spaces is the code's, and what it says of a space of one's own works."""

from __future__ import annotations

import re
from pathlib import Path

from scripts.space_docs import OWN_SPACE, PAGE, page
from tinynas.blocks import KINDS
from tinynas.lower import lower
from tinynas.space import load_space, space_names


def test_the_committed_page_is_current() -> None:
    hint = "run python -m scripts.space_docs"
    assert PAGE.read_text(encoding="utf-8") == page(), hint


def test_every_space_and_kind_has_its_section() -> None:
    text = page()
    for name in space_names():
        assert f"### `{name}`\n" in text, f"{name} needs a typical_input"
    for name in KINDS:
        assert f"### `{name}`: " in text
    assert max(len(line) for line in OWN_SPACE.splitlines()) <= 120


def test_the_pages_own_space_is_one(tmp_path: Path) -> None:
    found = re.search(r"```toml\n(.*?)```", OWN_SPACE, re.DOTALL)
    assert found is not None
    path = tmp_path / "mine.toml"
    path.write_text(found[1], encoding="utf-8")
    space, shape = load_space(path), (32, 32, 1)
    assert space.resolutions(shape) == (24, 32)
    first, second = 4 + 4**2, 2 + 2**2 + 2**3
    assert space.size(shape) == 2 * 2 * first * second
    assert len(set(space.every(shape))) == space.size(shape)
    for architecture in (space.extreme(shape, largest=True), space.extreme(shape, largest=False)):
        assert lower(architecture, space, shape, 10).operators
