"""Where a network runs: device profiles, boards, flashing and the measurement store."""
