"""How much work a study does by default."""

from __future__ import annotations

import pytest

from tinynas.effort import SMALL_DATA, Effort
from tinynas.errors import SearchError


def test_few_inputs_are_gone_through_more_often() -> None:
    few, many = Effort.for_data(SMALL_DATA - 1, {}), Effort.for_data(SMALL_DATA, {})
    assert many == Effort()
    assert few.supernet_epochs > many.supernet_epochs
    assert few.finalist_epochs > many.finalist_epochs
    assert few.finalists == many.finalists


def test_what_is_chosen_is_kept() -> None:
    chosen = Effort.for_data(100, {"supernet_epochs": 2, "finalists": 1})
    assert (chosen.supernet_epochs, chosen.finalists) == (2, 1)
    assert chosen.finalist_epochs == Effort.for_data(100, {}).finalist_epochs


def test_what_is_unknown_is_named() -> None:
    with pytest.raises(SearchError, match="supernet_epoch'"):
        Effort.for_data(100, {"supernet_epoch": 2})
