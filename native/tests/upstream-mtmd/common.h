// common.h - in place of llama.cpp's: the little that its test of libmtmd uses

#pragma once

#include <string>
#include <vector>

inline std::string string_join(const std::vector<std::string> & parts, const std::string & between) {
    std::string res;
    for (size_t i = 0; i < parts.size(); ++i) {
        res += (i > 0 ? between : "") + parts[i];
    }
    return res;
}
