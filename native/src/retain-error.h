// retain-error.h - why the last call failed, per thread

#pragma once

#include <stdexcept>
#include <string>

// what retain_last_error() returns
void                retain_error_set(const std::string & message);
void                retain_error_clear();
const std::string & retain_error_get();

// printf into a string
#ifdef __GNUC__
__attribute__((format(printf, 1, 2)))
#endif
std::string retain_format(const char * fmt, ...);

// an error for the user: remembered as the last error, and thrown
struct retain_error : std::runtime_error {
    explicit retain_error(const std::string & message) : std::runtime_error(message) {
        retain_error_set(message);
    }
};
