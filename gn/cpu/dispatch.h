// Selects the instance of a normalization for a problem: by residual, activation and the type of the parameters.
#pragma once

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "activation.h"
#include "parameters.h"

namespace gn {

// Advises the operating system to back large results with 2 MiB pages. glibc maps allocations of 32 MiB and more anew
// each time, and the page faults of 4 KiB pages take longer than writing the results. Smaller results may lie in a heap
// whose pages are already mapped; advising those made some calls slow.
inline void prefer_huge_pages(void* memory, int64_t bytes) {
#if defined(MADV_HUGEPAGE)
    constexpr uintptr_t page = 4096;
    const uintptr_t begin = (uintptr_t(memory) + page - 1) / page * page, end = (uintptr_t(memory) + bytes) / page * page;
    if (memory && bytes >= (32 << 20)) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
    (void)memory, (void)bytes;
#endif
}

// Normalization<Layout, Element, Activation, residual>::run(problem, parameters) computes the forward pass if `dy` is
// null, else the backward pass. It sums the gradients of the parameters over each of `parts` parts of the batch.
template <template <class, class, class, bool> class Normalization>
struct Dispatch {
    template <class Layout, class Element, class Activation>
    static void with_residual(const Problem& p, const Parameters& parameters) {
        p.residual ? Normalization<Layout, Element, Activation, true>::run(p, parameters)
                   : Normalization<Layout, Element, Activation, false>::run(p, parameters);
    }

    template <class Layout, class Element>
    static void with_activation(const Problem& p, const Parameters& parameters) {
        switch (p.activation) {
            case 0: return with_residual<Layout, Element, Identity>(p, parameters);
            case 1: return with_residual<Layout, Element, Relu>(p, parameters);
            case 2: return with_residual<Layout, Element, Silu>(p, parameters);
            case 3: return with_residual<Layout, Element, Gelu>(p, parameters);
        }
    }

    template <class Parameter>
    static void with_parameters(const Problem& p, int64_t parts) {
        const Parameters parameters(p, parts, static_cast<const Parameter*>(p.weight),
                                    static_cast<const Parameter*>(p.bias));
        const int64_t bytes = p.elements() * int64_t(sizeof(GN_ELEMENT));
        for (void* result : {p.y, p.dx, p.dresidual}) prefer_huge_pages(result, bytes);
        with_activation<GN_LAYOUT, GN_ELEMENT>(p, parameters);
        if (p.dy) {
            parameters.total(p, parameters.dweight.get(), static_cast<Parameter*>(p.dweight));
            parameters.total(p, parameters.dbias.get(), static_cast<Parameter*>(p.dbias));
        }
    }

    static void run(const Problem& p, int64_t parts) {
        switch (p.parameter) {
            case 0: return with_parameters<float>(p, parts);
            case 1: return with_parameters<BFloat16>(p, parts);
            case 2: return with_parameters<Float16>(p, parts);
        }
    }
};

}  // namespace gn

#define GN_JOIN(a, b) a##b
#define GN_NAMED(prefix, layout) GN_JOIN(prefix, layout)
#define GN_NAME(prefix) GN_NAMED(prefix, GN_LAYOUT)
