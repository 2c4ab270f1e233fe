// The weight and bias, and their gradients.
#pragma once

#include <algorithm>
#include <memory>

#include "problem.h"
#include "vector.h"

namespace gn {

// The parameters in float32, padded to whole vectors, and in backward the sums of their gradients per block.
struct Parameters {
    std::unique_ptr<float[]> weight, bias, dweight, dbias;

    template <class Element>
    Parameters(const Problem& p, const Element* w, const Element* b)
        : weight(new float[p.channels + lanes]), bias(new float[p.channels + lanes]) {
        read(w, 1.0f, p.channels, weight.get());
        read(b, 0.0f, p.channels, bias.get());
        if (!p.dy) return;
        dweight.reset(new float[p.blocks() * p.channels]);
        dbias.reset(new float[p.blocks() * p.channels]);
    }

    template <class Element>
    static void read(const Element* values, float otherwise, int64_t channels, float* result) {
        for (int64_t c = 0; c < channels; c += lanes) {
            const int64_t count = std::min<int64_t>(channels - c, lanes);
            store(result + c, values ? load(values + c, count) : broadcast(otherwise), count);
        }
    }

    template <class Element>
    static void total(const Problem& p, const float* by_block, Element* result) {
        for (int64_t c = 0; c < p.channels; c += lanes) {
            const int64_t count = std::min<int64_t>(p.channels - c, lanes);
            Vector sum = {};
            for (int64_t block = 0; block < p.blocks(); ++block) sum += load(by_block + block * p.channels + c, count);
            store(result + c, sum, count);
        }
    }
};

}  // namespace gn
