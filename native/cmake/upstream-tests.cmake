# Upstream's own tests that concern what is changed here and need no download, against the patched libraries.

function (retain_add_upstream_test source)
    get_filename_component(name ${source} NAME_WE)
    add_executable(upstream-${name} EXCLUDE_FROM_ALL ${RETAIN_LLAMA_DIR}/tests/${source})
    target_compile_features(upstream-${name} PRIVATE cxx_std_17)
    target_compile_options(upstream-${name} PRIVATE -UNDEBUG) # they check with assert
    target_include_directories(upstream-${name} PRIVATE ${RETAIN_LLAMA_DIR}/tests ${RETAIN_LLAMA_INTERNALS})
    target_link_libraries(upstream-${name} PRIVATE ${ARGN})
    add_dependencies(retain-tests upstream-${name})
    add_test(NAME upstream-${name} COMMAND upstream-${name})
endfunction()

if (TARGET mtmd)
    retain_add_upstream_test(test-mtmd-c-api.c mtmd)
    retain_add_upstream_test(test-mtmd-impl.cpp mtmd llama)
    target_include_directories(upstream-test-mtmd-impl BEFORE PRIVATE ${PROJECT_SOURCE_DIR}/tests/upstream-mtmd)
    target_include_directories(upstream-test-mtmd-impl PRIVATE ${RETAIN_LLAMA_DIR}/tools/mtmd)
endif()
