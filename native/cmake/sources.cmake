# Adds our sources to the targets of upstream. Globs: a new file needs no change here.

function(retain_extend target directory)
    if (NOT TARGET ${target})
        return()
    endif()

    file(GLOB sources CONFIGURE_DEPENDS ${ARGN})
    if (sources)
        target_sources(${target} PRIVATE ${sources})
    endif()
    # upstream compiles its models in batches; our names need not be unique among theirs
    set_source_files_properties(${sources} TARGET_DIRECTORY ${target} PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)

    target_include_directories(${target} PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>)
    target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR}/${directory} ${PROJECT_SOURCE_DIR}/ggml)
endfunction()

# what our files may include of upstream, behind all that upstream's own files see
set(RETAIN_LLAMA_INTERNALS ${RETAIN_LLAMA_DIR}/src ${RETAIN_LLAMA_DIR}/ggml/src ${RETAIN_LLAMA_DIR}/ggml/src/ggml-cpu)

if (NOT RETAIN_STOCK)
    set(native ${PROJECT_SOURCE_DIR})
    retain_extend(ggml-base  ggml       ${native}/ggml/*.c       ${native}/ggml/*.cpp)
    retain_extend(ggml-cpu   ggml-cpu   ${native}/ggml-cpu/*.c   ${native}/ggml-cpu/*.cpp)
    retain_extend(ggml-cuda  ggml-cuda  ${native}/ggml-cuda/*.cu ${native}/ggml-cuda/*.cpp)
    retain_extend(ggml-hip   ggml-cuda  ${native}/ggml-cuda/*.cu ${native}/ggml-cuda/*.cpp)
    retain_extend(ggml-metal ggml-metal ${native}/ggml-metal/*.m ${native}/ggml-metal/*.cpp)
    retain_extend(llama      src        ${native}/src/*.cpp      ${native}/src/policies/*.cpp)

    foreach (target ggml-cuda ggml-hip)
        if (TARGET ${target})
            target_include_directories(${target} PRIVATE ${RETAIN_LLAMA_DIR}/ggml/src/ggml-cuda ${RETAIN_LLAMA_DIR}/ggml/src)
        endif()
    endforeach()
    if (TARGET ggml-hip)
        file(GLOB kernels ${native}/ggml-cuda/*.cu)
        set_source_files_properties(${kernels} TARGET_DIRECTORY ggml-hip PROPERTIES LANGUAGE HIP)
    endif()
    target_include_directories(llama PRIVATE ${RETAIN_LLAMA_INTERNALS})
    target_compile_definitions(llama PRIVATE RETAIN_UPSTREAM_VERSION="${RETAIN_UPSTREAM_VERSION}")
endif()
