// The values per channel that the kernels of both memory formats keep while they process a set.
#pragma once

#include "parameters.h"
#include "statistics.h"

namespace gn {

// A float32 per channel, or per column of a matrix. The memory is padded, so that whole vectors can be read and written
// up to the end.
struct Columns {
    float* values;
    GN_INLINE Vector operator[](int64_t column) const { return load(values + column); }
    GN_INLINE void set(int64_t column, Vector v) { store(values + column, v); }
    GN_INLINE void add(int64_t column, Vector v) { set(column, (*this)[column] + v); }
};

// With d = x - hi, the input of the activation is z = d * scale + shift (+ residual), and the gradient of x is
// dz * scale + d * slope + offset, where dz is the gradient of z.
//
// Groups are processed in order, a vector of channels at a time. The next group overwrites what was written past the
// last channel of a group.
struct ChannelValues {
    const Problem& p;
    const Parameters& parameters;
    const int64_t channel_begin, channel_end;
    Columns hi, scale, shift, slope, offset;
    Columns first_sum, second_sum;  // over the samples and positions of a set; in backward of dz and of dz * d
    Columns dweight, dbias;         // over a part of the batch

    // The number of floats that `memory` must hold.
    static int64_t size(const Problem& p, int64_t columns) { return 7 * (columns + lanes) + 2 * (p.channels + lanes); }

    ChannelValues(const Problem& p, const Parameters& parameters, Tile tile, int64_t columns, float* memory)
        : p(p), parameters(parameters), channel_begin(tile.group_begin * p.group_channels()),
          channel_end(tile.group_end * p.group_channels()) {
        for (Columns* each : {&hi, &scale, &shift, &slope, &offset, &first_sum, &second_sum}) {
            each->values = memory;
            memory += columns + lanes;
        }
        dweight.values = memory;
        dbias.values = memory + p.channels + lanes;
    }

    void clear_gradients() { std::fill_n(dweight.values, 2 * (p.channels + lanes), 0.0f); }

    template <class Body>
    GN_INLINE void for_group(int64_t group, Body body) const {
        const int64_t begin = group * p.group_channels(), end = begin + p.group_channels();
        for (int64_t c = begin; c < end; c += lanes) body(c, std::min<int64_t>(end - c, lanes));
    }

    // The means over the groups [group, group + count), given sums per channel over `values` values each.
    GN_INLINE Vector means(const Columns& channel_sums, int64_t group, int64_t count, int64_t values) const {
        Vector by_group[lanes] = {};
        for (int64_t k = 0; k < count; ++k)
            for_group(group + k, [&](int64_t c, int64_t n) { by_group[k] += first(channel_sums[c], n); });
        return sums(by_group) / float(p.group_channels() * values);
    }

    // Sets the value of each channel to that of its group.
    GN_INLINE void fill(Columns& columns, int64_t group, int64_t count, Vector by_group) {
        for (int64_t k = 0; k < count; ++k)
            for_group(group + k, [&](int64_t c, int64_t) { columns.set(c, broadcast(by_group[k])); });
    }

    // Sets hi, scale and shift, which depend only on the statistics and the parameters.
    GN_INLINE void centre(int64_t group, int64_t count, const Statistics& s) {
        for (int64_t k = 0; k < count; ++k)
            for_group(group + k, [&](int64_t c, int64_t) {
                const Vector slope = s.rstd[k] * load(parameters.weight.get() + c);
                hi.set(c, broadcast(s.hi[k]));
                scale.set(c, slope);
                shift.set(c, load(parameters.bias.get() + c) - s.lo[k] * slope);
            });
    }

    // Adds the sums over a set, which has `values` values in each channel, to those over its part of the batch, and sets
    // slope and offset for the gradient of x, rstd (weight dz - mean(weight dz) - x̂ mean(weight dz x̂)), with means over
    // the set.
    GN_INLINE void accumulate(int64_t group, int64_t count, const Statistics& s, int64_t values) {
        Vector weighted_dz[lanes] = {}, weighted_dz_normalized[lanes] = {};
        for (int64_t k = 0; k < count; ++k)
            for_group(group + k, [&](int64_t c, int64_t n) {
                const Vector dz = first(first_sum[c], n);
                const Vector dz_normalized = s.rstd[k] * (first(second_sum[c], n) - s.lo[k] * dz);
                const Vector weight = first(load(parameters.weight.get() + c), n);
                dbias.add(c, dz);
                dweight.add(c, dz_normalized);
                weighted_dz[k] += weight * dz;
                weighted_dz_normalized[k] += weight * dz_normalized;
            });
        const float each = 1.0f / float(p.group_channels() * values);
        const Vector slopes = -s.rstd * s.rstd * (sums(weighted_dz_normalized) * each);
        fill(slope, group, count, slopes);
        fill(offset, group, count, -s.rstd * (sums(weighted_dz) * each) - slopes * s.lo);
    }

    // Writes the sums over a part of the batch after its last set.
    void finish(int64_t part) const {
        const int64_t row = part * p.channels;
        std::copy(dweight.values + channel_begin, dweight.values + channel_end, &parameters.dweight[row + channel_begin]);
        std::copy(dbias.values + channel_begin, dbias.values + channel_end, &parameters.dbias[row + channel_begin]);
    }
};

// Calls body(group, count) for [begin, end), with as many groups at a time as a vector has lanes.
template <class Body>
GN_INLINE void for_groups(int64_t begin, int64_t end, Body body) {
    for (int64_t group = begin; group < end; group += lanes) body(group, std::min<int64_t>(end - group, lanes));
}

}  // namespace gn
