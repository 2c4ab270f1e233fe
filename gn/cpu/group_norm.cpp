// activation(group_norm(x) + residual) and its gradients, for one memory format and one element type. GN_LAYOUT is
// Contiguous or ChannelsLast. GN_ELEMENT is float, BFloat16 or Float16; each has its own library, because few processes
// need more than one.
//
// The interface is plain C without torch's headers, so that the file compiles in seconds on the machine it runs on.

#include "channels_last.h"
#include "contiguous.h"
#include "dispatch.h"

namespace gn {
namespace {

// The number of slices into which the groups are cut, so that every thread has work when there are few samples.
template <class Layout>
int64_t slices(const Problem& p) {
    int64_t count = 1;
    while (count < p.groups && p.blocks() * count < p.useful_threads() && Layout::divisible(p, 2 * count)) count *= 2;
    return count;
}

// Calls work(tile, scratch) for every tile. Scratch memory is allocated in advance, because threads that allocate at
// the same time wait for each other.
template <class Layout, class Work>
void for_each_tile(const Problem& p, Work work) {
    const int64_t cuts = slices<Layout>(p), tiles = p.blocks() * cuts;
    const int threads = int(p.useful_threads());
    const int64_t apart = Layout::scratch(p) + 8 * lanes;  // threads share no cache line
    const std::unique_ptr<float[]> scratch(new float[threads * apart]);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int thread = 0; thread < threads; ++thread)
        for (int64_t i = tiles * thread / threads; i < tiles * (thread + 1) / threads; ++i) {
            const int64_t block = i / cuts, cut = i % cuts;
            const Tile tile{block, p.block_begin(block), p.block_begin(block + 1), p.groups * cut / cuts,
                            p.groups * (cut + 1) / cuts};
            work(tile, &scratch[thread * apart]);
        }
}

// A thread processes a set, which is a few channels of one sample, while it is in the cache.
template <class Layout, class Element, class Activation, bool residual>
struct GroupNorm {
    static void run(const Problem& p, const Parameters& parameters) {
        const Layout layout{p, parameters};
        for_each_tile<Layout>(p, [&](Tile tile, float* scratch) {
            if (p.dy)
                layout.template backward<Element, Activation, residual>(tile, scratch);
            else
                layout.template forward<Element, Activation, residual>(tile, scratch);
        });
    }
};

}  // namespace
}  // namespace gn

// The forward pass if `dy` is null, else the backward pass.
extern "C" void GN_NAME(gn_group_norm_)(const gn::Problem* problem) {
    gn::Dispatch<gn::GroupNorm>::run(*problem, problem->blocks());
}
