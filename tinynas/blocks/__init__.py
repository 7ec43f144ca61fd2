"""The kinds of block that a search space can be made of, one file each, without torch: see `tinynas.modules`."""

from tinynas.blocks.inverted import INVERTED
from tinynas.blocks.kind import BlockKind

KINDS: dict[str, BlockKind] = {kind.name: kind for kind in (INVERTED,)}
"""By the name that a space's file calls it."""
