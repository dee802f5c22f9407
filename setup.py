"""Builds the native parts, each of which may be missing: nnkernels then says so (`nnkernels info`) and works without.

    cpu        C++ kernels and their operators over libtorch's stable ABI     needs a C++ compiler and torch's headers
    cuda       CUDA kernels, likewise                                         needs nvcc as well; no GPU
    autograd   plain calls as a C++ autograd node, for one torch              needs a C++ compiler and torch's headers
    info       build_info(), through pybind11                                 needs a C++ compiler

NNKERNELS_REQUIRE=cpu,cuda makes the absence of those parts an error, NNKERNELS_PARTS=cpu,info builds only those, and
NNKERNELS_CUDA_ARCHS=90 builds for that architecture only, NNKERNELS_BASELINE=1 the CPU kernels without AVX,
NNKERNELS_OPTIMIZE=1 with -O1, which compiles in a fraction of the time and runs slowly, and NNKERNELS_TORCHES=DIR:DIR a
node for each torch in those folders instead of the installed one (tools/build_wheel.py).
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
ABI_TARGET = "2.11"
PARTS = ("cpu", "cuda", "autograd", "info")
WANTED = os.environ.get("NNKERNELS_PARTS", ",".join(PARTS)).split(",")
# Any newer GPU compiles the PTX once and keeps it; a wheel, which is built once for all, has more.
CUDA_ARCHS = os.environ.get("NNKERNELS_CUDA_ARCHS", "80,90").split(",")
X86_ISAS = {
    "baseline": "",
    "avx2": "-mavx2 -mfma -mf16c",
    "avx512": "-mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mf16c -mprefer-vector-width=512",
}
OPTIMIZE = os.environ.get("NNKERNELS_OPTIMIZE")
# Threading jumps turns the clamps of a formula into chains of masks, up to 10 instructions a loop.
KERNEL_FLAGS = (
    f"-std=c++17 -O{OPTIMIZE or 3} -fPIC -Wall -fvisibility=hidden"
    " -fno-math-errno -fno-trapping-math -ffp-contract=off -fno-thread-jumps -fopenmp-simd"
)
BINDING_FLAGS = f"-std=c++20 -O{OPTIMIZE or 2} -fPIC -Wall -fvisibility=hidden"


def site_packages() -> list[Path]:
    """Where installed packages lie: also those outside pip's isolated build environment."""
    paths = sysconfig.get_paths()
    return [Path(paths["purelib"]), Path(paths["platlib"]), *(Path(p) for p in sys.path if p.endswith("-packages"))]


def find_torch() -> Path | None:
    spec = importlib.util.find_spec("torch")
    found = [Path(spec.origin).parent] if spec and spec.origin else []
    found += [site / "torch" for site in site_packages()]
    return next((p for p in found if (p / "include/torch/csrc/stable/library.h").exists()), None)


def torch_version(torch: Path) -> str:
    match = re.search(r"__version__ = '([^']+)'", (torch / "version.py").read_text())
    return match.group(1) if match else "unknown"


def headers_of(torch: Path) -> str:
    return f"-isystem {torch}/include -isystem {torch}/include/torch/csrc/api/include"


def libraries_of(torch: Path) -> str:
    # The shared libstdc++, and before libtorch: libtorch exports parts of a copy of its own, and where the compiler
    # finds only the static library, the two together format numbers wrongly or crash in an exception's message.
    return f"-Wl,--no-as-needed -l:libstdc++.so.6 -L{torch}/lib"


def find_nvcc() -> Path | None:
    homes = [Path(os.environ[name]) for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    homes += [*sorted(Path("/usr/local").glob("cuda-*"), reverse=True), Path("/usr/local/cuda")]
    on_path = shutil.which("nvcc")
    wheels = [nvcc for site in site_packages() for nvcc in sorted(site.glob("nvidia/cu*/bin/nvcc"))]
    found = [home / "bin/nvcc" for home in homes if (home / "bin/nvcc").exists()]
    # A wrapper on PATH can point anywhere, so a toolkit's own folder comes first.
    candidates = [*found, *([Path(on_path)] if on_path else []), *wheels]
    return candidates[0] if candidates else None


def find_cudart(nvcc: Path) -> Path | None:
    home = nvcc.resolve().parent.parent
    folders = [home / "lib64", home / "lib", *home.glob("targets/*/lib")]
    folders += [lib for site in site_packages() for lib in site.glob("nvidia/cu*/lib")]
    return next((f / "libcudart_static.a" for f in folders if (f / "libcudart_static.a").exists()), None)


def first_line(*command: str, matching: str = "") -> str:
    output = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return next((line.strip() for line in output.splitlines() if matching in line), "unknown")


def digest_of_sources() -> str:
    digest = hashlib.sha256()
    for path in sorted([*ROOT.glob("csrc/**/*"), ROOT / "setup.py"]):
        if path.is_file():
            digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


class Ninja:
    """The text of a build.ninja, and the outputs of each part."""

    def __init__(self, folder: Path, out: Path) -> None:
        self.folder, self.out = folder, out
        self.lines = [
            "ninja_required_version = 1.8",
            "rule cxx\n  command = $cxx -MMD -MF $out.d $flags -c $in -o $out\n  depfile = $out.d\n  deps = gcc",
            "rule nvcc\n  command = $nvcc -MD -MF $out.d $flags -c $in -o $out\n  depfile = $out.d\n  deps = gcc",
            "rule link\n  command = $cxx -shared -Wl,-soname,$soname $in -o $out $flags",
        ]
        self.outputs: dict[str, list[Path]] = {}

    def compile(self, rule: str, source: Path, flags: str, tag: str = "") -> Path:
        target = self.folder / f"{source.stem}{tag}.{rule}.o"
        self._build(rule, [source], target, flags)
        return target

    def unite(self, name: str, sources: list[Path]) -> Path:
        """One source that includes these; written only where it changes.

        Reading torch's headers is most of the work of compiling bindings, and is then done once.
        """
        united = self.folder / name
        text = "".join(f'#include "{source}"\n' for source in sources)
        if not united.exists() or united.read_text() != text:
            united.parent.mkdir(parents=True, exist_ok=True)
            united.write_text(text)
        return united

    def link(self, part: str, name: str, objects: list[Path], flags: str) -> None:
        output = self.out / name
        self.outputs.setdefault(part, []).append(output)
        self._build("link", objects, output, flags)
        self.lines.append(f"  soname = {name}")

    def _build(self, rule: str, inputs: list[Path], target: Path, flags: str) -> None:
        def escaped(path: Path) -> str:
            return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")

        sources = " ".join(map(escaped, inputs))
        self.lines.append(f"build {escaped(target)}: {rule} {sources}\n  flags = {flags}")

    def run(self, **variables: str) -> str:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.out.mkdir(parents=True, exist_ok=True)
        head = [f"{name} = {value}" for name, value in variables.items()]
        (self.folder / "build.ninja").write_text("\n".join([*head, *self.lines, ""]))
        ninja = shutil.which("ninja")
        command = [ninja] if ninja else [sys.executable, "-m", "ninja"]
        wanted = [str(output) for part in WANTED for output in self.outputs.get(part, [])]
        options = ["-k", "0", "-C", str(self.folder), *wanted]
        done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
        return done.stdout + done.stderr


class BuildNative(build_ext):
    def run(self) -> None:
        package = ROOT if self.inplace or self.editable_mode else Path(self.build_lib).resolve()
        out = package / "nnkernels/_lib"
        shutil.rmtree(out, ignore_errors=True)
        missing = self.build_parts(Ninja(Path(self.build_temp).resolve() / "nnkernels", out))
        (out / "build.json").write_text(json.dumps({"sources": digest_of_sources(), "missing": missing}, indent=2))
        for part, reason in missing.items():
            print(f"nnkernels: built without {part}: {reason}", file=sys.stderr)
        required = [part for part in os.environ.get("NNKERNELS_REQUIRE", "").split(",") if part in missing]
        if required:
            sys.exit(f"nnkernels: {required[0]} is required and could not be built: {missing[required[0]]}")

    def build_parts(self, ninja: Ninja) -> dict[str, str]:
        """Builds what can be built; for each part that cannot, one sentence why."""
        ninja.out.mkdir(parents=True, exist_ok=True)
        cxx = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
        if not cxx:
            return dict.fromkeys(PARTS, "no C++ compiler was found (install g++, or name one in CXX)")
        torch, nvcc = find_torch(), find_nvcc()
        if not torch:
            return dict.fromkeys(PARTS, "torch was not installed when nnkernels was built")
        missing = {part: "it was not named in NNKERNELS_PARTS" for part in PARTS if part not in WANTED}
        if not nvcc:
            missing["cuda"] = "nvcc was not found on PATH, in CUDA_HOME or among pip's nvidia packages"
        python = f"-isystem {sysconfig.get_paths()['include']}"
        suffix = sysconfig.get_config_var("EXT_SUFFIX")
        major, minor = map(int, ABI_TARGET.split("."))
        stable = f"{BINDING_FLAGS} {headers_of(torch)} -DTORCH_TARGET_VERSION=0x{major:02x}{minor:02x}000000000000ULL"
        folders = os.environ.get("NNKERNELS_TORCHES")
        for served in [Path(folder) / "torch" for folder in folders.split(os.pathsep)] if folders else [torch]:
            self.add_autograd(ninja, served, python, suffix)
        self.add_cpu(ninja, stable, libraries_of(torch))
        if nvcc:
            missing |= self.add_cuda(ninja, nvcc, stable, libraries_of(torch))
        ninja.link("info", f"_build_info{suffix}", [self.compile_info(ninja, cxx, nvcc, torch, python)], "")

        log = ninja.run(cxx=cxx, nvcc=str(nvcc))
        (ninja.folder / "build.log").write_text(log)
        error = next((line for line in log.splitlines() if "error" in line.lower()), "see the log").strip()
        for part, outputs in ninja.outputs.items():
            if part in WANTED and not all(output.exists() for output in outputs):
                missing[part] = f"the compiler failed: {error} (whole log: {ninja.folder / 'build.log'})"
        return missing

    def operators(self, ninja: Ninja, device: str) -> Path:
        """One source of a library's operators: what both libraries share, and each family's bindings."""
        shared = [ROOT / f"csrc/bindings/{name}.cpp" for name in ("tensors", "checks", "elementwise")]
        return ninja.unite(f"ops_{device}.cpp", [*shared, *sorted(ROOT.glob(f"csrc/bindings/{device}/*.cpp"))])

    def add_cpu(self, ninja: Ninja, stable: str, libtorch: str) -> None:
        x86 = os.uname().machine in ("x86_64", "AMD64")
        isas = X86_ISAS if x86 else {"neon": ""}
        only = ""
        if x86 and os.environ.get("NNKERNELS_BASELINE") == "1":
            isas, only = {"baseline": ""}, " -DNNK_BASELINE_ONLY"
        objects = [ninja.compile("cxx", self.operators(ninja, "cpu"), stable + only)]
        common = sorted(ROOT.glob("csrc/cpu/common/*.cpp"))
        flags = f"{KERNEL_FLAGS}{only} -DNNK_ISA=common"
        objects.append(ninja.compile("cxx", ninja.unite("common.cpp", common), flags))
        objects += [
            ninja.compile("cxx", source, f"{KERNEL_FLAGS}{only} {flags} -DNNK_ISA={isa}", f".{isa}")
            for source in sorted(ROOT.glob("csrc/cpu/*.cpp"))
            for isa, flags in isas.items()
        ]
        ninja.link("cpu", "libnnkernels_cpu.so", objects, f"{libtorch} -ltorch_cpu -lc10")

    def add_cuda(self, ninja: Ninja, nvcc: Path, stable: str, libtorch: str) -> dict[str, str]:
        cudart = find_cudart(nvcc)
        if not cudart:
            return {"cuda": "libcudart_static.a was found neither beside nvcc nor among pip's nvidia packages"}
        # One PTX for the oldest architecture, assembled for each; a newer GPU than the newest compiles the PTX itself.
        codes = ",".join([*(f"sm_{arch}" for arch in CUDA_ARCHS), f"compute_{CUDA_ARCHS[0]}"])
        target = f"-gencode arch=compute_{CUDA_ARCHS[0]},code=[{codes}] -Xfatbin -compress-all"
        flags = "-std=c++17 -O3 -Xcompiler -fPIC,-fvisibility=hidden"
        objects = [ninja.compile("nvcc", source, f"{flags} {target}") for source in sorted(ROOT.glob("csrc/cuda/*.cu"))]
        # Hopper's copy engine and products are instructions that no other architecture has.
        hopper = "-gencode arch=compute_90a,code=sm_90a -Xfatbin -compress-all"
        sources = sorted(ROOT.glob("csrc/cuda/hopper/*.cu"))
        objects += [ninja.compile("nvcc", source, f"{flags} {hopper}") for source in sources]
        objects.append(ninja.compile("cxx", self.operators(ninja, "cuda"), stable))
        # Only the C shims of libtorch_cpu are named at link time: a torch without CUDA still has its headers.
        objects += ninja.outputs["cpu"]  # which lists the activations' names
        libraries = f"{libtorch} -ltorch_cpu -lc10 {cudart} -ldl -lrt -lpthread -Wl,-rpath,'$$ORIGIN'"
        ninja.link("cuda", "libnnkernels_cuda.so", objects, libraries)
        return {}

    def add_autograd(self, ninja: Ninja, torch: Path, python: str, suffix: str) -> None:
        version = torch_version(torch)
        parts = [ROOT / "csrc/bindings/autograd.cpp", *sorted(ROOT.glob("csrc/bindings/node/*.cpp"))]
        flags = f"{BINDING_FLAGS} {headers_of(torch)} {python}"
        node = ninja.compile("cxx", ninja.unite("node.cpp", parts), flags, f"-{version}")
        libraries = f"{libraries_of(torch)} -ltorch_python -ltorch_cpu -lc10 -ldl"
        ninja.link("autograd", f"_autograd-{version}{suffix}", [node], libraries)

    def compile_info(self, ninja: Ninja, cxx: str, nvcc: Path | None, torch: Path, python: str) -> Path:
        import pybind11

        facts = {
            "BUILT_UNDER_TORCH": torch_version(torch),
            "ABI_TARGET": ABI_TARGET,
            "COMPILER": first_line(cxx, "--version"),
            "NVCC": first_line(str(nvcc), "--version", matching="release") if nvcc else "none",
            "CUDA_ARCHS": ",".join(CUDA_ARCHS) if nvcc else "none",
            "SOURCES": digest_of_sources(),
        }
        defines = " ".join("-DNNK_{}={}".format(name, shlex.quote(f'"{value}"')) for name, value in facts.items())
        flags = f"{BINDING_FLAGS} -O1 -isystem {pybind11.get_include()} {python} {defines}"
        return ninja.compile("cxx", ROOT / "csrc/bindings/build_info.cpp", flags)

    def get_outputs(self) -> list[str]:
        return [str(path) for path in (Path(self.build_lib) / "nnkernels/_lib").glob("*")]


setup(ext_modules=[Extension("nnkernels._lib.native", [])], cmdclass={"build_ext": BuildNative})
