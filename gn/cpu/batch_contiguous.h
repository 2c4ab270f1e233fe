// The steps of batch normalization for (N, C, *) with the positions innermost. A channel of a sample is a row of memory.
#pragma once

#include "batch.h"
#include "contiguous.h"

namespace gn {

template <>
struct Batch<Contiguous> : Contiguous {
    using Values = ChannelValues;

    static constexpr bool joins_samples = false;

    static int64_t columns(const Problem& p) { return p.channels; }

    ChannelValues values(Tile tile, float* memory) const { return {p, parameters, tile, p.channels, memory}; }

    void spread(ChannelValues&, std::initializer_list<Columns>) const {}

    template <class Element>
    void set_near_means(ChannelValues& values, Tile set) const {
        const int64_t samples = set.sample_end - set.sample_begin, several = std::min(samples, probes);
        gn::for_groups(set.group_begin, set.group_end, [&](int64_t channel, int64_t count) {
            Vector some = {};
            for (int64_t k = 0; k < several; ++k) {
                const Rows row(p, set.sample_begin + probe(k, samples, several), channel, channel + 1);
                some += near_means(row.of<Element>(p.x), row.all, count);
            }
            values.hi.set(channel, some / float(several));
        });
    }

    template <class Element>
    void deviations_of(ChannelValues& values, Tile tile) const {
        gn::for_groups(tile.group_begin, tile.group_end, [&](int64_t channel, int64_t count) {
            const Rows row(p, tile.sample_begin, channel, channel + 1);
            Vector first_sum[lanes] = {}, second_sum[lanes] = {};
            const Element* x = row.of<Element>(p.x);
            deviations<false>(x, x, row.all, count, values.hi[channel], first_sum, second_sum);
            values.first_sum.set(channel, sums(first_sum));
            values.second_sum.set(channel, sums(second_sum));
        });
    }

    template <class Element>
    void squares_of(ChannelValues& values, Tile tile) const {
        gn::for_groups(tile.group_begin, tile.group_end, [&](int64_t channel, int64_t count) {
            const Rows row(p, tile.sample_begin, channel, channel + 1);
            Vector sum[lanes] = {};
            squares(row.of<Element>(p.x), row.all, count, values.hi[channel], sum);
            values.second_sum.set(channel, sums(sum));
        });
    }

    template <class Element, class Activation, bool residual>
    void gradient_sums_of(ChannelValues& values, Tile tile) const {
        gradient_sums<false, Element, Activation, residual>(values, rows_of(tile));
    }

    template <class Element, class Activation, bool residual>
    void normalize_of(const ChannelValues& values, Tile tile) const {
        normalize<Element, Activation, residual>(values, rows_of(tile));
    }

    template <class Element, class Activation, bool residual>
    void project_of(const ChannelValues& values, Tile tile) const {
        const Rows rows = rows_of(tile);
        if constexpr (residual)
            project<Element, Identity>(values, rows, {p.dresidual, nullptr, rows.offset});
        else
            project<Element, Activation>(values, rows, {p.dy, p.other_dy, rows.offset});
    }

  private:
    // The last step processes the samples from the last to the first.
    Rows rows_of(Tile tile) const {
        Rows rows(p, tile.sample_begin, tile.group_begin, tile.group_end);
        rows.ahead = -p.channels * p.positions;
        return rows;
    }
};

}  // namespace gn
