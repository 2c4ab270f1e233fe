// The gradient of the output.
#pragma once

#include "vector.h"

namespace gn {

// An output that was returned twice has two gradients. Their sum is rounded to the element type, as autograd rounds it.
template <class Element>
struct Upstream {
    const Element *dy, *other;

    GN_INLINE Upstream(const void* dy, const void* other, int64_t offset)
        : dy(static_cast<const Element*>(dy) + offset),
          other(other ? static_cast<const Element*>(other) + offset : nullptr) {}

    GN_INLINE Vector load(int64_t i, int64_t count) const {
        const Vector v = gn::load(dy + i, count);
        return other ? rounded<Element>(v + gn::load(other + i, count)) : v;
    }

    GN_INLINE void will_read(int64_t i) const {
        gn::will_read(dy + i);
        if (other) gn::will_read(other + i);
    }

    GN_INLINE void advance(int64_t elements) {
        dy += elements;
        if (other) other += elements;
    }
};

}  // namespace gn
