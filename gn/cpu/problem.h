// What one call computes, and how the work is cut up.
//
// Sums over the batch are taken in blocks of samples that depend on the shape alone, each block by one thread and in
// order, then over the blocks in order: the result is the same, bit for bit, for any number of threads.
#pragma once

#include <algorithm>
#include <cstdint>

namespace gn {

// Filled in by kernels.py, field by field (every field has eight bytes), and by extension.cpp.
struct Problem {
    int64_t parameter, activation, threads;
    int64_t samples, channels, groups, positions;
    double eps;
    const void *x, *weight, *bias;
    const void* residual;  // of a ReLU's backward: y, whose sign tells what the residual would
    void* y;
    float* statistics;  // (3, samples, groups): hi, lo and rstd
    const void *dy, *other_dy;  // a result that was used twice has two gradients, to be added up; else null
    void *dx, *dweight, *dbias, *dresidual;

    int64_t elements() const { return samples * channels * positions; }
    // Waking a second thread for fewer elements takes longer than the work.
    int64_t useful_threads() const { return std::min<int64_t>(threads, 1 + elements() / (1 << 15)); }
    int64_t group_channels() const { return channels / groups; }
    int64_t blocks() const { return std::min<int64_t>(samples, 64); }
    int64_t block_begin(int64_t block) const { return samples * block / blocks(); }
};

// Samples [sample_begin, sample_end) of one block, groups [group_begin, group_end).
struct Tile {
    int64_t block, sample_begin, sample_end, group_begin, group_end;
};

}  // namespace gn
