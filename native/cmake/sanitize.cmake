# AddressSanitizer and UBSan for our code and for what it works with. The rest of libllama is left out: it takes most of
# the compile time, and the native tests hardly run it.

# enum: upstream keeps a number from a damaged file in an enum until it compares it
set(flags -O1 -g1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize=enum)

foreach (target ggml ggml-base ggml-cpu)
    target_compile_options(${target} PRIVATE ${flags})
endforeach()

# without upstream's own assertions, as in the release: they take NaN for a fault, which a damaged state may hold
target_compile_definitions(ggml-cpu PRIVATE NDEBUG)

# and the kernels' portable form, which no build for a common CPU would run
target_compile_definitions(ggml-cpu PRIVATE RETENTION_PORTABLE)

get_target_property(directory llama SOURCE_DIR)
get_target_property(sources   llama SOURCES)
list(FILTER sources EXCLUDE REGEX
     "models/|unicode|llama-(vocab|sampler|grammar|quant|chat|model-saver|kv-cache-[dm]|memory-hybrid)")
foreach (source ${sources})
    get_filename_component(source ${source} ABSOLUTE BASE_DIR ${directory})
    set_property(SOURCE ${source} TARGET_DIRECTORY llama APPEND PROPERTY COMPILE_OPTIONS ${flags})
endforeach()
# its reader copies an empty string of a damaged state to nowhere
set_property(SOURCE ${directory}/llama-context.cpp TARGET_DIRECTORY llama APPEND
             PROPERTY COMPILE_OPTIONS -fno-sanitize=nonnull-attribute)
target_compile_options(llama PRIVATE -O0 -g0)

# the tests, defined after this
add_compile_options(${flags})
