# The target retain-bench: one executable bench-NAME for each bench/NAME.cpp.

add_custom_target(retain-bench)

file(GLOB benches CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/bench/*.cpp)
foreach (source ${benches})
    get_filename_component(name ${source} NAME_WE)
    add_executable(bench-${name} EXCLUDE_FROM_ALL ${source})
    target_compile_features(bench-${name} PRIVATE cxx_std_17)
    target_include_directories(bench-${name} PRIVATE ${PROJECT_SOURCE_DIR}/ggml ${PROJECT_SOURCE_DIR}/src)
    target_link_libraries(bench-${name} PRIVATE llama ggml ggml-base ggml-cpu)
    add_dependencies(retain-bench bench-${name})
endforeach()
