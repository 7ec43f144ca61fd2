"""The C that runs on the board; it is a package only so that it installs beside the Python that builds it."""
