// retain-mapped-file.h - memory that lies in a file, so that the system can write it out where memory is short
//
// The file has no name once it is mapped, so it is gone with the process, however that ends. A file of that name that is already
// there is only taken if it is what was left of one like it: any other is refused and stays as it was.

#pragma once

#include <cstddef>
#include <string>

class retain_mapped_file {
public:
    // throws retain_error
    retain_mapped_file(const std::string & path, size_t n_bytes);
    ~retain_mapped_file();

    retain_mapped_file(const retain_mapped_file &) = delete;
    retain_mapped_file & operator=(const retain_mapped_file &) = delete;

    void * data() const { return (char *) base + HEADER; } // n_bytes of them

private:
    static constexpr size_t HEADER = 4096;

    void * base   = nullptr;
    size_t n_base = 0;
};
