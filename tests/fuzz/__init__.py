"""Fuzzers: inputs and operations made at random, against what must hold whatever they are.

Each fuzzer is a module with a class: made with a folder for its files, it has a method `case(rng)` that makes up one
input, tries it, and raises when a promise is broken. Everything random comes from `rng`, so that a case can be repeated.
`fuzz.mutate` changes bytes and puts checksums right again; `fuzz.run` runs the cases.

`make test` runs a few seconds of each, the same cases every time (`test_*.py` in this folder). A long run, from the
folder `tests`:

    python -m fuzz.NAME --seconds 3600 --seed 7

A failure names its case, also when the process was killed by it; this repeats it alone:

    python -m fuzz.NAME --seed 7 --first 1234 --cases 1

With AddressSanitizer and UBSan, which find what does not crash:

    python native/builder libs --sanitize --out DIR
    cd tests && LLAMA_CPP_LIB_PATH=DIR LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)" \\
        ASAN_OPTIONS=detect_leaks=0:quarantine_size_mb=16 UBSAN_OPTIONS=halt_on_error=1 \\
        python -m fuzz.NAME --seconds 600

(The quarantine of freed memory is small, since some fuzzers bound the memory of the process.)
"""
