# The target retain-server: upstream's server with a main of ours, and our files between its requests and its slots.

if (NOT TARGET llama-server-impl)
    return()
endif()

set(server ${PROJECT_SOURCE_DIR}/server)
file(GLOB sources CONFIGURE_DEPENDS ${server}/retain-*.cpp)
target_sources(llama-server-impl PRIVATE ${sources})
target_include_directories(server-context    PRIVATE ${server})
target_include_directories(llama-server-impl PRIVATE ${server})

# what the patch calls is declared before everything else, which spares the patch its include lines
if (MSVC)
    set(before /FI)
else()
    set(before -include)
endif()
set_source_files_properties(${RETAIN_LLAMA_DIR}/tools/server/server-context.cpp TARGET_DIRECTORY server-context
    PROPERTIES COMPILE_OPTIONS "${before};retain-server.h")
set_source_files_properties(${RETAIN_LLAMA_DIR}/tools/server/server.cpp TARGET_DIRECTORY llama-server-impl
    PROPERTIES COMPILE_OPTIONS "${before};retain-server.h")

# draft models and MTP heads keep stock contexts: their memory is small, and what they draft is checked
set_source_files_properties(${RETAIN_LLAMA_DIR}/common/speculative.cpp TARGET_DIRECTORY llama-common
    PROPERTIES COMPILE_DEFINITIONS llama_init_from_model=retain_init_stock_from_model)

add_executable(retain-server EXCLUDE_FROM_ALL ${server}/main.cpp)
target_link_libraries(retain-server PRIVATE llama-server-impl)
