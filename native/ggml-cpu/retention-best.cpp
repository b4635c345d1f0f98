#include "retention-best.h"
#include "retention-simd.h"

#include <algorithm>
#include <cfloat>
#include <cmath>

namespace retention {

best_cells::best_cells(float * base, int64_t n) :
        scores(base), cells((int32_t *) (base + n_room(n) + PADDING)), n(n), floor(n > 0 ? -INFINITY : INFINITY) {
}

void best_cells::add_run(const float * x, int64_t n_scores, int32_t first) {
    for (int64_t i = 0; i < n_scores; i += VF) {
        const vf32     s     = vf_load(x + i);
        const uint32_t above = vf_above(s, vf_set1(floor));
        if (!above) {
            continue;
        }
        int32_t lanes[VF];
        for (int j = 0; j < VF; ++j) {
            lanes[j] = (int32_t) (first + i + j);
        }
        vf_pack(scores + size, s, above);
        vf_pack((float *) cells + size, vf_load((const float *) lanes), above);
        size += vf_count(above);
        if (size >= n_room(n)) {
            prune();
        }
    }
}

// A number that n of size numbers are at least; where several equal the n-th largest, that one. Their range is halved, and counted,
// in vectors: std::nth_element, which has branches to foresee, takes ten times as long. Room for a whole vector at their end is filled.
static float threshold_of(float * x, int64_t size, int64_t n) {
    std::fill(x + size, x + (size + VF - 1)/VF*VF, x[0]);

    vf32 least = vf_load(x), most = least;
    for (int64_t i = VF; i < size; i += VF) {
        least = vf_min(least, vf_load(x + i));
        most  = vf_max(most,  vf_load(x + i));
    }
    float lanes[2*VF];
    vf_store(lanes,      least);
    vf_store(lanes + VF, most);

    float   low    = *std::min_element(lanes, lanes + VF);
    float   high   = *std::max_element(lanes + VF, lanes + 2*VF);
    int64_t n_low  = size; // numbers from low on
    int64_t n_over = 0;    // numbers above high
    for (bool halve = false; low < high; halve = !halve) {
        // every other time where it would be if they were evenly spread
        const float part = halve ? 0.5f : (float) (n_low - n)/(n_low - n_over);

        float mid = std::min(low + (std::min(high, FLT_MAX) - low)*part, high);
        if (!(mid > low)) {
            mid = std::nextafter(low, INFINITY);
        }
        int32_t n_mid = 0;
        for (int64_t i = 0; i < size; ++i) {
            n_mid += x[i] >= mid;
        }
        if (n_mid < n) {
            high   = std::nextafter(mid, -INFINITY);
            n_over = n_mid;
        } else {
            low   = mid;
            n_low = n_mid;
            if (n_mid == n) {
                break;
            }
        }
    }
    return low;
}

void best_cells::prune() {
    if (size <= n) {
        return;
    }
    floor = threshold_of(scores, size, n);

    std::fill(scores + size, scores + (size + VF - 1)/VF*VF, -INFINITY);

    const vf32 x = vf_set1(floor);
    int64_t n_equal = n; // that stay
    for (int64_t i = 0; i < size; i += VF) {
        n_equal -= vf_count(vf_above(vf_load(scores + i), x));
    }
    int64_t end = 0;
    for (int64_t i = 0; i < size; i += VF) {
        const vf32     s     = vf_load(scores + i);
        const uint32_t above = vf_above(s, x);
        const uint32_t below = vf_above(x, s);

        uint32_t stay = above;
        for (uint32_t equal = ~(above | below) & VF_BITS; equal && n_equal > 0; equal &= equal - 1, --n_equal) {
            stay |= equal & -equal;
        }
        vf_pack(scores + end, s, stay);
        vf_pack((float *) cells + end, vf_load((const float *) cells + i), stay);
        end += vf_count(stay);
    }
    size = end;
}

} // namespace retention
