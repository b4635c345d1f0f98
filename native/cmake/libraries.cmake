# The target retain-libs: every library of this configuration, and how they are copied out.

set(RETAIN_LIBRARIES)
foreach (target llama mtmd ggml ggml-base ggml-cpu ggml-blas ggml-cuda ggml-hip ggml-metal)
    if (TARGET ${target})
        list(APPEND RETAIN_LIBRARIES ${target})
    endif()
endforeach()

add_custom_target(retain-libs DEPENDS ${RETAIN_LIBRARIES})

if (NOT RETAIN_STOCK)
    # one file per library: wheels cannot hold the symbolic links that versioned names need, and with a name of their
    # own our libraries do not stand in for stock ones in a process that loads both
    foreach (target ${RETAIN_LIBRARIES})
        set_property(TARGET ${target} PROPERTY VERSION)
        set_property(TARGET ${target} PROPERTY SOVERSION)
    endforeach()
    install(TARGETS ${RETAIN_LIBRARIES}
            LIBRARY DESTINATION . COMPONENT retain-local
            RUNTIME DESTINATION . COMPONENT retain-local
            ARCHIVE DESTINATION . COMPONENT retain-local EXCLUDE_FROM_ALL
            PUBLIC_HEADER DESTINATION include COMPONENT headers EXCLUDE_FROM_ALL)
    install(FILES ${RETAIN_LLAMA_DIR}/LICENSE DESTINATION . RENAME LICENSE.llama.cpp COMPONENT retain-local)
    install(FILES ${CMAKE_LIBRARY_OUTPUT_DIRECTORY}/cpu-features.txt DESTINATION . OPTIONAL COMPONENT retain-local)
endif()

if (WIN32)
    # the bindings, and the native tests, use more than what the headers mark for export
    set_target_properties(llama PROPERTIES WINDOWS_EXPORT_ALL_SYMBOLS ON)
endif()
