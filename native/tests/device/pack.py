"""Pack what native/tests/device/run.py needs on a machine without a network: this source and llama.cpp's, in one small file.

    python native/tests/device/pack.py retain-device.tar.xz

There, with nvcc, CMake, and a Python that has NumPy, gguf and PyYAML:

    tar -xf retain-device.tar.xz
    cd retain-device
    RETAIN_UPSTREAM_DIR=upstream python native/tests/device/run.py
"""

import argparse
import io
import pathlib
import sys
import tarfile

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "native/builder"))

import upstream  # noqa: E402
from build import cache_directory  # noqa: E402

# of this source: what is built, and what makes models and gates
OURS = ("native", "gates", "retain_local", "pyproject.toml", "LICENSE")
BUILT = {"lib", "assets", "__pycache__"}
# of llama.cpp, beside what the builder reads: the vocabulary of the model that is timed
VOCABULARY = "models/ggml-vocab-qwen2.gguf"


def is_packed(name):
    path = name.removeprefix(upstream.VENDORED)
    return name == "PKG-INFO" or path == VOCABULARY or upstream.is_needed(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    args = parser.parse_args()

    with tarfile.open(args.out, "w:xz") as pack:
        for name in OURS:
            skip = lambda info: None if BUILT & set(pathlib.PurePath(info.name).parts) else info  # noqa: E731
            pack.add(ROOT / name, f"retain-device/{name}", filter=skip)
        prefix = f"{upstream.PACKAGE.replace('-', '_')}-{upstream.VERSION}/"
        with tarfile.open(upstream.sdist(cache_directory())) as sdist:
            for member in sdist:
                name = member.name.removeprefix(prefix)
                if member.isfile() and is_packed(name):
                    info = tarfile.TarInfo(f"retain-device/upstream/{name}")
                    info.size = member.size
                    pack.addfile(info, io.BytesIO(sdist.extractfile(member).read()))
    print(f"{args.out}: {args.out.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
