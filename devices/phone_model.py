"""What runs on a phone: a model file, as it is, in TensorFlow Lite's runtime."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from devices.errors import DeviceError


@dataclass(frozen=True)
class PhoneModel:
    """A ``.tflite`` file for a phone."""

    tflite: Path
    device: str
    input_shape: tuple[int, ...]
    """Of its one input, batch included."""
    sha256: str
    flash_bytes: int
    arena_bytes: int = 0
    """The phone's runtime decides on it; what it took is known after a measurement."""
    code_bytes: int = 0
    """The kernels are the runtime's."""
    toolchain: str = "TensorFlow Lite model"

    @property
    def model_id(self) -> str:
        """The beginning of the file's hash."""
        return self.sha256[:16]


def phone_model(path: Path, device: str, input_shape: tuple[int, ...]) -> PhoneModel:
    """The model in the file ``path`` for the phone ``device``. Raises DeviceError when it cannot be read."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DeviceError(f"the model '{path}' cannot be read ({error.strerror}); check its name") from error
    return PhoneModel(path, device, input_shape, hashlib.sha256(content).hexdigest(), len(content))
