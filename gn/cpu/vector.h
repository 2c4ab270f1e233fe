// A vector of float32 as wide as the machine's registers, and how it is read from and written to each element type.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace gn {

#if defined(__AVX512F__)
constexpr int lanes = 16;
#elif defined(__AVX__)
constexpr int lanes = 8;
#else
constexpr int lanes = 4;
#endif

// The count of elements that fill a vector.
constexpr int64_t whole = lanes;

typedef float Vector __attribute__((vector_size(lanes * 4)));
typedef int32_t Integers __attribute__((vector_size(lanes * 4)));
typedef uint32_t Bits __attribute__((vector_size(lanes * 4)));
typedef uint16_t Halves __attribute__((vector_size(lanes * 2)));

inline Vector broadcast(float value) { return Vector{} + value; }

template <int count>
struct Floats {
    typedef float type __attribute__((vector_size(count * 4)));
};

template <int count>
inline float sum(typename Floats<count>::type v) {
    if constexpr (count == 1) {
        return v[0];
    } else {
        typename Floats<count / 2>::type halves[2];
        std::memcpy(halves, &v, sizeof halves);
        return sum<count / 2>(halves[0] + halves[1]);
    }
}

inline float sum(Vector v) { return sum<lanes>(v); }

inline Vector load(const float* p) {
    Vector v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

inline void store(float* p, Vector v) { std::memcpy(p, &v, sizeof v); }

// Asks for a line of memory that is about to be read, or written, to come into the second-level cache. The hardware does
// so by itself only within a page and in order.
inline void will_read(const void* p) { __builtin_prefetch(p, 0, 2); }
inline void will_write(const void* p) { __builtin_prefetch(p, 1, 2); }

struct BFloat16 {
    uint16_t bits;
};

struct Float16 {
    uint16_t bits;
};

inline Halves load_halves(const void* p) {
    Halves h;
    std::memcpy(&h, p, sizeof h);
    return h;
}

inline Vector load(const BFloat16* p) { return Vector(__builtin_convertvector(load_halves(p), Bits) << 16); }

inline void store(BFloat16* p, Vector v) {
#if defined(__AVX512BF16__)
    const auto h = _mm512_cvtneps_pbh(__m512(v));
#else
    const Bits bits = Bits(v);
    const Bits nearest_even = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    const Bits quiet_nan = (bits >> 16) | 0x40;
    const Halves h = __builtin_convertvector(v == v ? nearest_even : quiet_nan, Halves);
#endif
    std::memcpy(p, &h, sizeof h);
}

inline Vector load(const Float16* p) {
#if defined(__AVX512F__)
    return Vector(_mm512_cvtph_ps(__m256i(load_halves(p))));
#elif defined(__F16C__)
    return Vector(_mm256_cvtph_ps(__m128i(load_halves(p))));
#else
    _Float16 h[lanes];
    std::memcpy(h, p, sizeof h);
    Vector v;
    for (int i = 0; i < lanes; ++i) v[i] = float(h[i]);
    return v;
#endif
}

inline void store(Float16* p, Vector v) {
#if defined(__AVX512F__)
    const __m256i h = _mm512_cvtps_ph(__m512(v), _MM_FROUND_TO_NEAREST_INT);
#elif defined(__F16C__)
    const __m128i h = _mm256_cvtps_ph(__m256(v), _MM_FROUND_TO_NEAREST_INT);
#else
    _Float16 h[lanes];
    for (int i = 0; i < lanes; ++i) h[i] = _Float16(v[i]);
#endif
    std::memcpy(p, &h, sizeof h);
}

// The first `count` elements, and zeros.
template <class Element>
Vector load(const Element* p, int64_t count) {
    if (count >= lanes) return load(p);
    Element buffer[lanes] = {};
    for (int64_t i = 0; i < count; ++i) buffer[i] = p[i];
    return load(buffer);
}

template <class Element>
void store(Element* p, Vector v, int64_t count) {
    if (count >= lanes) return store(p, v);
    Element buffer[lanes];
    store(buffer, v);
    for (int64_t i = 0; i < count; ++i) p[i] = buffer[i];
}

// The first `count` lanes of `v`, and zeros.
inline Vector first(Vector v, int64_t count) {
    if (count >= lanes) return v;
    Integers index;
    for (int i = 0; i < lanes; ++i) index[i] = i;
    return index < int32_t(count) ? v : Vector{};
}

inline Vector exp(Vector x) {
    // exp(x) = 2^n exp(r), |r| <= log(2) / 2. The comparisons let NaN through.
    x = x < -87.0f ? broadcast(-87.0f) : x;
    x = x > 88.0f ? broadcast(88.0f) : x;
    const Vector rounding = broadcast(12582912.0f);  // 1.5 * 2^23: adding it leaves an integer
    const Vector n = (x * 1.44269504f + rounding) - rounding;
    const Vector r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    Vector p = broadcast(1.0f / 720);
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    return p * Vector((__builtin_convertvector(n, Integers) + 127) << 23);
}

}  // namespace gn
