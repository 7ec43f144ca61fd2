"""Writing an image with the user's own tool: the tools as data, probes on USB, drives, UF2 files."""
