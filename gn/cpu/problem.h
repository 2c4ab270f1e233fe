// The arguments of a kernel, and how the work is divided among threads.
//
// Sums over the batch are computed per block of samples, by one thread and in order, and then over the blocks in order.
// The blocks depend only on the shape, so results are equal bit for bit for any number of threads.
#pragma once

#include <algorithm>
#include <cstdint>

namespace gn {

// kernels.py packs it field by field (each has eight bytes), and extension.cpp fills it in.
struct Problem {
    int64_t parameter, activation, threads;
    int64_t samples, channels, groups, positions;
    double eps;
    const void *x, *weight, *bias;
    const void* residual;  // in the backward pass of a ReLU: y, which is positive where z is
    void* y;
    float* statistics;  // (3, samples, groups): hi, lo and rstd
    const void *dy, *other_dy;  // other_dy is the gradient of the second output, to be added to dy; or null
    void *dx, *dweight, *dbias, *dresidual;

    int64_t elements() const { return samples * channels * positions; }
    // For fewer elements, waking a second thread takes longer than the work.
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
