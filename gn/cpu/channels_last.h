// Kernels for (N, C, *) with the channels innermost. A sample, or several consecutive ones, is a matrix whose rows are one
// pixel each, or several pixels if there are few channels, so that a row is a whole number of vectors. A value per channel
// becomes a value per column.
#pragma once

#include <numeric>
#include <type_traits>

#include "activation.h"
#include "columns.h"
#include "upstream.h"

namespace gn {

struct ChannelsLast {
    const Problem& p;
    const Parameters& parameters;

    static int64_t pixels_per_row(const Problem& p) {
        int64_t pixels = lanes / std::gcd(p.channels, whole);
        while (pixels * p.channels < 8 * lanes) pixels *= 2;
        return pixels;
    }

    // Whether the channels can be cut into `slices` pieces that start at whole vectors and span several cache lines.
    static bool divisible(const Problem& p, int64_t slices) {
        const int64_t channels = p.channels / slices;
        return pixels_per_row(p) == 1 && p.groups % slices == 0 && channels % (4 * lanes) == 0;
    }

    static int64_t columns(const Problem& p) { return pixels_per_row(p) * p.channels; }

    static int64_t scratch(const Problem& p) { return ChannelValues::size(p, columns(p)); }

    // The columns of a tile. The columns of the first pixel of a row are the channels.
    struct Matrix : ChannelValues {
        const int64_t pixels, stride, column_end;
        int64_t size;   // elements of the matrix
        int64_t ahead;  // from this matrix to the one that is processed next

        Matrix(const Problem& p, const Parameters& parameters, Tile tile, float* scratch)
            : ChannelValues(p, parameters, tile, columns(p), scratch), pixels(pixels_per_row(p)),
              stride(pixels * p.channels), column_end(pixels == 1 ? channel_end : stride),
              size(p.positions * p.channels), ahead(size) {}

        // Copies the columns of the first pixel to those of the other pixels of the row.
        void spread(Columns& columns, int64_t channels) const {
            float* v = columns.values;
            for (int64_t i = 1; i < pixels; ++i) std::copy(v, v + channels, v + i * channels);
        }

        // Adds the columns of the other pixels of the row to those of the first pixel.
        void gather(Columns& columns, int64_t channels) const {
            float* v = columns.values;
            for (int64_t i = 1; i < pixels; ++i)
                for (int64_t c = 0; c < channels; ++c) v[c] += v[i * channels + c];
        }

        void clear(Columns& columns) const {
            std::fill(columns.values + channel_begin, columns.values + column_end, 0.0f);
        }

        // Calls body(rows, at, column, count) for every vector of columns and for several rows at a time. The vector of
        // row r starts at element at + r * stride. `count` is less than `lanes` only at the end of the matrix.
        template <class Body>
        GN_INLINE void for_each(Body body) const {
            constexpr std::integral_constant<int, 8> several;
            constexpr std::integral_constant<int, 1> one;
            int64_t row = 0;
            for (; row + several * stride <= size; row += several * stride)
                for (int64_t c = channel_begin; c < column_end; c += lanes) body(several, row + c, c, whole);
            for (; row + stride <= size; row += stride)
                for (int64_t c = channel_begin; c < column_end; c += lanes) body(one, row + c, c, whole);
            for (int64_t c = channel_begin; row + c < size; c += lanes)
                body(one, row + c, c, std::min<int64_t>(size - row - c, lanes));
        }
    };

    template <class Element>
    void statistics(Matrix& m, Tile tile, int64_t sample) const {
        const Element* x = static_cast<const Element*>(p.x) + sample * m.size;
        const Element* y = static_cast<const Element*>(p.y) + sample * m.size;

        set_near_mean(m, tile, x, p.positions, probes);
        deviations<true>(m, x, y);
        bool some_lose_digits = false;
        for_groups(tile.group_begin, tile.group_end, [&](int64_t group, int64_t count) {
            Moments moments{{}, m.means(m.first_sum, group, count, p.positions),
                            m.means(m.second_sum, group, count, p.positions)};
            for (int64_t k = 0; k < count; ++k) moments.pivot[k] = m.hi.values[(group + k) * p.group_channels()];
            const Integers lose_digits = moments.lose_digits();
            m.fill(m.slope, group, count, lose_digits ? broadcast(1) : Vector{});  // a forward pass has no slopes
            some_lose_digits |= any(lose_digits, count);
            moments.statistics(p.eps).write(p, sample, group, count);
        });
        if (some_lose_digits) set_variances(m, tile, sample, x);
        for_groups(tile.group_begin, tile.group_end, [&](int64_t group, int64_t count) {
            m.centre(group, count, Statistics::read(p, sample, group, count));
        });
        for (Columns* columns : {&m.hi, &m.scale, &m.shift}) m.spread(*columns, p.channels);
    }

    // Sets m.hi to the mean of the values of each group at `probes` of `positions` positions.
    template <class Element>
    void set_near_mean(Matrix& m, Tile tile, const Element* x, int64_t positions, int64_t probes) const {
        for (int64_t c = m.channel_begin; c < m.channel_end; c += lanes) {
            Vector some = {};
            const int64_t count = std::min<int64_t>(m.channel_end - c, lanes);
            for (int64_t k = 0; k < probes; ++k) some += load(x + probe(k, positions, probes) * p.channels + c, count);
            m.hi.set(c, some);
        }
        for_groups(tile.group_begin, tile.group_end, [&](int64_t group, int64_t count) {
            m.fill(m.hi, group, count, m.means(m.hi, group, count, probes));
        });
        m.spread(m.hi, p.channels);
    }

    // Computes the sums of d = x - hi and of d² over the positions of each channel. `soon`: y is written soon, while it is
    // in the cache.
    template <bool soon, class Element>
    void deviations(Matrix& m, const Element* x, const Element* y) const {
        m.clear(m.first_sum);
        m.clear(m.second_sum);
        m.for_each([&](auto rows, int64_t at, int64_t column, int64_t count) GN_LAMBDA {
            const Vector pivot = m.hi[column];
            Vector first_sum = {}, second_sum = {};
#pragma GCC unroll 8
            for (int r = 0; r < rows; ++r) {
                const int64_t i = at + r * m.stride;
                if constexpr (soon) will_write(y + i);
                const Vector d = first(load(x + i, count) - pivot, count);
                first_sum += d;
                second_sum += d * d;
            }
            m.first_sum.add(column, first_sum);
            m.second_sum.add(column, second_sum);
        });
        m.gather(m.first_sum, p.channels);
        m.gather(m.second_sum, p.channels);
    }

    // Computes the sums of (x - hi)² over the positions of each channel.
    template <class Element>
    void squares(Matrix& m, const Element* x) const {
        m.clear(m.second_sum);
        m.for_each([&](auto rows, int64_t at, int64_t column, int64_t count) GN_LAMBDA {
            const Vector hi = m.hi[column];
            Vector sum = {};
#pragma GCC unroll 8
            for (int r = 0; r < rows; ++r) {
                const Vector d = first(load(x + at + r * m.stride, count) - hi, count);
                sum += d * d;
            }
            m.second_sum.add(column, sum);
        });
        m.gather(m.second_sum, p.channels);
    }

    // Recomputes the variances of the groups that m.slope marks, in a second pass about the means.
    template <class Element>
    void set_variances(Matrix& m, Tile tile, int64_t sample, const Element* x) const {
        for_groups(tile.group_begin, tile.group_end, [&](int64_t group, int64_t count) {
            m.fill(m.hi, group, count, Statistics::read(p, sample, group, count).hi);
        });
        m.spread(m.hi, p.channels);
        squares(m, x);
        for_groups(tile.group_begin, tile.group_end, [&](int64_t group, int64_t count) {
            Statistics s = Statistics::read(p, sample, group, count);
            Integers marked;
            for (int k = 0; k < lanes; ++k)
                marked[k] = k < count && m.slope.values[(group + k) * p.group_channels()] ? -1 : 0;
            s.set_variance(marked, m.means(m.second_sum, group, count, p.positions) - s.lo * s.lo, p.eps);
            s.write(p, sample, group, count);
        });
    }

    template <class Element, class Activation, bool residual>
    void forward(Tile tile, float* scratch) const {
        Matrix m(p, parameters, tile, scratch);
        for (int64_t sample = tile.sample_begin; sample < tile.sample_end; ++sample) {
            statistics<Element>(m, tile, sample);
            normalize<Element, Activation, residual>(m, sample * m.size);
        }
    }

    // Computes the values of y at `offset`.
    template <class Element, class Activation, bool residual>
    GN_INLINE void normalize(const Matrix& m, int64_t offset) const {
        const Element* x = static_cast<const Element*>(p.x) + offset;
        const Element* r = static_cast<const Element*>(p.residual) + offset;
        Element* y = static_cast<Element*>(p.y) + offset;
        m.for_each([&](auto rows, int64_t at, int64_t column, int64_t count) GN_LAMBDA {
            const Vector hi = m.hi[column], scale = m.scale[column], shift = m.shift[column];
#pragma GCC unroll 8
            for (int k = 0; k < rows; ++k) {
                const int64_t i = at + k * m.stride;
                will_read(x + m.ahead + i);
                if constexpr (residual) will_read(r + m.ahead + i);
                Vector z = (load(x + i, count) - hi) * scale + shift;
                if constexpr (residual) z += load(r + i, count);
                store(y + i, Activation::value(z), count);
            }
        });
    }

    template <class Element, class Activation, bool residual>
    void backward(Tile tile, float* scratch) const {
        Matrix m(p, parameters, tile, scratch);
        m.clear_gradients();
        for (int64_t sample = tile.sample_begin; sample < tile.sample_end; ++sample) {
            for_groups(tile.group_begin, tile.group_end, [&](int64_t group, int64_t count) {
                m.centre(group, count, Statistics::read(p, sample, group, count));
            });
            for (Columns* columns : {&m.hi, &m.scale, &m.shift}) m.spread(*columns, p.channels);
            gradient_sums<true, Element, Activation, residual>(m, sample * m.size);
            for_groups(tile.group_begin, tile.group_end, [&](int64_t group, int64_t count) {
                m.accumulate(group, count, Statistics::read(p, sample, group, count), p.positions);
            });
            if (!p.dx) continue;
            for (Columns* columns : {&m.slope, &m.offset}) m.spread(*columns, p.channels);
            // With a residual, dresidual already is dz, the gradient of the input of the activation.
            const int64_t offset = sample * m.size;
            const Upstream<Element> next_dy(p.dy, p.other_dy, offset + m.ahead);
            if constexpr (residual)
                project<Element, Identity, true>(m, offset, {p.dresidual, nullptr, offset}, next_dy);
            else
                project<Element, Activation, false>(m, offset, {p.dy, p.other_dy, offset}, next_dy);
        }
        m.finish(tile.block);
    }

    // Computes the sums of dz and of dz (x - hi) over the positions of each channel. `soon`: dx is written soon, while it
    // is in the cache.
    template <bool soon, class Element, class Activation, bool residual>
    void gradient_sums(Matrix& m, int64_t offset) const {
        const Element* x = static_cast<const Element*>(p.x) + offset;
        const Upstream<Element> dy(p.dy, p.other_dy, offset);
        const Element* r = static_cast<const Element*>(p.residual) + offset;
        Element* dr = static_cast<Element*>(p.dresidual) + offset;
        const Element* dx = static_cast<const Element*>(p.dx) + offset;
        m.clear(m.first_sum);
        m.clear(m.second_sum);
        m.for_each([&](auto rows, int64_t at, int64_t column, int64_t count) GN_LAMBDA {
            const Vector hi = m.hi[column], scale = m.scale[column], shift = m.shift[column];
            Vector first_sum = {}, second_sum = {};
#pragma GCC unroll 8
            for (int k = 0; k < rows; ++k) {
                const int64_t i = at + k * m.stride;
                if constexpr (soon) will_write(dx + i);
                const Vector d = load(x + i, count) - hi;
                Vector z = d * scale + shift;
                if constexpr (residual)
                    z = std::is_same_v<Activation, Relu> ? load(r + i, count) : z + load(r + i, count);
                const Vector dz = first(Activation::gradient(z, dy.load(i, count)), count);
                if constexpr (residual) store(dr + i, dz, count);
                first_sum += dz;
                second_sum += dz * d;
            }
            m.first_sum.add(column, first_sum);
            m.second_sum.add(column, second_sum);
        });
        m.gather(m.first_sum, p.channels);
        m.gather(m.second_sum, p.channels);
    }

    // Computes the values of dx at `offset` from `dy`. `next_dy`, and with `residual` the residual, is read next.
    template <class Element, class Activation, bool residual>
    void project(const Matrix& m, int64_t offset, Upstream<Element> dy, Upstream<Element> next_dy) const {
        const Element* x = static_cast<const Element*>(p.x) + offset;
        Element* dx = static_cast<Element*>(p.dx) + offset;
        const Element* next_x = x + m.ahead;
        const Element* next_residual = static_cast<const Element*>(p.residual) + offset + m.ahead;
        m.for_each([&](auto rows, int64_t at, int64_t column, int64_t count) GN_LAMBDA {
            const Vector hi = m.hi[column], scale = m.scale[column], shift = m.shift[column];
            const Vector slope = m.slope[column], offset = m.offset[column];
#pragma GCC unroll 8
            for (int k = 0; k < rows; ++k) {
                const int64_t i = at + k * m.stride;
                will_read(next_x + i);
                next_dy.will_read(i);
                if constexpr (residual) will_read(next_residual + i);
                const Vector d = load(x + i, count) - hi;
                const Vector dz = Activation::gradient(d * scale + shift, dy.load(i, count));
                store(dx + i, dz * scale + (d * slope + offset), count);
            }
        });
    }
};

}  // namespace gn
