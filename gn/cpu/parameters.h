// The weight and bias, and their gradients.
#pragma once

#include <algorithm>
#include <memory>

#include "problem.h"
#include "vector.h"

namespace gn {

// The parameters in float32, padded to whole vectors, and in backward the sums of their gradients over each of several
// parts of the batch.
struct Parameters {
    int64_t parts;
    std::unique_ptr<float[]> weight, bias, dweight, dbias;

    template <class Element>
    Parameters(const Problem& p, int64_t parts, const Element* w, const Element* b)
        : parts(parts), weight(new float[p.channels + lanes]), bias(new float[p.channels + lanes]) {
        read(w, 1.0f, p.channels, weight.get());
        read(b, 0.0f, p.channels, bias.get());
        if (!p.dy) return;
        dweight.reset(new float[parts * p.channels]);
        dbias.reset(new float[parts * p.channels]);
    }

    template <class Element>
    static void read(const Element* values, float otherwise, int64_t channels, float* result) {
        for (int64_t c = 0; c < channels; c += lanes) {
            const int64_t count = std::min<int64_t>(channels - c, lanes);
            store(result + c, values ? load(values + c, count) : broadcast(otherwise), count);
        }
    }

    template <class Element>
    void total(const Problem& p, const float* by_part, Element* result) const {
        for (int64_t c = 0; c < p.channels; c += lanes) {
            const int64_t count = std::min<int64_t>(p.channels - c, lanes);
            Vector sum = {};
            for (int64_t part = 0; part < parts; ++part) sum += load(by_part + part * p.channels + c, count);
            store(result + c, sum, count);
        }
    }
};

}  // namespace gn
