// SPDX-License-Identifier: Apache-2.0
// Products of 16-bit integers, beside the machine of warp/floats.inl: a value holds `floats::width` pairs of them, or as
// many sums of 32 bits.
//
//   pays                  whether this is sooner than the same product in floats
//   fused()               whether this processor multiplies and adds in one instruction that the target may lack
//   load, store, zero     2 * floats::width elements
//   both                  one pair, for all
//   madd<Fused>           sum + a.first * b.first + a.second * b.second, modulo 2^32
//   times                 products of elements, modulo 2^16
//   either                bit by bit
//   outside               whether any |element| is beyond its limit; limits are not negative
//   total                 of the elements of floats::vec: upper half to lower half, until there is one
//
// An instruction set without a part here gets the last one; NEON, whose floats are pairs of registers, needs one of its own.

#if SLUICE_TARGET_AVX512

struct pairs {
  static constexpr bool pays = true;
  using vec = __m512i;
  static SLUICE_BODY_FN bool fused() { return __builtin_cpu_supports("avx512vnni"); }
  static SLUICE_BODY_FN vec load(const std::int16_t* p) { return _mm512_loadu_si512(p); }
  static SLUICE_BODY_FN void store(std::int16_t* p, vec v) { _mm512_storeu_si512(p, v); }
  static SLUICE_BODY_FN vec zero() { return _mm512_setzero_si512(); }
  static SLUICE_BODY_FN vec both(const std::int16_t* p) {
    std::int32_t pair;
    std::memcpy(&pair, p, sizeof pair);
    return _mm512_set1_epi32(pair);
  }
  template <bool Fused>
  static SLUICE_BODY_FN vec madd(vec sum, vec a, vec b) {
    if constexpr (Fused)  // an intrinsic would have to be called from a target of its own
      __asm__("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    else
      sum = _mm512_add_epi32(sum, _mm512_madd_epi16(a, b));
    return sum;
  }
  static SLUICE_BODY_FN vec times(vec a, vec b) { return _mm512_mullo_epi16(a, b); }
  static SLUICE_BODY_FN vec either(vec a, vec b) { return _mm512_or_si512(a, b); }
  static SLUICE_BODY_FN bool outside(vec v, vec limit) { return shorts::any_outside(v, limit); }
  static SLUICE_BODY_FN float total(__m512 v) {
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }
};

#elif SLUICE_TARGET_AVX2

struct pairs {
  static constexpr bool pays = true;
  using vec = __m256i;
  static SLUICE_BODY_FN bool fused() {  // AVX-VNNI, which not all compilers know by name
    static const bool has = [] {
      unsigned a = 0, b = 0, c = 0, d = 0;
      __asm__("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "0"(7u), "2"(0u));
      const bool more = a >= 1;
      __asm__("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "0"(7u), "2"(1u));
      return more && (a >> 4 & 1) != 0;
    }();
    return has;
  }
  static SLUICE_BODY_FN vec load(const std::int16_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static SLUICE_BODY_FN void store(std::int16_t* p, vec v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
  static SLUICE_BODY_FN vec zero() { return _mm256_setzero_si256(); }
  static SLUICE_BODY_FN vec both(const std::int16_t* p) {
    std::int32_t pair;
    std::memcpy(&pair, p, sizeof pair);
    return _mm256_set1_epi32(pair);
  }
  template <bool Fused>
  static SLUICE_BODY_FN vec madd(vec sum, vec a, vec b) {
    if constexpr (Fused)
      __asm__("%{vex%} vpdpwssd %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b));
    else
      sum = _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
    return sum;
  }
  static SLUICE_BODY_FN vec times(vec a, vec b) { return _mm256_mullo_epi16(a, b); }
  static SLUICE_BODY_FN vec either(vec a, vec b) { return _mm256_or_si256(a, b); }
  static SLUICE_BODY_FN bool outside(vec v, vec limit) { return shorts::any_outside(v, limit); }
  static SLUICE_BODY_FN float total(__m256 v) {
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }
};

#else  // 128 bits; sums of pairs are one instruction of every 64-bit x86

struct pairs {
#if defined(__SSE2__) && !defined(__CUDACC__)
  static constexpr bool pays = true;
#else
  static constexpr bool pays = false;
#endif
  static_assert(floats::width == 4);
  using vec = std::int16_t __attribute__((vector_size(16)));
  using sums = std::uint32_t __attribute__((vector_size(16)));
  using words = std::uint16_t __attribute__((vector_size(16)));
  static SLUICE_BODY_FN bool fused() { return false; }
  static SLUICE_BODY_FN vec load(const std::int16_t* p) {
    vec v;
    std::memcpy(&v, p, sizeof v);
    return v;
  }
  static SLUICE_BODY_FN void store(std::int16_t* p, vec v) { std::memcpy(p, &v, sizeof v); }
  static SLUICE_BODY_FN vec zero() { return vec{}; }
  static SLUICE_BODY_FN vec both(const std::int16_t* p) {
    std::int32_t pair;
    std::memcpy(&pair, p, sizeof pair);
    return reinterpret_cast<vec>(floats::set(pair));
  }
  template <bool Fused>
  static SLUICE_BODY_FN vec madd(vec sum, vec a, vec b) {
#if defined(__SSE2__) && !defined(__CUDACC__)
    const auto products = __builtin_ia32_pmaddwd128(a, b);
    return reinterpret_cast<vec>(reinterpret_cast<sums>(sum) + reinterpret_cast<sums>(products));
#else
    std::uint32_t s[4];
    std::int16_t x[8], y[8];
    std::memcpy(s, &sum, sizeof s);
    std::memcpy(x, &a, sizeof x);
    std::memcpy(y, &b, sizeof y);
    for (int i = 0; i < 8; ++i) s[i / 2] += static_cast<std::uint32_t>(x[i] * y[i]);
    std::memcpy(&sum, s, sizeof s);
    return sum;
#endif
  }
  static SLUICE_BODY_FN vec times(vec a, vec b) {
    return reinterpret_cast<vec>(reinterpret_cast<words>(a) * reinterpret_cast<words>(b));
  }
  static SLUICE_BODY_FN vec either(vec a, vec b) { return a | b; }
  static SLUICE_BODY_FN bool outside(vec v, vec limit) {
    const auto beyond = (v > limit) | (v < -limit);
    std::uint64_t halves[2];
    std::memcpy(halves, &beyond, sizeof halves);
    return (halves[0] | halves[1]) != 0;
  }
  static SLUICE_BODY_FN float total(floats::vec v) { return (v[0] + v[2]) + (v[1] + v[3]); }
};

#endif
