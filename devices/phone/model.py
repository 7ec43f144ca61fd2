"""What runs on a phone: a model file, as it is, in TensorFlow Lite's runtime."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from devices.errors import DeviceError

_IDENTIFIER = b"TFL3"


@dataclass(frozen=True)
class PhoneModel:
    """A ``.tflite`` file for a phone."""

    tflite: Path
    device: str
    sha256: str
    flash_bytes: int
    input_shape: tuple[int, ...] = ()
    """Of its one input, batch included; needed for outputs only."""
    arena_bytes: int = 0
    """The phone's runtime decides on it; what it took is known after a measurement."""
    code_bytes: int = 0
    """The kernels are the runtime's."""
    toolchain: str = "TensorFlow Lite model"

    @property
    def model_id(self) -> str:
        """The beginning of the file's hash."""
        return self.sha256[:16]


def phone_model(path: Path, device: str, input_shape: tuple[int, ...] = ()) -> PhoneModel:
    """The model in the file ``path`` for the phone ``device``. Raises DeviceError when it is none."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DeviceError(f"the model '{path}' cannot be read ({error.strerror}); check its name") from error
    if content[4:8] != _IDENTIFIER:
        raise DeviceError(
            f"'{path}' is not a TensorFlow Lite model: bytes 4 to 7 should read TFL3; give a .tflite file"
        )
    return PhoneModel(path, device, hashlib.sha256(content).hexdigest(), len(content), input_shape)
