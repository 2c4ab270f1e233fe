// What is known of a group once it has been read: its mean and 1 / its standard deviation.
#pragma once

#include <cmath>

#include "problem.h"

namespace gn {

// Of a group, about a pivot: the means of d = x - pivot and of its square, from one pass over its values.
//
// The variance is the difference of two numbers, so it loses digits where the pivot is not near the mean. It is a mean
// of some of the values, and where that was not near enough the squares are added up again, about the mean.
struct Moments {
    double first, second;
    double variance() const { return second - first * first; }
    bool lose_digits() const { return second > 4 * variance(); }
};

// Where to look for the pivot: at places as far apart as may be, since neighbours are alike.
constexpr int64_t probes = 4;
inline int64_t probe(int64_t k, int64_t size) { return (2 * k + 1) * size / (2 * probes); }

// The mean of a group is hi + lo; a float32 alone would be wrong by 5e-4 for values near 1e4.
struct Statistics {
    float hi, lo, rstd;

    static Statistics from(double mean, double variance, double eps) {
        const float hi = float(mean);
        return {hi, float(mean - hi), 1 / std::sqrt(float(variance + eps))};
    }

    static Statistics read(const Problem& p, int64_t sample, int64_t group) {
        const int64_t at = sample * p.groups + group, next = p.samples * p.groups;
        return {p.statistics[at], p.statistics[at + next], p.statistics[at + 2 * next]};
    }

    void write(const Problem& p, int64_t sample, int64_t group) const {
        const int64_t at = sample * p.groups + group, next = p.samples * p.groups;
        p.statistics[at] = hi;
        p.statistics[at + next] = lo;
        p.statistics[at + 2 * next] = rstd;
    }
};

}  // namespace gn
