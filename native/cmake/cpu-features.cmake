# cpu-features.txt, beside the libraries: the instruction sets that the compiler was allowed to use, by their names in
# Linux's /proc/cpuinfo, one a line. A program reads it before it loads the libraries, so that a CPU without one of them
# gets a message and not an illegal instruction.

if (NOT TARGET ggml-cpu OR NOT CMAKE_SYSTEM_NAME STREQUAL "Linux" OR NOT CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64)$")
    return()
endif()

# those whose instructions a compiler chooses by itself, or that ggml's kernels use; as macro=name
set(RETAIN_CPU_FEATURES
    SSE3=pni SSSE3=ssse3 SSE4_1=sse4_1 SSE4_2=sse4_2 POPCNT=popcnt LZCNT=abm MOVBE=movbe BMI=bmi1 BMI2=bmi2 TBM=tbm
    AVX=avx AVX2=avx2 FMA=fma FMA4=fma4 XOP=xop F16C=f16c GFNI=gfni AVXVNNI=avx_vnni AVXVNNIINT8=avx_vnni_int8
    AVXNECONVERT=avx_ne_convert AVX512F=avx512f AVX512CD=avx512cd AVX512BW=avx512bw AVX512DQ=avx512dq AVX512VL=avx512vl
    AVX512VBMI=avx512vbmi AVX512VBMI2=avx512_vbmi2 AVX512VNNI=avx512_vnni AVX512BITALG=avx512_bitalg
    AVX512VPOPCNTDQ=avx512_vpopcntdq AVX512BF16=avx512_bf16 AVX512FP16=avx512_fp16
    AMX_TILE=amx_tile AMX_INT8=amx_int8 AMX_BF16=amx_bf16)

get_target_property(flags ggml-cpu COMPILE_OPTIONS)
list(FILTER flags INCLUDE REGEX "^-m")
separate_arguments(more NATIVE_COMMAND "${CMAKE_CXX_FLAGS}")
execute_process(COMMAND ${CMAKE_CXX_COMPILER} ${more} ${flags} -dM -E -x c++ /dev/null
                OUTPUT_VARIABLE macros COMMAND_ERROR_IS_FATAL ANY)

# a kernel may be too old for the name of what -march=native found: that cannot be checked, here or elsewhere
set(known "")
if (GGML_NATIVE)
    file(STRINGS /proc/cpuinfo known REGEX "^flags" LIMIT_COUNT 1)
endif()

set(found "")
foreach (pair ${RETAIN_CPU_FEATURES})
    string(REGEX REPLACE "=.*" "" macro ${pair})
    string(REGEX REPLACE ".*=" "" name  ${pair})
    if (macros MATCHES "#define __${macro}__ " AND (NOT GGML_NATIVE OR "${known} " MATCHES " ${name} "))
        string(APPEND found "${name}\n")
    endif()
endforeach()
file(WRITE ${CMAKE_LIBRARY_OUTPUT_DIRECTORY}/cpu-features.txt "${found}")
