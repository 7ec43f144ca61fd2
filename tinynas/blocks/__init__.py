"""The kinds of block that a search space can be made of, one file each, without torch: see `tinynas.modules`."""

from tinynas.blocks.cell import CELL
from tinynas.blocks.conv1d import CONV1D
from tinynas.blocks.inverted import INVERTED
from tinynas.blocks.kind import BlockKind
from tinynas.blocks.residual import RESIDUAL

KINDS: dict[str, BlockKind] = {kind.name: kind for kind in (INVERTED, RESIDUAL, CONV1D, CELL)}
"""By the name that a space's file calls it."""
