// The arguments of a kernel, and how the work is divided among threads.
//
// Every normalization is one equation over sets of values: a set has the values of `set_samples` consecutive samples (the
// last set may have fewer) in a group of channels, at all positions. A set of group normalization has one sample; a set
// of batch normalization has one channel and all samples, or those of a ghost batch.
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
    int64_t sets, set_samples;
    int64_t training;  // 0: the running averages are the statistics; batch normalization only
    double eps, momentum;
    const void *x, *weight, *bias;
    const void* residual;  // in the backward pass of a ReLU: y, which is positive where z is
    void* y;
    float* statistics;  // (3, sets, groups): hi, lo and rstd
    const void *dy, *other_dy;  // other_dy is the gradient of the second output, to be added to dy; or null
    void *dx, *dweight, *dbias, *dresidual;
    float *running_mean, *running_var;  // of batch normalization, updated by training; or null

    int64_t elements() const { return samples * channels * positions; }
    // For fewer elements, waking a second thread takes longer than the work.
    int64_t useful_threads() const { return useful_threads(elements()); }
    int64_t useful_threads(int64_t elements) const { return std::min<int64_t>(threads, 1 + elements / (1 << 15)); }
    int64_t group_channels() const { return channels / groups; }
    int64_t blocks() const { return std::min<int64_t>(samples, 64); }
    int64_t block_begin(int64_t block) const { return samples * block / blocks(); }
};

// Samples [sample_begin, sample_end) of one block, groups [group_begin, group_end).
struct Tile {
    int64_t block, sample_begin, sample_end, group_begin, group_end;
};

}  // namespace gn
