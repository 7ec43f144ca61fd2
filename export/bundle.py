"""Writes the generated model and the kernels as a folder that a user's own project can take in as it is."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from export.atomic import write_bytes
from export.codegen import GeneratedModel
from export.errors import ExportError
from export.kernels import VIEW, kernels_of
from export.kernels.kernel import Kernel

_SOURCES = (".c", ".h")
_INLINE_FUNCTION = re.compile(r"^static inline [^;{]*?\b(tn_\w+)\([^;{]*\) \{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
_DEFINITION = re.compile(r"^void (tn_\w+)\(", re.MULTILINE)
_PORTABLE_FORM = "_portable_s8"
_INCLUDE = re.compile(r'#include "(\w+\.h)"')
_LICENSE_LINE = "SPDX-License-Identifier: Apache-2.0"


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the sources go in one build system's kind of project, and the build files around them."""

    name: str
    source_folder: str
    build_files: Callable[[str, list[str]], dict[str, str]]
    """From the model's name and the C files (relative to the bundle) to the texts of the build files."""


def _plain(name: str, sources: list[str]) -> dict[str, str]:
    return {}


def _cmake(name: str, sources: list[str]) -> dict[str, str]:
    listed = "\n  ".join(sources)
    return {
        "CMakeLists.txt": f"""# {_LICENSE_LINE}
# add_subdirectory() this folder and link the target tinynas_{name}.
cmake_minimum_required(VERSION 3.13)
add_library(tinynas_{name} STATIC
  {listed})
target_include_directories(tinynas_{name} PUBLIC src)
set_target_properties(tinynas_{name} PROPERTIES C_STANDARD 99)
# Multiply and add must round separately, as they did in the reference.
target_compile_options(tinynas_{name} PRIVATE -O2 -ffp-contract=off -ffunction-sections -fdata-sections)
"""
    }


def _arduino(name: str, sources: list[str]) -> dict[str, str]:
    return {
        "library.properties": f"""name=tinynas_{name}
version=1.0.0
author=tinynas
maintainer=tinynas
sentence=The network {name}, compiled to C by tinynas.
paragraph=Include tinynas_{name}.h. The comment at the beginning of model.h shows how to run the network.
category=Data Processing
url=
architectures=*
includes=tinynas_{name}.h
""",
        f"src/tinynas_{name}.h": '#pragma once\n#ifdef __cplusplus\nextern "C" {\n#endif\n#include "model.h"\n'
        "#ifdef __cplusplus\n}\n#endif\n",
    }


def _platformio(name: str, sources: list[str]) -> dict[str, str]:
    return {
        "library.json": f"""{{
  "name": "tinynas_{name}",
  "version": "1.0.0",
  "description": "The network {name}, compiled to C by tinynas",
  "license": "Apache-2.0",
  "build": {{ "srcDir": "src", "includeDir": "src", "flags": ["-O2", "-ffp-contract=off"] }}
}}
"""
    }


def _zephyr(name: str, sources: list[str]) -> dict[str, str]:
    listed = "\n  ".join(f"../{source}" for source in sources)
    return {
        "zephyr/module.yml": f"name: tinynas_{name}\nbuild:\n  cmake: zephyr\n  kconfig: zephyr/Kconfig\n",
        "zephyr/Kconfig": f'config TINYNAS_{name.upper()}\n\tbool "The network {name}"\n\tdefault y\n',
        "zephyr/CMakeLists.txt": f"""# {_LICENSE_LINE}
# Point ZEPHYR_EXTRA_MODULES at the folder above this one.
if(CONFIG_TINYNAS_{name.upper()})
  zephyr_library_named(tinynas_{name})
  zephyr_library_sources(
  {listed})
  zephyr_library_compile_options(-O2 -ffp-contract=off)
  zephyr_include_directories(../src)
endif()
""",
    }


def _esp_idf(name: str, sources: list[str]) -> dict[str, str]:
    listed = "\n       ".join(f'"{source}"' for source in sources)
    return {
        "CMakeLists.txt": f"""# {_LICENSE_LINE}
# Put this folder under components/ of an ESP-IDF project.
idf_component_register(
  SRCS {listed}
  INCLUDE_DIRS "src")
target_compile_options(${{COMPONENT_LIB}} PRIVATE -O2 -ffp-contract=off)
""",
    }


LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout("plain", "", _plain),
        Layout("cmake", "src", _cmake),
        Layout("arduino", "src", _arduino),
        Layout("platformio", "src", _platformio),
        Layout("zephyr", "src", _zephyr),
        Layout("esp-idf", "src", _esp_idf),
    )
}


def kernel_sources(kernels: Iterable[Kernel]) -> dict[str, str]:
    """Texts by file name of what the kernels are made of: their own files, those of functions they call, and headers.

    Every function that other files call has a file of its name, or is an inline function of a header. Some have a
    portable form in another file, for the compiler to choose.
    """
    folder = resources.files("firmware") / "kernels"
    texts = {entry.name: entry.read_text(encoding="utf-8") for entry in folder.iterdir() if entry.name[-2:] in _SOURCES}
    code = {name.removesuffix(".c"): text for name, text in texts.items() if name.endswith(".c")}
    code |= {name: body for text in texts.values() for name, body in _INLINE_FUNCTION.findall(text)}
    portable = {
        function: name
        for name, text in code.items()
        if name.endswith(_PORTABLE_FORM)
        for function in _DEFINITION.findall(text)
    }
    wanted = [kernel.name for kernel in kernels if kernel is not VIEW]
    needed: set[str] = set()
    while wanted:
        name = wanted.pop()
        if name in portable:
            wanted.append(portable[name])
        if name in code and name not in needed:
            needed.add(name)
            wanted += re.findall(r"\btn_\w+", code[name])
    found = {f"{name}.c" for name in needed} & texts.keys()
    headers = {header for name in found for header in _INCLUDE.findall(texts[name])}
    headers |= {kernel.header for kernel in kernels}
    while more := {header for name in headers for header in _INCLUDE.findall(texts[name])} - headers:
        headers |= more
    return {name: texts[name] for name in sorted(found | headers)}


def write_bundle(model: GeneratedModel, folder: Path, layout_name: str = "plain") -> tuple[str, ...]:
    """Write ``model`` and the kernels that it needs into ``folder``; returns the files, relative to it, sorted.

    The C files need nothing but a C99 compiler. Raises ExportError for an unknown layout.
    """
    layout = LAYOUTS.get(layout_name)
    if layout is None:
        raise ExportError(f"there is no layout '{layout_name}'; choose from {', '.join(LAYOUTS)}")
    texts = {**model.files, **kernel_sources(kernels_of(model.plan.graph, model.plan.instruction_set))}
    prefix = f"{layout.source_folder}/" if layout.source_folder else ""
    files = {f"{prefix}{name}": text for name, text in texts.items()}
    sources = sorted(name for name in files if name.endswith(".c"))
    files |= layout.build_files(model.identifier, sources)
    for name, text in files.items():
        path = folder / name
        write_bytes(path, text.encode())
    return tuple(sorted(files))
