// A vector of float32 as wide as the registers of the machine, and its conversions from and to each element type.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

// Without these attributes the compiler leaves function calls in the innermost loops.
#define GN_INLINE inline __attribute__((always_inline))
#define GN_LAMBDA __attribute__((always_inline))

namespace gn {

#if defined(__AVX512F__)
constexpr int lanes = 16;
#elif defined(__AVX__)
constexpr int lanes = 8;
#else
constexpr int lanes = 4;
#endif

// The number of elements in a full vector.
constexpr int64_t whole = lanes;

typedef float Vector __attribute__((vector_size(lanes * 4)));
typedef int32_t Integers __attribute__((vector_size(lanes * 4)));
typedef uint32_t Bits __attribute__((vector_size(lanes * 4)));
typedef uint16_t Halves __attribute__((vector_size(lanes * 2)));

GN_INLINE Vector broadcast(float value) { return value - Vector{}; }

template <int count>
struct Floats {
    typedef float type __attribute__((vector_size(count * 4)));
};

template <int count>
GN_INLINE float sum(typename Floats<count>::type v) {
    if constexpr (count == 1) {
        return v[0];
    } else {
        typename Floats<count / 2>::type halves[2];
        std::memcpy(halves, &v, sizeof halves);
        return sum<count / 2>(halves[0] + halves[1]);
    }
}

GN_INLINE float sum(Vector v) { return sum<lanes>(v); }

// Lane i of the result is lane index(i) of the concatenation of `a` and `b`.
template <class Index, std::size_t... lane>
GN_INLINE Vector select(Vector a, Vector b, Index index, std::index_sequence<lane...>) {
#if defined(__clang__)
    return __builtin_shufflevector(a, b, index(int(lane))...);
#else
    return __builtin_shuffle(a, b, Integers{index(int(lane))...});
#endif
}

// The horizontal sums of `lanes` vectors, one per lane. Each step adds the halves of two vectors and packs the results
// into one, so that the number of partial sums per vector halves from `parts` to 1.
template <int parts = lanes>
__attribute__((noinline)) Vector sums(Vector (&vectors)[lanes]) {
    if constexpr (parts == 1) {
        return vectors[0];
    } else {
        constexpr int half = parts / 2;
        constexpr auto all = std::make_index_sequence<lanes>();
        constexpr auto left = [](int lane) constexpr { return lane / half * parts + lane % half; };
        constexpr auto right = [](int lane) constexpr { return lane / half * parts + lane % half + half; };
        for (int i = 0; i < half; ++i) {
            const Vector a = vectors[2 * i], b = vectors[2 * i + 1];
            vectors[i] = select(a, b, left, all) + select(a, b, right, all);
        }
        return sums<half>(vectors);
    }
}

GN_INLINE Vector load(const float* p) {
    Vector v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

GN_INLINE void store(float* p, Vector v) { std::memcpy(p, &v, sizeof v); }

// Prefetches a cache line that will be read, or written, into the L2 cache. The hardware prefetches by itself only
// within a page and in order.
GN_INLINE void will_read(const void* p) { __builtin_prefetch(p, 0, 2); }
GN_INLINE void will_write(const void* p) { __builtin_prefetch(p, 1, 2); }

struct BFloat16 {
    uint16_t bits;
};

struct Float16 {
    uint16_t bits;
};

GN_INLINE Halves load_halves(const void* p) {
    Halves h;
    std::memcpy(&h, p, sizeof h);
    return h;
}

GN_INLINE Vector load(const BFloat16* p) { return Vector(__builtin_convertvector(load_halves(p), Bits) << 16); }

GN_INLINE void store(BFloat16* p, Vector v) {
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

GN_INLINE Vector load(const Float16* p) {
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

GN_INLINE void store(Float16* p, Vector v) {
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

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
GN_INLINE __mmask16 mask(int64_t count) { return __mmask16((1u << count) - 1); }

GN_INLINE Vector load_first(const float* p, int64_t count) { return Vector(_mm512_maskz_loadu_ps(mask(count), p)); }
GN_INLINE void store_first(float* p, Vector v, int64_t count) { _mm512_mask_storeu_ps(p, mask(count), __m512(v)); }

template <class Half>
GN_INLINE Vector load_first(const Half* p, int64_t count) {
    const __m256i halves = _mm256_maskz_loadu_epi16(mask(count), p);
    return load(reinterpret_cast<const Half*>(&halves));
}

template <class Half>
GN_INLINE void store_first(Half* p, Vector v, int64_t count) {
    __m256i halves;
    store(reinterpret_cast<Half*>(&halves), v);
    _mm256_mask_storeu_epi16(p, mask(count), halves);
}
#else
template <class Element>
GN_INLINE Vector load_first(const Element* p, int64_t count) {
    Element buffer[lanes] = {};
    for (int64_t i = 0; i < count; ++i) buffer[i] = p[i];
    return load(buffer);
}

template <class Element>
GN_INLINE void store_first(Element* p, Vector v, int64_t count) {
    Element buffer[lanes];
    store(buffer, v);
    for (int64_t i = 0; i < count; ++i) p[i] = buffer[i];
}
#endif

// Loads the first `count` elements, and zeros for the rest.
template <class Element>
GN_INLINE Vector load(const Element* p, int64_t count) {
    return count >= lanes ? load(p) : load_first(p, count);
}

template <class Element>
GN_INLINE void store(Element* p, Vector v, int64_t count) {
    count >= lanes ? store(p, v) : store_first(p, v, count);
}

// `v` rounded to the element type and converted back.
template <class Element>
GN_INLINE Vector rounded(Vector v) {
    if constexpr (sizeof(Element) == sizeof(float)) return v;
    Element buffer[lanes];
    store(buffer, v);
    return load(buffer);
}

// The first `count` lanes of `v`, and zeros for the rest.
GN_INLINE Vector first(Vector v, int64_t count) {
    if (count >= lanes) return v;
    Integers index;
    for (int i = 0; i < lanes; ++i) index[i] = i;
    return index < int32_t(count) ? v : Vector{};
}

GN_INLINE Vector exp(Vector x) {
    // exp(x) = 2^n exp(r), |r| <= log(2) / 2. The comparisons propagate NaN.
    x = x < -87.0f ? broadcast(-87.0f) : x;
    x = x > 88.0f ? broadcast(88.0f) : x;
    const Vector rounding = broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
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
