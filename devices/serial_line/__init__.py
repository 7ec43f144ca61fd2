"""Boards on a line that cannot be trusted: ports, the protocol's host side, the board of the lab."""
