// What is known of a group once it has been read: its mean and 1 / its standard deviation.
#pragma once

#include <cmath>

#include "problem.h"

namespace gn {

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
