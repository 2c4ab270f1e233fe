// Kernels for (N, C, *) with the positions innermost. A channel is a row of memory, and a few groups stay in cache
// while they are processed.
#pragma once

#include <type_traits>

#include "activation.h"
#include "columns.h"
#include "upstream.h"

namespace gn {

// The largest number of elements that are added in float32; longer sums are accumulated in double.
constexpr int64_t chunk = 512 * lanes;

template <int count>
struct Partial {
    Vector values[count] = {};
    GN_INLINE Vector& operator[](int i) { return values[i]; }
    GN_INLINE Partial operator+(Partial other) const {
        Partial result = *this;
#pragma GCC unroll 2
        for (int i = 0; i < count; ++i) result.values[i] += other.values[i];
        return result;
    }
};

// Accumulates `sums` sums over [begin, end). body(at, count, partial) adds the terms of `count` elements to `partial`.
template <int sums, class Body>
GN_INLINE Partial<sums> accumulate(int64_t begin, int64_t end, Body body) {
    Partial<sums> a, b, c, d;
    int64_t i = begin;
    for (; i + 4 * lanes <= end; i += 4 * lanes) {
        body(i, whole, a);
        body(i + lanes, whole, b);
        body(i + 2 * lanes, whole, c);
        body(i + 3 * lanes, whole, d);
    }
    for (; i + lanes <= end; i += lanes) body(i, whole, a);
    if (i < end) body(i, end - i, b);
    return (a + b) + (c + d);
}

template <int sums, class Body>
GN_INLINE Partial<sums> total(int64_t size, Body body) {
    if (size <= chunk) return accumulate<sums>(0, size, body);
    double totals[sums] = {};
    for (int64_t i = 0; i < size; i += chunk) {
        Partial<sums> partial = accumulate<sums>(i, std::min(i + chunk, size), body);
        for (int k = 0; k < sums; ++k) totals[k] += sum(partial[k]);
    }
    Partial<sums> result;
    for (int k = 0; k < sums; ++k) result[k][0] = float(totals[k]);
    return result;
}

template <class Body>
GN_INLINE void for_each(int64_t size, Body body) {
    int64_t i = 0;
    for (; i + 4 * lanes <= size; i += 4 * lanes)
#pragma GCC unroll 4
        for (int k = 0; k < 4; ++k) body(i + k * lanes, whole);
    for (; i + lanes <= size; i += lanes) body(i, whole);
    if (i < size) body(i, size - i);
}

// The channels of a few groups of a sample; each is a row of memory.
struct Rows {
    int64_t begin, end;  // channels
    int64_t size;        // elements of a row
    int64_t offset;      // of the first row
    int64_t all;         // elements of all rows
    int64_t ahead;       // from these rows to those that are processed next

    Rows(const Problem& p, int64_t sample, int64_t group_begin, int64_t group_end)
        : begin(group_begin * p.group_channels()), end(group_end * p.group_channels()), size(p.positions),
          offset((sample * p.channels + begin) * size), all((end - begin) * size), ahead(all) {}

    template <class Element>
    GN_INLINE const Element* of(const void* tensor) const {
        return static_cast<const Element*>(tensor) + offset;
    }
    template <class Element>
    GN_INLINE Element* of(void* tensor) const {
        return static_cast<Element*>(tensor) + offset;
    }
};

// The values per channel that apply to a whole row.
struct RowValues {
    const float *hi, *scale, *shift, *slope, *offset;

    explicit RowValues(const ChannelValues& values)
        : hi(values.hi.values), scale(values.scale.values), shift(values.shift.values), slope(values.slope.values),
          offset(values.offset.values) {}
};

struct Contiguous {
    const Problem& p;
    const Parameters& parameters;

    // Groups can be cut anywhere.
    static bool divisible(const Problem&, int64_t) { return true; }

    static int64_t scratch(const Problem& p) { return ChannelValues::size(p, p.channels); }

    // Calls body(group, count) for as many groups as fit in the L1 cache together.
    template <class Element, class Body>
    GN_INLINE void for_groups(Tile tile, Body body) const {
        const int64_t bytes = p.group_channels() * p.positions * int64_t(sizeof(Element));
        const int64_t together = std::clamp<int64_t>((8 << 10) / bytes, 1, lanes);
        for (int64_t group = tile.group_begin; group < tile.group_end; group += together)
            body(group, std::min(together, tile.group_end - group));
    }

    template <class Element>
    GN_INLINE Statistics statistics(int64_t sample, int64_t group, int64_t count) const {
        const Rows rows(p, sample, group, group + 1);
        const Element *x = rows.of<Element>(p.x), *y = rows.of<Element>(p.y);
        const float each = 1.0f / float(rows.all);
        Moments moments{near_means(x, rows.all, count), {}, {}};
        Vector first_sum[lanes] = {}, second_sum[lanes] = {};
        deviations<true>(x, y, rows.all, count, moments.pivot, first_sum, second_sum);
        moments.first = sums(first_sum) * each, moments.second = sums(second_sum) * each;
        Statistics s = moments.statistics(p.eps);
        const Integers lose_digits = moments.lose_digits();
        if (any(lose_digits, count)) {
            Vector square_sum[lanes] = {};
            squares(x, rows.all, count, s.hi, square_sum);
            s.set_variance(lose_digits, sums(square_sum) * each - s.lo * s.lo, p.eps);
        }
        return s;
    }

    // Computes the sums of d = x - pivot and of d² of `count` groups of `size` elements. Each result is a vector whose
    // lanes are partial sums. `soon`: y is written soon, while it is in the cache.
    template <bool soon, class Element>
    GN_INLINE static void deviations(const Element* x, const Element* y, int64_t size, int64_t count, Vector pivots,
                                     Vector (&first_sum)[lanes], Vector (&second_sum)[lanes]) {
        for (int64_t k = 0; k < count; ++k) {
            const Vector pivot = broadcast(pivots[k]);
            const int64_t at = k * size;
            Partial<2> sums = total<2>(size, [&](int64_t i, int64_t n, auto& partial) GN_LAMBDA {
                if constexpr (soon) will_write(y + at + i);
                const Vector d = first(load(x + at + i, n) - pivot, n);
                partial[0] += d;
                partial[1] += d * d;
            });
            first_sum[k] = sums[0], second_sum[k] = sums[1];
        }
    }

    // Computes the sums of (x - hi)² in the same way.
    template <class Element>
    GN_INLINE static void squares(const Element* x, int64_t size, int64_t count, Vector hi, Vector (&sum)[lanes]) {
        for (int64_t k = 0; k < count; ++k) {
            const Vector centre = broadcast(hi[k]);
            const int64_t at = k * size;
            sum[k] = total<1>(size, [&](int64_t i, int64_t n, auto& partial) GN_LAMBDA {
                const Vector d = first(load(x + at + i, n) - centre, n);
                partial[0] += d * d;
            })[0];
        }
    }

    // The means of a few values of each of `count` groups of `size` elements.
    template <class Element>
    GN_INLINE static Vector near_means(const Element* x, int64_t size, int64_t count) {
        Vector some[lanes] = {};
        for (int64_t k = 0; k < count; ++k, x += size) {
            if (size < lanes) some[k] = first(load(x, size), size);
            else
#pragma GCC unroll 4
                for (int64_t n = 0; n < probes; ++n) some[k] += load(x + probe(n, size - lanes), whole);
        }
        return sums(some) / float(size < lanes ? size : probes * lanes);
    }

    template <class Element, class Activation, bool residual>
    void forward(Tile tile, float* scratch) const {
        ChannelValues values(p, parameters, tile, p.channels, scratch);
        for (int64_t sample = tile.sample_begin; sample < tile.sample_end; ++sample)
            for_groups<Element>(tile, [&](int64_t group, int64_t count) {
                const Statistics s = statistics<Element>(sample, group, count);
                s.write(p, sample, group, count);
                values.centre(group, count, s);
                normalize<Element, Activation, residual>(values, Rows(p, sample, group, group + count));
            });
    }

    template <class Element, class Activation, bool residual>
    GN_INLINE void normalize(const ChannelValues& values, const Rows rows) const {
        const Element *x = rows.of<Element>(p.x), *r = rows.of<Element>(p.residual);
        Element* y = rows.of<Element>(p.y);
        const RowValues of(values);
        for (int64_t c = rows.begin; c < rows.end; ++c, x += rows.size, r += rows.size, y += rows.size) {
            const Vector hi = broadcast(of.hi[c]), scale = broadcast(of.scale[c]), shift = broadcast(of.shift[c]);
            for_each(rows.size, [&](int64_t i, int64_t count) GN_LAMBDA {
                will_read(x + rows.ahead + i);
                if constexpr (residual) will_read(r + rows.ahead + i);
                Vector z = (load(x + i, count) - hi) * scale + shift;
                if constexpr (residual) z += load(r + i, count);
                store(y + i, Activation::value(z), count);
            });
        }
    }

    template <class Element, class Activation, bool residual>
    void backward(Tile tile, float* scratch) const {
        ChannelValues values(p, parameters, tile, p.channels, scratch);
        values.clear_gradients();
        for (int64_t sample = tile.sample_begin; sample < tile.sample_end; ++sample)
            for_groups<Element>(tile, [&](int64_t group, int64_t count) {
                const Rows rows(p, sample, group, group + count);
                const Statistics s = Statistics::read(p, sample, group, count);
                values.centre(group, count, s);
                gradient_sums<true, Element, Activation, residual>(values, rows);
                values.accumulate(group, count, s, p.positions);
                if (!p.dx) return;
                // With a residual, dresidual already is dz, the gradient of the input of the activation.
                if constexpr (residual)
                    project<Element, Identity>(values, rows, {p.dresidual, nullptr, rows.offset});
                else
                    project<Element, Activation>(values, rows, {p.dy, p.other_dy, rows.offset});
            });
        values.finish(tile.block);
    }

    // Computes the sums of dz and of dz (x - hi) over the positions of each channel. `soon`: dx is written soon, while it
    // is in the cache.
    template <bool soon, class Element, class Activation, bool residual>
    GN_INLINE void gradient_sums(ChannelValues& values, const Rows rows) const {
        int64_t channel = rows.begin;
        if (rows.size <= chunk)
            for (; channel + lanes <= rows.end; channel += lanes) {
                Vector dz[lanes], dz_d[lanes];
                partial_sums<soon, Element, Activation, residual>(values, rows, channel, channel + lanes, 0, dz, dz_d);
                values.first_sum.set(channel, sums(dz));
                values.second_sum.set(channel, sums(dz_d));
            }
        for (; channel < rows.end; ++channel) {
            double totals[2] = {};
            for (int64_t i = 0; i < rows.size; i += chunk) {
                Vector dz, dz_d;
                partial_sums<soon, Element, Activation, residual>(values, rows, channel, channel + 1, i, &dz, &dz_d);
                totals[0] += sum(dz);
                totals[1] += sum(dz_d);
            }
            values.first_sum.values[channel] = float(totals[0]);
            values.second_sum.values[channel] = float(totals[1]);
        }
    }

    // Computes the same sums of the channels [channel, channel_end) over the chunk of positions that starts at
    // `position`. Each result is a vector whose lanes are partial sums.
    template <bool soon, class Element, class Activation, bool residual>
    void partial_sums(const ChannelValues& values, const Rows rows, int64_t channel, int64_t channel_end,
                      int64_t position, Vector* sum_dz, Vector* sum_dz_d) const {
        const int64_t at = (channel - rows.begin) * rows.size;
        const Element* x = rows.of<Element>(p.x) + at;
        Upstream<Element> dy(p.dy, p.other_dy, rows.offset + at);
        const Element* r = rows.of<Element>(p.residual) + at;
        Element* dr = rows.of<Element>(p.dresidual) + at;
        const Element* dx = rows.of<Element>(p.dx) + at;
        const RowValues of(values);
        const int64_t end = std::min(position + chunk, rows.size);
        for (int64_t c = channel; c < channel_end; ++c) {
            const Vector hi = broadcast(of.hi[c]), scale = broadcast(of.scale[c]), shift = broadcast(of.shift[c]);
            const auto body = [&](int64_t i, int64_t count, auto& partial) GN_LAMBDA {
                if constexpr (soon) will_write(dx + i);
                const Vector d = load(x + i, count) - hi;
                Vector z = d * scale + shift;
                if constexpr (residual)
                    z = std::is_same_v<Activation, Relu> ? load(r + i, count) : z + load(r + i, count);
                const Vector dz = first(Activation::gradient(z, dy.load(i, count)), count);
                if constexpr (residual) store(dr + i, dz, count);
                partial[0] += dz;
                partial[1] += dz * d;
            };
            Partial<2> partial = accumulate<2>(position, end, body);
            *sum_dz++ = partial[0];
            *sum_dz_d++ = partial[1];
            x += rows.size, r += rows.size, dr += rows.size, dx += rows.size;
            dy.advance(rows.size);
        }
    }

    template <class Element, class Activation>
    GN_INLINE void project(const ChannelValues& values, const Rows rows, Upstream<Element> dy) const {
        const Element* x = rows.of<Element>(p.x);
        Element* dx = rows.of<Element>(p.dx);
        const RowValues of(values);
        for (int64_t c = rows.begin; c < rows.end; ++c, x += rows.size, dy.advance(rows.size), dx += rows.size) {
            const Vector hi = broadcast(of.hi[c]), scale = broadcast(of.scale[c]), shift = broadcast(of.shift[c]);
            const Vector slope = broadcast(of.slope[c]), offset = broadcast(of.offset[c]);
            for_each(rows.size, [&](int64_t i, int64_t count) GN_LAMBDA {
                will_read(x + rows.ahead + i);
                dy.will_read(rows.ahead + i);
                const Vector d = load(x + i, count) - hi;
                const Vector dz = Activation::gradient(d * scale + shift, dy.load(i, count));
                store(dx + i, dz * scale + (d * slope + offset), count);
            });
        }
    }
};

}  // namespace gn
