// What batch_norm.cpp needs of a memory format.
#pragma once

#include <initializer_list>

#include "problem.h"

namespace gn {

// A Batch<Layout> computes the steps of batch normalization for a tile: for several samples if it `joins_samples`, else
// for one. The values of its channels were spread to all columns before.
template <class Layout>
struct Batch;

}  // namespace gn
