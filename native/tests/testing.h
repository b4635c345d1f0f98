// testing.h - the little that the native tests share

#pragma once

#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#define CHECK(cond) do { \
    if (!(cond)) { \
        fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #cond); \
        exit(1); \
    } \
} while (0)

// sum of squared differences over sum of squares
inline double nmse(const std::vector<float> & got, const std::vector<float> & want) {
    double diff = 0.0;
    double norm = 0.0;
    for (size_t i = 0; i < want.size(); ++i) {
        diff += ((double) got[i] - want[i])*((double) got[i] - want[i]);
        norm += (double) want[i]*want[i];
    }
    return diff/norm;
}

inline std::vector<float> random_normal(std::mt19937 & rng, size_t n, float scale = 1.0f) {
    std::normal_distribution<float> dist(0.0f, scale);
    std::vector<float> res(n);
    for (auto & x : res) {
        x = dist(rng);
    }
    return res;
}
