// activation(batch_norm(x) + residual) and its gradients, for one memory format and one element type, as group_norm.cpp.
//
// The samples of a set may be larger than a cache. The threads share its blocks: they compute the sums of each, one of them
// computes what follows from the totals, and they compute the results. The last step processes the blocks from the last to
// the first, because the last ones may still be in the cache.

#include <vector>

#include "batch_channels_last.h"
#include "batch_contiguous.h"
#include "dispatch.h"

namespace gn {
namespace {

// The samples [sample_begin, sample_end), whose values in a channel share statistics.
struct Set {
    int64_t index, sample_begin, sample_end;

    Tile tile(const Problem& p) const { return {index, sample_begin, sample_end, 0, p.channels}; }
};

// What does not depend on the activation and the residual.
template <class Layout, class Element>
class Sets {
  protected:
    using Format = Batch<Layout>;
    using Values = typename Format::Values;

    const Problem& p;
    const Parameters& parameters;
    const Format format{{p, parameters}};
    const int64_t column_values = Format::columns(p) + lanes;
    const int64_t channel_values = p.channels + lanes;
    // A block has at least this many positions, so that its sums are a small part of the work.
    const int64_t block_samples = std::max<int64_t>(1, 512 / p.positions);
    // The values of all sets, the sums of one thread, and those of one block.
    const std::unique_ptr<float[]> shared{new float[ChannelValues::size(p, Format::columns(p))]};
    const int64_t thread_sums = 2 * column_values + 8 * lanes;  // threads share no cache line
    const std::unique_ptr<float[]> sums{new float[p.useful_threads() * thread_sums]};
    const std::unique_ptr<float[]> block_sums{new float[2 * blocks(p.set_samples) * channel_values]};
    // The means over the sets that update the running averages.
    std::vector<double> mean, variance;

    Sets(const Problem& p, const Parameters& parameters) : p(p), parameters(parameters) {
        if (p.running_mean && p.training) mean.resize(p.channels), variance.resize(p.channels);
    }

    int64_t first_sample(Set set, int64_t block) const { return set.sample_begin + block * block_samples; }

    int64_t blocks(int64_t samples) const { return (samples + block_samples - 1) / block_samples; }

    template <class Body>
    void for_each_set(Body body) const {
        for (int64_t index = 0; index < p.sets; ++index) {
            const int64_t begin = index * p.set_samples;
            body(Set{index, begin, std::min(begin + p.set_samples, p.samples)});
        }
    }

    void update_running_averages() const {
        for (size_t c = 0; c < mean.size(); ++c) {
            p.running_mean[c] = float(p.momentum * mean[c] + (1 - p.momentum) * p.running_mean[c]);
            p.running_var[c] = float(p.momentum * variance[c] + (1 - p.momentum) * p.running_var[c]);
        }
    }

    // Computes what the gradient of x and of the parameters need of the sums over the set.
    void follow_from_sums(Values& values, Set set) const {
        total(values, set, 1);
        for_groups(0, p.channels, [&](int64_t channel, int64_t count) {
            values.accumulate(channel, count, Statistics::read(p, set.index, channel, count), per_channel(set));
            if (p.training) return;
            // The statistics are constants.
            values.slope.set(channel, Vector{});
            values.offset.set(channel, Vector{});
        });
        values.finish(set.index);
        format.spread(values, {values.slope, values.offset});
    }

    // The number of values of each channel of a set.
    int64_t per_channel(Set set) const { return (set.sample_end - set.sample_begin) * p.positions; }

    void centre(Values& values, Set set) const {
        for_groups(0, p.channels, [&](int64_t channel, int64_t count) {
            values.centre(channel, count, Statistics::read(p, set.index, channel, count));
        });
        format.spread(values, {values.hi, values.scale, values.shift});
    }

    void running_statistics(Set set) const {
        for_groups(0, p.channels, [&](int64_t channel, int64_t count) {
            const Vector deviation = reciprocal_deviation(load(p.running_var + channel, count), p.eps);
            Statistics{load(p.running_mean + channel, count), {}, deviation}.write(p, set.index, channel, count);
        });
    }

    // Writes the statistics of the set, and adds them to the means over the sets.
    void batch_statistics(Values& values, Set set) {
        const int64_t size = per_channel(set);
        format.template set_near_means<Element>(values, set.tile(p));
        for_each_block<true>(set, [&](int64_t block, Values& own, Tile tile) {
            format.template deviations_of<Element>(own, tile);
            keep(set, block, tile, own);
        });
        total(values, set, size);
        bool some_lose_digits = false;
        for_groups(0, p.channels, [&](int64_t channel, int64_t count) {
            const Moments moments{values.hi[channel], values.first_sum[channel], values.second_sum[channel]};
            // The columns of `slope` and `shift` are not used yet.
            values.slope.set(channel, moments.lose_digits() ? broadcast(1) : Vector{});
            values.shift.set(channel, moments.variance());
            some_lose_digits |= any(moments.lose_digits(), count);
            moments.statistics(p.eps).write(p, set.index, channel, count);
        });
        if (some_lose_digits) set_variances(values, set);
        if (mean.empty()) return;
        const double weight = double(size) / double(p.samples * p.positions), unbiased = size / (size - 1.0);
        const float *hi = p.statistics + set.index * p.channels, *lo = hi + p.sets * p.channels;
        for (int64_t c = 0; c < p.channels; ++c) {
            mean[c] += weight * (double(hi[c]) + lo[c]);
            variance[c] += weight * unbiased * values.shift.values[c];
        }
    }

    // Recomputes the variances of the channels that values.slope marks, in a second pass about the means.
    void set_variances(Values& values, Set set) {
        for_groups(0, p.channels, [&](int64_t channel, int64_t count) {
            values.hi.set(channel, Statistics::read(p, set.index, channel, count).hi);
        });
        format.spread(values, {values.hi});
        for_each_block<true>(set, [&](int64_t block, Values& own, Tile tile) {
            format.template squares_of<Element>(own, tile);
            keep(set, block, tile, own);
        });
        total(values, set, per_channel(set));
        for_groups(0, p.channels, [&](int64_t channel, int64_t count) {
            Statistics s = Statistics::read(p, set.index, channel, count);
            const Integers marked = values.slope[channel] != 0.0f;
            const Vector variance = values.second_sum[channel] - s.lo * s.lo;
            values.shift.set(channel, marked ? variance : values.shift[channel]);
            s.set_variance(marked, variance, p.eps);
            s.write(p, set.index, channel, count);
        });
    }

    // Calls body(block, own, tile) for each tile of a set, of which a block may have several. `own` has the values of
    // the set, and sums of its own.
    template <bool forwards, class Body>
    void for_each_block(Set set, Body body) const {
        const int64_t samples = set.sample_end - set.sample_begin, count = blocks(samples);
        const int64_t elements = samples * p.channels * p.positions;
        const int64_t threads = p.useful_threads(elements);
        int64_t cuts = 1;
        while (count * cuts < threads && Format::divisible(p, 2 * cuts)) cuts *= 2;
        const int64_t tiles = count * cuts;
        const auto work = [&](int64_t thread) {
            const int64_t begin = tiles * thread / threads, end = tiles * (thread + 1) / threads;
            for (int64_t n = begin; n < end; ++n) {
                const int64_t i = forwards ? n : begin + end - 1 - n, block = i / cuts, cut = i % cuts;
                const int64_t first = first_sample(set, block);
                const int64_t last = std::min(first + block_samples, set.sample_end);
                const int64_t step = Format::joins_samples ? last - first : 1;
                for (int64_t done = 0; first + done < last; done += step) {
                    const int64_t sample = forwards ? first + done : last - done - step;
                    const Tile tile{set.index, sample, sample + step, p.channels * cut / cuts,
                                    p.channels * (cut + 1) / cuts};
                    Values own = format.values(tile, shared.get());
                    own.first_sum.values = &sums[thread * thread_sums];
                    own.second_sum.values = own.first_sum.values + column_values;
                    body(block, own, tile);
                }
            }
        };
        if (threads == 1) return work(0);
#pragma omp parallel for schedule(static) num_threads(int(threads))
        for (int64_t thread = 0; thread < threads; ++thread) work(thread);
    }

    // Adds the sums of a tile to those of its block.
    void keep(Set set, int64_t block, Tile tile, const Values& own) const {
        float* at = &block_sums[2 * block * channel_values];
        const bool is_first = tile.sample_begin == first_sample(set, block);
        for (const Columns& columns : {own.first_sum, own.second_sum}) {
            for (int64_t c = tile.group_begin; c < tile.group_end; ++c)
                at[c] = is_first ? columns.values[c] : at[c] + columns.values[c];
            at += channel_values;
        }
    }

    // Sets the sums of `values` to those over the blocks, divided by `divisor`.
    void total(Values& values, Set set, int64_t divisor) const {
        const int64_t count = blocks(set.sample_end - set.sample_begin);
        const float* at = block_sums.get();
        for (const Columns& columns : {values.first_sum, values.second_sum}) {
            for (int64_t c = 0; c < p.channels; ++c) {
                double total = 0;
                for (int64_t block = 0; block < count; ++block) total += at[2 * block * channel_values + c];
                columns.values[c] = float(total / double(divisor));
            }
            at += channel_values;
        }
    }
};

template <class Layout, class Element, class Activation, bool residual>
class BatchNorm : Sets<Layout, Element> {
  public:
    static void run(const Problem& p, const Parameters& parameters) {
        BatchNorm norm(p, parameters);
        norm.for_each_set([&](Set set) { p.dy ? norm.backward(set) : norm.forward(set); });
        if (!p.dy) norm.update_running_averages();
    }

  private:
    using Base = Sets<Layout, Element>;
    using Values = typename Base::Values;
    using Base::Base, Base::format, Base::p;

    void forward(Set set) {
        Values values = format.values(set.tile(p), this->shared.get());
        p.training ? this->batch_statistics(values, set) : this->running_statistics(set);
        this->centre(values, set);
        this->template for_each_block<false>(set, [&](int64_t, Values& own, Tile tile) {
            format.template normalize_of<Element, Activation, residual>(own, tile);
        });
    }

    void backward(Set set) {
        Values values = format.values(set.tile(p), this->shared.get());
        values.clear_gradients();
        this->centre(values, set);
        this->template for_each_block<true>(set, [&](int64_t block, Values& own, Tile tile) {
            format.template gradient_sums_of<Element, Activation, residual>(own, tile);
            this->keep(set, block, tile, own);
        });
        this->follow_from_sums(values, set);
        if (!p.dx) return;
        this->template for_each_block<false>(set, [&](int64_t, Values& own, Tile tile) {
            format.template project_of<Element, Activation, residual>(own, tile);
        });
    }
};

}  // namespace
}  // namespace gn

// The forward pass if `dy` is null, else the backward pass.
extern "C" void GN_NAME(gn_batch_norm_)(const gn::Problem* problem) {
    gn::Dispatch<gn::BatchNorm>::run(*problem, problem->sets);
}
