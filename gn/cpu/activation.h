// The activations and their gradients.
#pragma once

#include "vector.h"

namespace gn {

struct Identity {
    static Vector value(Vector z) { return z; }
    static Vector gradient(Vector, Vector dy) { return dy; }
};

struct Relu {
    // The comparison is <= so that NaN propagates forward and backward, as in torch.
    static Vector value(Vector z) { return z <= 0.0f ? Vector{} : z; }
    static Vector gradient(Vector z, Vector dy) { return z <= 0.0f ? Vector{} : dy; }
};

struct Silu {
    static Vector sigmoid(Vector z) { return 1.0f / (1.0f + exp(-z)); }
    static Vector value(Vector z) { return z * sigmoid(z); }
    static Vector gradient(Vector z, Vector dy) {
        const Vector s = sigmoid(z);
        return dy * (s * (1.0f + z * (1.0f - s)));
    }
};

struct Gelu {
    // The normal distribution function, by a Chebyshev approximation of erfc (Press et al., Numerical Recipes, section
    // 6.2). Its relative error is below 1.2e-7 everywhere.
    static Vector cumulative(Vector z) {
        const Vector x = (z < 0.0f ? -z : z) * 0.70710678f;
        const Vector t = 1.0f / (1.0f + 0.5f * x);
        Vector p = broadcast(0.17087277f);
        p = p * t - 0.82215223f;
        p = p * t + 1.48851587f;
        p = p * t - 1.13520398f;
        p = p * t + 0.27886807f;
        p = p * t - 0.18628806f;
        p = p * t + 0.09678418f;
        p = p * t + 0.37409196f;
        p = p * t + 1.00002368f;
        p = p * t - 1.26551223f;
        const Vector tail = 0.5f * t * exp(p - x * x);
        return z < 0.0f ? tail : 1.0f - tail;
    }
    static Vector value(Vector z) { return z * cumulative(z); }
    static Vector gradient(Vector z, Vector dy) {
        const Vector density = 0.39894228f * exp(-0.5f * z * z);
        return dy * (cumulative(z) + z * density);
    }
};

}  // namespace gn
