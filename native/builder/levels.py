"""The builds of a portable wheel: one for each generation of CPUs, of which the program loads the best that runs."""

import platform

_AVX2 = ("GGML_AVX", "GGML_AVX2", "GGML_FMA", "GGML_F16C", "GGML_BMI2")
_AVX512 = (*_AVX2, "GGML_AVX512", "GGML_AVX512_VBMI", "GGML_AVX512_VNNI")
_AMX = (*_AVX512, "GGML_AVX512_BF16", "GGML_AMX_TILE", "GGML_AMX_INT8")

# by the name of the first CPU that has them
_X86_64 = {"nehalem": (), "haswell": _AVX2, "icelake": _AVX512, "sapphirerapids": _AMX}


def portable_builds():
    """Options of CMake by the name of the folder that the libraries go to; "" is the folder itself."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return {"": {"GGML_NATIVE": "OFF"}}
    common = {"GGML_NATIVE": "OFF", "GGML_SSE42": "ON"}
    return {
        name: common | {option: "ON" if option in options else "OFF" for option in _AMX}
        for name, options in _X86_64.items()
    }
