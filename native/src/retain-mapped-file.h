// retain-mapped-file.h - memory that lies in a file, so that the system can write it out where memory is short
//
// The file begins with a page that says what it is: any other file is refused and stays as it was. What it holds is of use to
// the process that has it open alone, and gone with it; while one has it open, others are refused.

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

    int    fd     = -1;
    void * base   = nullptr;
    size_t n_base = 0;
};
