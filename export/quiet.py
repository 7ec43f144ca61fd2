"""Keeps the conversion libraries' chatter off the terminal without losing it.

PyTorch's exporter and TensorFlow's converter print from Python and from C++, whatever their log levels say, and would
mix with the command line's JSON. What they print is kept and belongs to the error, if there is one.
"""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

from export.errors import ExportError

_TAIL_CHARACTERS = 2000


@contextmanager
def quiet(doing: str) -> Iterator[None]:
    """Collect everything that the block writes to file descriptors 1 and 2 and to Python's streams; drop it on success.

    ``doing`` completes the sentence "… failed". Raises ExportError with the exception and the end of what was printed,
    except that errors of our own pass through unchanged, and so do exceptions that are no errors (an interrupt).
    """
    sys.stdout.flush()
    sys.stderr.flush()
    with tempfile.TemporaryFile() as log:
        saved = {descriptor: os.dup(descriptor) for descriptor in (1, 2)}
        failure: Exception | None = None
        try:
            for descriptor in saved:
                os.dup2(log.fileno(), descriptor)
            with (
                open(log.fileno(), "w", encoding="utf-8", closefd=False) as text,
                redirect_stdout(text),
                redirect_stderr(text),
                warnings.catch_warnings(),
            ):
                warnings.simplefilter("ignore")
                yield
        except ExportError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever the library raises becomes one stated failure
            failure = error
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for descriptor, original in saved.items():
                os.dup2(original, descriptor)
                os.close(original)
        if failure is not None:
            log.seek(0)
            printed = log.read().decode(errors="replace").strip()[-_TAIL_CHARACTERS:]
            details = f"; it printed: {printed}" if printed else ""
            raise ExportError(f"{doing} failed: {failure}{details}") from failure
