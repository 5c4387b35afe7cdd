"""What MindSpore's GPU plugin needs to load on a machine without CUDA: libraries that say "no driver" to everything.

The plugin is linked with CUDA 11 (2.5 GB). A rehearsal loads it and compiles; it ends where MindSpore would first turn
to a card. So none of CUDA's functions has to work, they only have to be there: each is made, under the library's own
name and symbol version, as a function that returns an error. Which ones is read from the plugin itself.

Needs gcc and readelf (Debian: gcc, libc6-dev).
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

NO_DRIVER = "CUDA driver version is insufficient"
"""How CUDA's runtime words its error 35, cudaErrorInsufficientDriver."""

_RELEASE = "11.6"
_PLUGINS = ("libmindspore_gpu.so.11.6", "gpu/libcuda_ops.so.11")
_RUNTIME = "libcudart.so.11.0"
_DRIVER = "libcuda.so.1"
_BY_PREFIX = {  # of symbols without a version, as they stand in libcuda_ops
    "cublas": "libcublas.so.11",
    "cudnn": "libcudnn.so.8",
    "cufft": "libcufft.so.10",
    "curand": "libcurand.so.10",
    "cusolver": "libcusolver.so.11",
    "cusparse": "libcusparse.so.11",
    "nvrtc": "libnvrtc.so.11.2",
    "cuda": _RUNTIME,
    "__cuda": _RUNTIME,
    "cu": _DRIVER,
}
_UNDEFINED = re.compile(r"\sUND (?P<name>\w+)(?:@(?P<version>\S+))?")
_TEXTS = ("cudaGetErrorString", "cudaGetErrorName")


def make_cuda(folder: Path) -> Path:
    """Make `folder` such that it serves as CUDA_HOME, with lib64 and bin; return it."""
    libraries, programs = folder / "lib64", folder / "bin"
    libraries.mkdir(parents=True)
    programs.mkdir()
    symbols = defaultdict(set)
    for plugin in _PLUGINS:
        for symbol, library in _required(mindspore_libraries() / "plugin" / plugin):
            symbols[library].add(symbol)
    for library in {*_BY_PREFIX.values()}:
        _build(libraries / library, sorted(symbols[library]))
    (libraries / f"libcudart.so.{_RELEASE}.55").symlink_to(_RUNTIME)  # MindSpore reads the release from such a name
    nvcc = programs / "nvcc"
    nvcc.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {_RELEASE}, V{_RELEASE}.55'\n")
    nvcc.chmod(0o755)
    return folder


def mindspore_libraries() -> Path:
    """The folder of the installed MindSpore's own libraries; MindSpore isn't imported."""
    spec = importlib.util.find_spec("mindspore")
    assert spec
    assert spec.origin
    return Path(spec.origin).parent / "lib"


def _required(plugin: Path) -> Iterator[tuple[str, str]]:
    """What `plugin` wants from CUDA: each symbol, and the library that has it."""
    table = subprocess.run(["readelf", "--dyn-syms", "-W", plugin], check=True, capture_output=True, text=True).stdout
    for match in _UNDEFINED.finditer(table):
        name, version = match["name"], match["version"]
        if version in _BY_PREFIX.values():
            yield name, version
        elif version is None and (library := _library_of(name)):
            yield name, library


def _library_of(symbol: str) -> str | None:
    prefixes = [prefix for prefix in _BY_PREFIX if re.match(rf"{prefix}(?=[A-Z])", symbol)]
    prefixes += [prefix for prefix in _BY_PREFIX if prefix not in ("cu", "cuda") and symbol.startswith(prefix)]
    return _BY_PREFIX[max(prefixes, key=len)] if prefixes else None


def _build(library: Path, symbols: list[str]) -> None:
    """Compile `library` with `symbols`, all under its own name as symbol version, as NVIDIA's are."""
    source = library.with_suffix(".c")
    source.write_text("".join(map(_function, symbols)))
    options = ["-shared", "-fPIC", f"-Wl,-soname,{library.name}"]
    if library.name != _DRIVER:
        versions = library.with_suffix(".map")
        versions.write_text(f"{library.name} {{ global: *; }};\n")
        options.append(f"-Wl,--version-script={versions}")
    subprocess.run(["gcc", "-w", *options, "-o", library, source], check=True)


def _function(symbol: str) -> str:
    if symbol in _TEXTS:
        return f'const char *{symbol}(void) {{ return "{NO_DRIVER} for CUDA runtime version"; }}\n'
    return f"int {symbol}(void) {{ return 35; }}\n"
