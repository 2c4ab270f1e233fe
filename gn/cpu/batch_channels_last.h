// The steps of batch normalization for (N, C, *) with the channels innermost. Consecutive samples are one matrix.
#pragma once

#include "batch.h"
#include "channels_last.h"

namespace gn {

template <>
struct Batch<ChannelsLast> : ChannelsLast {
    using Values = Matrix;

    static constexpr bool joins_samples = true;

    Matrix values(Tile tile, float* memory) const {
        Matrix m(p, parameters, tile, memory);
        m.size = (tile.sample_end - tile.sample_begin) * p.positions * p.channels;
        m.ahead = -m.size;  // the last step processes the samples from the last to the first
        return m;
    }

    void spread(Matrix& m, std::initializer_list<Columns> all) const {
        for (Columns columns : all) m.spread(columns, p.channels);
    }

    template <class Element>
    void set_near_means(Matrix& m, Tile set) const {
        const int64_t positions = (set.sample_end - set.sample_begin) * p.positions;
        set_near_mean(m, set, static_cast<const Element*>(p.x) + offset(set), positions, 4 * probes);
    }

    template <class Element>
    void deviations_of(Matrix& m, Tile tile) const {
        const Element* x = static_cast<const Element*>(p.x) + offset(tile);
        deviations<false>(m, x, x);
    }

    template <class Element>
    void squares_of(Matrix& m, Tile tile) const {
        squares(m, static_cast<const Element*>(p.x) + offset(tile));
    }

    template <class Element, class Activation, bool residual>
    void gradient_sums_of(Matrix& m, Tile tile) const {
        gradient_sums<false, Element, Activation, residual>(m, offset(tile));
    }

    template <class Element, class Activation, bool residual>
    void normalize_of(const Matrix& m, Tile tile) const {
        normalize<Element, Activation, residual>(m, offset(tile));
    }

    template <class Element, class Activation, bool residual>
    void project_of(const Matrix& m, Tile tile) const {
        const int64_t at = offset(tile), next = at + m.ahead;
        using Dy = Upstream<Element>;
        if constexpr (residual)
            project<Element, Identity, false>(m, at, Dy(p.dresidual, nullptr, at), Dy(p.dresidual, nullptr, next));
        else
            project<Element, Activation, false>(m, at, Dy(p.dy, p.other_dy, at), Dy(p.dy, p.other_dy, next));
    }

  private:
    int64_t offset(Tile tile) const { return tile.sample_begin * p.positions * p.channels; }
};

}  // namespace gn
