// The mean and 1 / the standard deviation of groups; a vector holds the values of several groups, one per lane.
#pragma once

#include "problem.h"
#include "vector.h"

namespace gn {

GN_INLINE Vector square_root(Vector v) {
    for (int i = 0; i < lanes; ++i) v[i] = __builtin_sqrtf(v[i]);
    return v;
}

// 1 / the standard deviation. NaN if the variance overflows: with 1 / infinity = 0, a group that diverges would look like
// a constant one.
GN_INLINE Vector reciprocal_deviation(Vector variance, double eps) {
    return 1.0f / square_root(variance + float(eps)) + (variance - variance);
}

// The mean of a group is hi + lo; a single float32 is wrong by 5e-4 for values near 1e4.
struct Statistics {
    Vector hi, lo, rstd;

    // Sets only the lanes marked in `where`: the result of a group must not depend on the groups processed with it.
    GN_INLINE void set_variance(Integers where, Vector variance, double eps) {
        rstd = where ? reciprocal_deviation(variance, eps) : rstd;
    }

    GN_INLINE static Statistics read(const Problem& p, int64_t set, int64_t group, int64_t count) {
        const float* at = p.statistics + set * p.groups + group;
        const int64_t next = p.sets * p.groups;
        return {load(at, count), load(at + next, count), load(at + 2 * next, count)};
    }

    GN_INLINE void write(const Problem& p, int64_t set, int64_t group, int64_t count) const {
        float* at = p.statistics + set * p.groups + group;
        const int64_t next = p.sets * p.groups;
        store(at, hi, count), store(at + next, lo, count), store(at + 2 * next, rstd, count);
    }
};

// The means of d = x - pivot and of d² for several groups, computed in one pass over the values.
//
// The variance is a difference of two numbers, and loses digits if the pivot is far from the mean. The pivot is the
// mean of a few values of the group. If it turns out to be too far, a second pass computes the variance about the mean.
struct Moments {
    Vector pivot, first, second;

    GN_INLINE Vector variance() const { return second - first * first; }

    GN_INLINE Integers lose_digits() const { return second > 4.0f * variance(); }

    GN_INLINE Statistics statistics(double eps) const {
        // The rounded sum and its exact rounding error (Knuth, 1969: TwoSum).
        const Vector hi = pivot + first, added = hi - pivot;
        return {hi, (pivot - (hi - added)) + (first - added), reciprocal_deviation(variance(), eps)};
    }
};

GN_INLINE bool any(Integers lanes_, int64_t count) {
    int32_t found = 0;
    for (int64_t k = 0; k < count; ++k) found |= lanes_[k];
    return found != 0;
}

// The positions of the values whose mean is the pivot: evenly spaced, because neighbouring values are similar.
constexpr int64_t probes = 4;
inline int64_t probe(int64_t k, int64_t size, int64_t count = probes) { return (2 * k + 1) * size / (2 * count); }

}  // namespace gn
