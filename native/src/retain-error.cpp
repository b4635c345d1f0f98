#include "retain-error.h"

#include <cstdarg>
#include <cstdio>
#include <vector>

static thread_local std::string last_error;

// one line, whatever names and texts of files are in it
void retain_error_set(const std::string & message) {
    last_error = message;
    for (auto & c : last_error) {
        if ((unsigned char) c < 0x20 || c == 0x7f) {
            c = '?';
        }
    }
}

void retain_error_clear() {
    last_error.clear();
}

const std::string & retain_error_get() {
    return last_error;
}

std::string retain_format(const char * fmt, ...) {
    va_list args;
    va_start(args, fmt);
    va_list again;
    va_copy(again, args);

    const int n = vsnprintf(nullptr, 0, fmt, args);
    std::vector<char> buf(n > 0 ? n + 1 : 1);
    vsnprintf(buf.data(), buf.size(), fmt, again);

    va_end(again);
    va_end(args);

    return std::string(buf.data());
}
