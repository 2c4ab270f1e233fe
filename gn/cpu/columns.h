// What the kernels of both memory formats know of each channel while they work on a sample.
#pragma once

#include <vector>

#include "parameters.h"
#include "statistics.h"

namespace gn {

// A float32 for each channel, or for each column of a matrix. It may be read and written by whole vectors to its end.
struct Columns {
    std::vector<float> values;
    explicit Columns(int64_t size) : values(size + lanes) {}
    GN_INLINE Vector operator[](int64_t column) const { return load(values.data() + column); }
    GN_INLINE void set(int64_t column, Vector v) { store(values.data() + column, v); }
    GN_INLINE void add(int64_t column, Vector v) { set(column, (*this)[column] + v); }
};

// With d = x - hi, what comes before the activation is d * scale + shift (+ residual), and the gradient of x is
// dz * scale + d * slope + offset, dz being the gradient of what comes before the activation.
struct ChannelValues {
    const Problem& p;
    const Parameters& parameters;
    const int64_t channel_begin, channel_end;
    Columns hi, scale, shift, slope, offset;
    Columns first_sum, second_sum;  // over the positions of a sample; backward, of dz and of dz * d
    Columns dweight, dbias;    // over the samples of a block

    ChannelValues(const Problem& p, const Parameters& parameters, Tile tile, int64_t columns)
        : p(p), parameters(parameters), channel_begin(tile.group_begin * p.group_channels()),
          channel_end(tile.group_end * p.group_channels()), hi(columns), scale(columns), shift(columns),
          slope(p.dy ? columns : 0), offset(p.dy ? columns : 0), first_sum(columns), second_sum(columns),
          dweight(p.dy ? p.channels : 0), dbias(p.dy ? p.channels : 0) {}

    // Calls body(channel, count) for the channels of a group, a vector at a time. Groups are worked on in their order,
    // so what is set beyond the last channel of one is set anew by the next.
    template <class Body>
    GN_INLINE void for_group(int64_t group, Body body) {
        const int64_t begin = group * p.group_channels(), end = begin + p.group_channels();
        for (int64_t c = begin; c < end; c += lanes) body(c, std::min<int64_t>(end - c, lanes));
    }

    // Sets what follows from the statistics alone.
    GN_INLINE void centre(int64_t group, Statistics s) {
        for_group(group, [&](int64_t c, int64_t) {
            const Vector slope = s.rstd * load(parameters.weight.get() + c);
            hi.set(c, broadcast(s.hi));
            scale.set(c, slope);
            shift.set(c, load(parameters.bias.get() + c) - s.lo * slope);
        });
    }

    // Adds a sample's sums to those of its block, and sets what the gradient of x needs:
    // rstd (weight dz - mean(weight dz) - x̂ mean(weight dz x̂)), the means over a group.
    GN_INLINE void accumulate(int64_t group, Statistics s) {
        Vector weighted_dz = {}, weighted_dz_normalized = {};
        for_group(group, [&](int64_t c, int64_t count) {
            const Vector dz = first(first_sum[c], count);
            const Vector dz_normalized = s.rstd * (first(second_sum[c], count) - s.lo * dz);
            const Vector weight = first(load(parameters.weight.get() + c), count);
            dbias.add(c, dz);
            dweight.add(c, dz_normalized);
            weighted_dz += weight * dz;
            weighted_dz_normalized += weight * dz_normalized;
        });
        const float each = 1.0f / float(p.group_channels() * p.positions);
        const float slope_ = -s.rstd * s.rstd * (sum(weighted_dz_normalized) * each);
        const float offset_ = -s.rstd * (sum(weighted_dz) * each) - slope_ * s.lo;
        for_group(group, [&](int64_t c, int64_t) {
            slope.set(c, broadcast(slope_));
            offset.set(c, broadcast(offset_));
        });
    }

    // Hands the sums of a block over, once its samples are done.
    void finish(int64_t block) const {
        const int64_t row = block * p.channels;
        std::copy(&dweight.values[channel_begin], &dweight.values[channel_end], &parameters.dweight[row + channel_begin]);
        std::copy(&dbias.values[channel_begin], &dbias.values[channel_end], &parameters.dbias[row + channel_begin]);
    }
};

}  // namespace gn
