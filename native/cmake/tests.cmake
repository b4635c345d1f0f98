# One executable native-NAME for each tests/NAME.cpp; they use internals of ggml and llama.

add_custom_target(retain-tests)

file(GLOB tests CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/tests/*.cpp)
if (RETAIN_SANITIZE)
    # all of them take ten times as long as without sanitizers; these are of every kind of memory
    set(arguments_retain-archs llama qwen2vl gemma2 gemma3n gemma4 gpt-oss llama4 qwen3next lfm2 granitehybrid jamba)
endif()
# AddressSanitizer does not know the stacks of fibers
if (NOT CMAKE_SYSTEM_NAME STREQUAL "Linux" OR RETAIN_SANITIZE)
    list(FILTER tests EXCLUDE REGEX "/retention-(emulated|metal).cpp$")
endif()
foreach (source ${tests})
    get_filename_component(name ${source} NAME_WE)
    add_executable(native-${name} EXCLUDE_FROM_ALL ${source})
    target_compile_features(native-${name} PRIVATE cxx_std_17)
    target_include_directories(native-${name} PRIVATE ${PROJECT_SOURCE_DIR}/tests/upstream ${PROJECT_SOURCE_DIR}/src ${PROJECT_SOURCE_DIR}/ggml
                                                      ${PROJECT_SOURCE_DIR}/ggml-cpu ${RETAIN_LLAMA_INTERNALS}
                                                      ${RETAIN_LLAMA_DIR})
    target_link_libraries(native-${name} PRIVATE llama ggml ggml-base ggml-cpu)
    add_dependencies(retain-tests native-${name})

    add_test(NAME native-${name} COMMAND native-${name} ${arguments_${name}})
    # halting on the first error makes undefined behaviour fail a test
    set_tests_properties(native-${name} PROPERTIES ENVIRONMENT
        "UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1:suppressions=${CMAKE_CURRENT_LIST_DIR}/ubsan.supp")
endforeach()

# the kernels' own source for CUDA and Metal on the CPU: threads are fibers made with ucontext.h, which Linux has
if (CMAKE_SYSTEM_NAME STREQUAL "Linux" AND NOT RETAIN_SANITIZE)
    foreach (name emulated metal)
        target_sources(native-retention-${name} PRIVATE ${PROJECT_SOURCE_DIR}/tests/emulation/cuda-emulation.cpp)
        target_include_directories(native-retention-${name} PRIVATE
            ${PROJECT_SOURCE_DIR}/tests/emulation ${PROJECT_SOURCE_DIR}/ggml-cuda ${PROJECT_SOURCE_DIR}/ggml-metal)
    endforeach()
    # of Metal's language, which another compiler does not know
    target_compile_options(native-retention-metal PRIVATE -Wno-attributes)
endif()
