// What one call computes, and how the work is cut up.
//
// Sums over the batch are taken in blocks of samples that depend on the shape alone, each block by one thread and in
// order, then over the blocks in order: the result is the same, bit for bit, for any number of threads.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>

#include "vector.h"

namespace gn {

// Filled in by kernels.py, field by field: every field has eight bytes.
struct Problem {
    int64_t parameter, activation, threads;
    int64_t samples, channels, groups, positions;
    double eps;
    const void *x, *weight, *bias;
    const void* residual;  // of a ReLU's backward: y, whose sign tells what the residual would
    void* y;
    float* statistics;  // (3, samples, groups): hi, lo and rstd
    const void* dy;
    void *dx, *dweight, *dbias, *dresidual;

    int64_t group_channels() const { return channels / groups; }
    int64_t blocks() const { return std::min<int64_t>(samples, 64); }
    int64_t block_begin(int64_t block) const { return samples * block / blocks(); }
};

// Samples [sample_begin, sample_end) of one block, groups [group_begin, group_end).
struct Tile {
    int64_t block, sample_begin, sample_end, group_begin, group_end;
};

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

// The parameters in float32, readable by whole vectors to their end, and, backward, the sums of their gradients by block.
struct Parameters {
    std::unique_ptr<float[]> weight, bias, dweight, dbias;

    template <class Element>
    Parameters(const Problem& p, const Element* w, const Element* b)
        : weight(new float[p.channels + lanes]), bias(new float[p.channels + lanes]) {
        read(w, 1.0f, p.channels, weight.get());
        read(b, 0.0f, p.channels, bias.get());
        if (!p.dy) return;
        dweight.reset(new float[p.blocks() * p.channels]);
        dbias.reset(new float[p.blocks() * p.channels]);
    }

    template <class Element>
    static void read(const Element* values, float otherwise, int64_t channels, float* result) {
        for (int64_t c = 0; c < channels; c += lanes) {
            const int64_t count = std::min<int64_t>(channels - c, lanes);
            store(result + c, values ? load(values + c, count) : broadcast(otherwise), count);
        }
    }

    template <class Element>
    static void total(const Problem& p, const float* by_block, Element* result) {
        for (int64_t c = 0; c < p.channels; c += lanes) {
            const int64_t count = std::min<int64_t>(p.channels - c, lanes);
            Vector sum = {};
            for (int64_t block = 0; block < p.blocks(); ++block) sum += load(by_block + block * p.channels + c, count);
            store(result + c, sum, count);
        }
    }
};

}  // namespace gn
