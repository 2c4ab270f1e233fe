// (N, C, *) with the positions innermost: a group is one run of memory, which stays in cache while it is worked on.
#pragma once

#include "activation.h"
#include "problem.h"

namespace gn {

template <int count>
struct Partial {
    Vector values[count] = {};
    Vector& operator[](int i) { return values[i]; }
};

// Adds up `sums` values over [0, size): body(at, count, partial) adds those of `count` elements to its partial sums.
template <int sums, class Body>
inline void reduce(int64_t size, double (&totals)[sums], Body body) {
    constexpr int64_t chunk = 512 * lanes;  // float32 sums stay short; longer ones are in double
    for (int64_t i = 0; i < size;) {
        const int64_t end = std::min(i + chunk, size);
        Partial<sums> a, b, c, d;
        for (; i + 4 * lanes <= end; i += 4 * lanes) {
            body(i, whole, a);
            body(i + lanes, whole, b);
            body(i + 2 * lanes, whole, c);
            body(i + 3 * lanes, whole, d);
        }
        for (; i + lanes <= end; i += lanes) body(i, whole, a);
        if (i < end) body(i, end - i, b);
        i = end;
#pragma GCC unroll 2
        for (int s = 0; s < sums; ++s) totals[s] += sum((a[s] + b[s]) + (c[s] + d[s]));
    }
}

template <class Body>
inline void for_each(int64_t size, Body body) {
    int64_t i = 0;
    for (; i + 4 * lanes <= size; i += 4 * lanes)
#pragma GCC unroll 4
        for (int k = 0; k < 4; ++k) body(i + k * lanes, whole);
    for (; i + lanes <= size; i += lanes) body(i, whole);
    if (i < size) body(i, size - i);
}

struct Contiguous {
    const Problem& p;
    const Parameters& parameters;

    // Any tile will do.
    static bool divisible(const Problem&, int64_t) { return true; }

    template <class Element>
    static Statistics statistics(const Element* x, const Element* y, int64_t size, double eps) {
        // About the first value, so that a mean far from zero costs no digits; then about the mean.
        const Vector pivot = broadcast(load(x, 1)[0]);
        double deviation[1] = {}, square[1] = {};
        reduce(size, deviation, [&](int64_t i, int64_t count, auto& partial) {
            partial[0] += first(load(x + i, count) - pivot, count);
        });
        const double mean = double(pivot[0]) + deviation[0] / size;
        const Vector hi = broadcast(float(mean));
        const double lo = mean - hi[0];
        reduce(size, square, [&](int64_t i, int64_t count, auto& partial) {
            will_write(y + i);
            const Vector d = first(load(x + i, count) - hi, count);
            partial[0] += d * d;
        });
        return Statistics::from(mean, square[0] / size - lo * lo, eps);
    }

    template <class Element, class Activation, bool residual>
    void forward(Tile tile) const {
        const int64_t run = p.group_channels() * p.positions;
        for (int64_t sample = tile.sample_begin; sample < tile.sample_end; ++sample)
            for (int64_t group = tile.group_begin; group < tile.group_end; ++group) {
                const int64_t at = (sample * p.groups + group) * run;
                const Element* x = static_cast<const Element*>(p.x) + at;
                const Element* y = static_cast<const Element*>(p.y) + at;
                const Statistics s = statistics(x, y, run, p.eps);
                s.write(p, sample, group);
                for (int64_t k = 0; k < p.group_channels(); ++k)
                    normalize<Element, Activation, residual>(s, group * p.group_channels() + k, at + k * p.positions);
            }
    }

    template <class Element, class Activation, bool residual>
    void normalize(Statistics s, int64_t channel, int64_t at) const {
        const Affine affine(s, parameters.weight[channel], parameters.bias[channel]);
        const Element* x = static_cast<const Element*>(p.x) + at;
        const Element* r = static_cast<const Element*>(p.residual) + at;
        Element* y = static_cast<Element*>(p.y) + at;
        const int64_t next_group = p.group_channels() * p.positions;
        for_each(p.positions, [&](int64_t i, int64_t count) {
            will_read(x + next_group + i);
            if constexpr (residual) will_read(r + next_group + i);
            Vector z = (load(x + i, count) - s.hi) * affine.scale + affine.shift;
            if constexpr (residual) z += load(r + i, count);
            store(y + i, Activation::value(z), count);
        });
    }

    template <class Element, class Activation, bool residual>
    void backward(Tile tile) const {
        const int64_t run = p.group_channels() * p.positions;
        for (int64_t sample = tile.sample_begin; sample < tile.sample_end; ++sample)
            for (int64_t group = tile.group_begin; group < tile.group_end; ++group) {
                const Statistics s = Statistics::read(p, sample, group);
                const int64_t at = (sample * p.groups + group) * run;
                double sum_dz = 0, sum_dz_normalized = 0;
                for (int64_t k = 0; k < p.group_channels(); ++k) {
                    const int64_t channel = group * p.group_channels() + k;
                    double sums[2] = {};
                    gradient_sums<Element, Activation, residual>(s, channel, at + k * p.positions, sums);
                    const double dweight = s.rstd * (sums[1] - s.lo * sums[0]);
                    parameters.dweight[tile.block * p.channels + channel] += float(dweight);
                    parameters.dbias[tile.block * p.channels + channel] += float(sums[0]);
                    sum_dz += parameters.weight[channel] * sums[0];
                    sum_dz_normalized += parameters.weight[channel] * dweight;
                }
                if (!p.dx) continue;
                const Projection projection(s, sum_dz / run, sum_dz_normalized / run);
                for (int64_t k = 0; k < p.group_channels(); ++k) {
                    const int64_t channel = group * p.group_channels() + k;
                    // Where there is a residual, the activation's gradient has just been stored as the residual's.
                    if constexpr (residual)
                        project<Element, Identity>(s, projection, channel, at + k * p.positions, p.dresidual);
                    else
                        project<Element, Activation>(s, projection, channel, at + k * p.positions, p.dy);
                }
            }
    }

    // The sums of dz and of dz (x - hi) over a channel.
    template <class Element, class Activation, bool residual>
    void gradient_sums(Statistics s, int64_t channel, int64_t at, double (&sums)[2]) const {
        const Affine affine(s, parameters.weight[channel], parameters.bias[channel]);
        const Element* x = static_cast<const Element*>(p.x) + at;
        const Element* dy = static_cast<const Element*>(p.dy) + at;
        const Element* r = static_cast<const Element*>(p.residual) + at;
        Element* dr = static_cast<Element*>(p.dresidual) + at;
        reduce(p.positions, sums, [&](int64_t i, int64_t count, auto& partial) {
            const Vector d = load(x + i, count) - s.hi;
            Vector z = d * affine.scale + affine.shift;
            if constexpr (residual)
                z = std::is_same_v<Activation, Relu> ? load(r + i, count) : z + load(r + i, count);
            const Vector dz = first(Activation::gradient(z, load(dy + i, count)), count);
            if constexpr (residual) store(dr + i, dz, count);
            partial[0] += dz;
            partial[1] += dz * d;
        });
    }

    template <class Element, class Activation>
    void project(Statistics s, Projection projection, int64_t channel, int64_t at, const void* upstream) const {
        const Affine affine(s, parameters.weight[channel], parameters.bias[channel]);
        const Element* x = static_cast<const Element*>(p.x) + at;
        const Element* dy = static_cast<const Element*>(upstream) + at;
        Element* dx = static_cast<Element*>(p.dx) + at;
        for_each(p.positions, [&](int64_t i, int64_t count) {
            const Vector d = load(x + i, count) - s.hi;
            const Vector dz = Activation::gradient(d * affine.scale + affine.shift, load(dy + i, count));
            store(dx + i, dz * affine.scale + (d * projection.slope + projection.offset), count);
        });
    }
};

}  // namespace gn
