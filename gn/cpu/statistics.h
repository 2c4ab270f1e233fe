// What is known of a group once it has been read: its mean and 1 / its standard deviation. Several groups side by side,
// at most one for each lane of a vector.
#pragma once

#include "problem.h"
#include "vector.h"

namespace gn {

GN_INLINE Vector square_root(Vector v) {
    for (int i = 0; i < lanes; ++i) v[i] = __builtin_sqrtf(v[i]);
    return v;
}

// The mean of a group is hi + lo; a float32 alone would be wrong by 5e-4 for values near 1e4.
struct Statistics {
    Vector hi, lo, rstd;

    // Of those groups whose lane of `where` is set: no group's result may depend on the others it is worked on with.
    GN_INLINE void set_variance(Integers where, Vector variance, double eps) {
        rstd = where ? 1.0f / square_root(variance + float(eps)) : rstd;
    }

    GN_INLINE static Statistics read(const Problem& p, int64_t sample, int64_t group, int64_t count) {
        const float* at = p.statistics + sample * p.groups + group;
        const int64_t next = p.samples * p.groups;
        return {load(at, count), load(at + next, count), load(at + 2 * next, count)};
    }

    GN_INLINE void write(const Problem& p, int64_t sample, int64_t group, int64_t count) const {
        float* at = p.statistics + sample * p.groups + group;
        const int64_t next = p.samples * p.groups;
        store(at, hi, count), store(at + next, lo, count), store(at + 2 * next, rstd, count);
    }
};

// Of groups, each about a pivot: the means of d = x - pivot and of its square, from one pass over the values.
//
// The variance is the difference of two numbers, so it loses digits where the pivot is not near the mean. It is a mean
// of some of the values, and where that was not near enough the squares are added up again, about the mean.
struct Moments {
    Vector pivot, first, second;

    GN_INLINE Vector variance() const { return second - first * first; }

    GN_INLINE Integers lose_digits() const { return second > 4.0f * variance(); }

    GN_INLINE Statistics statistics(double eps) const {
        // The sum and, exactly, what its rounding took away (Knuth 1969).
        const Vector hi = pivot + first, added = hi - pivot;
        return {hi, (pivot - (hi - added)) + (first - added), 1.0f / square_root(variance() + float(eps))};
    }
};

GN_INLINE bool any(Integers lanes_, int64_t count) {
    int32_t found = 0;
    for (int64_t k = 0; k < count; ++k) found |= lanes_[k];
    return found != 0;
}

// Where to look for the pivot: at places as far apart as may be, since neighbours are alike.
constexpr int64_t probes = 4;
inline int64_t probe(int64_t k, int64_t size) { return (2 * k + 1) * size / (2 * probes); }

}  // namespace gn
