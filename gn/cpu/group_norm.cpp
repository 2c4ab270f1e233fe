// activation(group_norm(x) + residual) and its gradients, for one memory format and one element type. GN_LAYOUT is
// Contiguous or ChannelsLast. GN_ELEMENT is float, BFloat16 or Float16; each has its own library, because few processes
// need more than one.
//
// The interface is plain C without torch's headers, so that the file compiles in seconds on the machine it runs on.

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "channels_last.h"
#include "contiguous.h"

namespace gn {
namespace {

// Advises the operating system to back large results with 2 MiB pages. glibc maps allocations of 32 MiB and more anew
// each time, and the page faults of 4 KiB pages take longer than writing the results. Smaller results may lie in a heap
// whose pages are already mapped; advising those made some calls slow.
void prefer_huge_pages(void* memory, int64_t bytes) {
#if defined(MADV_HUGEPAGE)
    constexpr uintptr_t page = 4096;
    const uintptr_t begin = (uintptr_t(memory) + page - 1) / page * page, end = (uintptr_t(memory) + bytes) / page * page;
    if (memory && bytes >= (32 << 20)) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
    (void)memory, (void)bytes;
#endif
}

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

template <class Layout, class Element, class Activation, bool residual>
void run(const Problem& p, const Parameters& parameters) {
    const Layout layout{p, parameters};
    for_each_tile<Layout>(p, [&](Tile tile, float* scratch) {
        if (p.dy)
            layout.template backward<Element, Activation, residual>(tile, scratch);
        else
            layout.template forward<Element, Activation, residual>(tile, scratch);
    });
}

template <class Layout, class Element, class Activation>
void with_residual(const Problem& p, const Parameters& parameters) {
    p.residual ? run<Layout, Element, Activation, true>(p, parameters)
               : run<Layout, Element, Activation, false>(p, parameters);
}

template <class Layout, class Element>
void with_activation(const Problem& p, const Parameters& parameters) {
    switch (p.activation) {
        case 0: return with_residual<Layout, Element, Identity>(p, parameters);
        case 1: return with_residual<Layout, Element, Relu>(p, parameters);
        case 2: return with_residual<Layout, Element, Silu>(p, parameters);
        case 3: return with_residual<Layout, Element, Gelu>(p, parameters);
    }
}

template <class Parameter>
void with_parameters(const Problem& p) {
    const Parameters parameters(p, static_cast<const Parameter*>(p.weight), static_cast<const Parameter*>(p.bias));
    const int64_t bytes = p.elements() * int64_t(sizeof(GN_ELEMENT));
    for (void* result : {p.y, p.dx, p.dresidual}) prefer_huge_pages(result, bytes);
    with_activation<GN_LAYOUT, GN_ELEMENT>(p, parameters);
    if (p.dy) {
        Parameters::total(p, parameters.dweight.get(), static_cast<Parameter*>(p.dweight));
        Parameters::total(p, parameters.dbias.get(), static_cast<Parameter*>(p.dbias));
    }
}

}  // namespace
}  // namespace gn

#define GN_JOIN(a, b) a##b
#define GN_NAME(layout) GN_JOIN(gn_group_norm_, layout)

// The forward pass if `dy` is null, else the backward pass.
extern "C" void GN_NAME(GN_LAYOUT)(const gn::Problem* problem) {
    switch (problem->parameter) {
        case 0: return gn::with_parameters<float>(*problem);
        case 1: return gn::with_parameters<gn::BFloat16>(*problem);
        case 2: return gn::with_parameters<gn::Float16>(*problem);
    }
}
