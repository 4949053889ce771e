"""What tests of files share: another process, equal bits, and zips that somebody made."""

import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import alberta_nb as ab

# How most tests compile: XLA's newer emitters of kernels take most of the time of a small program.
QUICK = {"xla_cpu_use_fusion_emitters": False, "xla_cpu_parallel_codegen_split_count": 1}


def is_option(name: str, value: Any) -> bool:
    """Whether the compiler of this JAX knows an option: they come and go, and one that it does not know is an error."""
    try:
        return jax.jit(jnp.negative, compiler_options={name: value})(1.0) == -1.0
    except Exception:
        return False


HASTY = {name: value for name, value in QUICK.items() if is_option(name, value)}
HASTILY = {  # the same for another process
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "XLA_FLAGS": " ".join(f"--{name}={value}".lower() for name, value in HASTY.items()),
}


def _python(arguments: tuple[object, ...], more: dict[str, str]) -> dict[str, Any]:
    """How another process is started, with this package."""
    path = os.pathsep.join([str(Path(ab.__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    return {
        "args": [sys.executable, *map(str, arguments)],
        "env": os.environ | {"PYTHONPATH": path} | more,
        "text": True,
    }


def run_python(*arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
    """Another process, with this package."""
    return subprocess.run(**_python(arguments, more), capture_output=True, check=False)


def popen_python(*arguments: object, **more: str) -> subprocess.Popen[str]:
    """The same, which goes on meanwhile; its output is read from it."""
    return subprocess.Popen(**_python(arguments, more), stdout=subprocess.PIPE)


def same(a: Any, b: Any) -> bool:
    """Whether two trees are of one structure and hold the same bits of the same types."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    alike = jax.tree.structure(a) == jax.tree.structure(b)
    return alike and all(x.dtype == y.dtype and same_bits(x, y) for x, y in pairs)


def same_bits(a: Any, b: Any) -> bool:
    keys = jnp.issubdtype(a.dtype, jax.dtypes.prng_key)
    x, y = (np.asarray(jax.random.key_data(v) if keys else v) for v in (a, b))
    return x.shape == y.shape and x.tobytes() == y.tobytes()


def parts_of(data: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The header and the other members."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    return json.loads(members.pop("header.json")), members


def zipped(header: Any, members: dict[str, bytes], *more: tuple[str, bytes], how: int = zipfile.ZIP_STORED) -> bytes:
    """A file with these members."""
    with zipfile.ZipFile(made := io.BytesIO(), "w", how) as archive:
        text = header if isinstance(header, str | bytes) else json.dumps(header)
        for name, member in (("header.json", text), *members.items(), *more):
            archive.writestr(zipfile.ZipInfo(name), member, how)
    return made.getvalue()


def with_array(header: dict[str, Any], name: str, **changes: Any) -> dict[str, Any]:
    """The header with something else said of an array."""
    arrays = header["arrays"]
    return header | {"arrays": arrays | {name: arrays[name] | changes}}
