// SPDX-License-Identifier: Apache-2.0
// A machine for dense float work, beside the 32-lane coder machine: `floats` (with 32-bit integers of the same shape)
// and `shorts` (16-bit integers). `width` elements lie side by side in one value; on CUDA a thread holds one of a
// warp's 32. Loads and stores need no alignment on the host; `m` < width touches only the first m elements, the others
// read as zero. Bodies written over it know columns, never registers or threads.

#if SLUICE_TARGET_AVX512

struct floats {
  static constexpr int width = 16;
  using vec = __m512;
  using ints = __m512i;
  using mask = __mmask16;

  static SLUICE_BODY_FN mask first(int m) { return static_cast<mask>((1u << m) - 1u); }

  static SLUICE_BODY_FN vec load(const float* p, int m = width) {
    return m == width ? _mm512_loadu_ps(p) : _mm512_maskz_loadu_ps(first(m), p);
  }
  static SLUICE_BODY_FN void store(float* p, vec v, int m = width) {
    m == width ? _mm512_storeu_ps(p, v) : _mm512_mask_storeu_ps(p, first(m), v);
  }
  static SLUICE_BODY_FN vec load_f16(const void* p, int m = width) {
    return _mm512_cvtph_ps(m == width ? _mm256_loadu_si256(static_cast<const __m256i*>(p))
                                      : _mm256_maskz_loadu_epi16(first(m), p));
  }
  static SLUICE_BODY_FN void store_f16(void* p, vec v, int m = width) {
    const __m256i h = _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    m == width ? _mm256_storeu_si256(static_cast<__m256i*>(p), h) : _mm256_mask_storeu_epi16(p, first(m), h);
  }
  static SLUICE_BODY_FN vec from_f16(ints h) { return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(h)); }
  static SLUICE_BODY_FN ints load_u8(const void* p, int m = width) {
    return _mm512_cvtepu8_epi32(m == width ? _mm_loadu_si128(static_cast<const __m128i*>(p))
                                           : _mm_maskz_loadu_epi8(first(m), p));
  }
  static SLUICE_BODY_FN ints load_u16(const void* p, int m = width) {
    return _mm512_cvtepu16_epi32(m == width ? _mm256_loadu_si256(static_cast<const __m256i*>(p))
                                            : _mm256_maskz_loadu_epi16(first(m), p));
  }
  static SLUICE_BODY_FN ints load_i16(const void* p, int m = width) {
    return _mm512_cvtepi16_epi32(m == width ? _mm256_loadu_si256(static_cast<const __m256i*>(p))
                                            : _mm256_maskz_loadu_epi16(first(m), p));
  }
  static SLUICE_BODY_FN void store_u8(void* p, ints v, int m = width) {
    const __m128i b = _mm512_cvtepi32_epi8(v);
    m == width ? _mm_storeu_si128(static_cast<__m128i*>(p), b) : _mm_mask_storeu_epi8(p, first(m), b);
  }
  static SLUICE_BODY_FN void store_u16(void* p, ints v, int m = width) {
    const __m256i h = _mm512_cvtepi32_epi16(v);
    m == width ? _mm256_storeu_si256(static_cast<__m256i*>(p), h) : _mm256_mask_storeu_epi16(p, first(m), h);
  }
  static SLUICE_BODY_FN void load_pairs(const float* p, vec& even, vec& odd, int m = width) {
    const vec a = load(p, m >= width / 2 ? width : 2 * m);
    const vec b = load(p + width, m >= width / 2 ? 2 * m - width : 0);
    const ints e = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    even = _mm512_permutex2var_ps(a, e, b);
    odd = _mm512_permutex2var_ps(a, _mm512_add_epi32(e, set(1)), b);
  }
  static SLUICE_BODY_FN void store_pairs(float* p, vec even, vec odd, int m = width) {
    const ints l = _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    store(p, _mm512_permutex2var_ps(even, l, odd), m >= width / 2 ? width : 2 * m);
    store(p + width, _mm512_permutex2var_ps(even, _mm512_add_epi32(l, set(8)), odd),
          m >= width / 2 ? 2 * m - width : 0);
  }

  static SLUICE_BODY_FN vec set(float x) { return _mm512_set1_ps(x); }
  static SLUICE_BODY_FN vec add(vec a, vec b) { return _mm512_add_ps(a, b); }
  static SLUICE_BODY_FN vec sub(vec a, vec b) { return _mm512_sub_ps(a, b); }
  static SLUICE_BODY_FN vec mul(vec a, vec b) { return _mm512_mul_ps(a, b); }
  static SLUICE_BODY_FN vec fma(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
  static SLUICE_BODY_FN vec min(vec a, vec b) { return _mm512_min_ps(a, b); }  // of equals, b
  static SLUICE_BODY_FN vec max(vec a, vec b) { return _mm512_max_ps(a, b); }
  static SLUICE_BODY_FN vec clamp(vec v, float limit) {  // NaN becomes -limit
    return _mm512_min_ps(_mm512_max_ps(v, set(-limit)), set(limit));
  }
  static SLUICE_BODY_FN vec from_ints(ints v) { return _mm512_cvtepi32_ps(v); }
  static SLUICE_BODY_FN ints round(vec v) {  // to nearest even, |v| <= 2^22
    return _mm512_cvt_roundps_epi32(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }

  static SLUICE_BODY_FN ints set(std::int32_t x) { return _mm512_set1_epi32(x); }
  static SLUICE_BODY_FN ints bits(vec v) { return _mm512_castps_si512(v); }
  static SLUICE_BODY_FN vec as_float(ints v) { return _mm512_castsi512_ps(v); }
  static SLUICE_BODY_FN ints add(ints a, ints b) { return _mm512_add_epi32(a, b); }
  static SLUICE_BODY_FN ints sub(ints a, ints b) { return _mm512_sub_epi32(a, b); }
  static SLUICE_BODY_FN ints bit_and(ints a, ints b) { return _mm512_and_si512(a, b); }
  static SLUICE_BODY_FN ints bit_or(ints a, ints b) { return _mm512_or_si512(a, b); }
  template <int N>
  static SLUICE_BODY_FN ints shl(ints v) {
    return _mm512_slli_epi32(v, N);
  }
  template <int N>
  static SLUICE_BODY_FN ints shr(ints v) {
    return _mm512_srli_epi32(v, N);
  }
  static SLUICE_BODY_FN mask none() { return 0; }
  static SLUICE_BODY_FN mask greater(ints a, ints b) { return _mm512_cmpgt_epi32_mask(a, b); }
  static SLUICE_BODY_FN mask either(mask a, mask b) { return static_cast<mask>(a | b); }
  static SLUICE_BODY_FN ints select(mask m, ints yes, ints no) { return _mm512_mask_blend_epi32(m, no, yes); }
  static SLUICE_BODY_FN bool any(mask m) { return m != 0; }
};

struct shorts {
  static constexpr int width = 32;
  using vec = __m512i;

  static SLUICE_BODY_FN __mmask32 first(int m) { return static_cast<__mmask32>((std::uint64_t{1} << m) - 1u); }
  static SLUICE_BODY_FN vec load(const std::int16_t* p, int m = width) {
    return m == width ? _mm512_loadu_si512(p) : _mm512_maskz_loadu_epi16(first(m), p);
  }
  static SLUICE_BODY_FN void store(std::int16_t* p, vec v, int m = width) {
    m == width ? _mm512_storeu_si512(p, v) : _mm512_mask_storeu_epi16(p, first(m), v);
  }
  static SLUICE_BODY_FN void store(std::int8_t* p, vec v, int m = width) {
    const __m256i b = _mm512_cvtepi16_epi8(v);
    m == width ? _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), b) : _mm256_mask_storeu_epi8(p, first(m), b);
  }
  // v = 3 c + r with r in {-1, 0, 1}
  static SLUICE_BODY_FN void split3(vec v, vec& c, vec& r) {
    const vec q = _mm512_sub_epi16(_mm512_mulhi_epi16(v, _mm512_set1_epi16(21846)), _mm512_srai_epi16(v, 15));
    const vec d = _mm512_sub_epi16(v, _mm512_add_epi16(q, _mm512_add_epi16(q, q)));
    const vec one = _mm512_set1_epi16(1);
    const vec up = _mm512_mask_add_epi16(q, _mm512_cmpgt_epi16_mask(d, one), q, one);
    c = _mm512_mask_sub_epi16(up, _mm512_cmplt_epi16_mask(d, _mm512_set1_epi16(-1)), up, one);
    r = _mm512_sub_epi16(v, _mm512_add_epi16(c, _mm512_add_epi16(c, c)));
  }
  static SLUICE_BODY_FN bool any_outside(vec v, vec limit) {
    return (_mm512_cmpgt_epi16_mask(v, limit) |
            _mm512_cmplt_epi16_mask(v, _mm512_sub_epi16(_mm512_setzero_si512(), limit))) != 0;
  }
};

#elif SLUICE_TARGET_AVX2

struct floats {
  static constexpr int width = 8;
  using vec = __m256;
  using ints = __m256i;
  using mask = __m256i;

  // A part is copied through the stack: it occurs at the end of a row only.
  template <class T>
  struct part {
    alignas(32) T a[width];
    SLUICE_BODY_FN part(const void* p, int m) : a{} { std::memcpy(a, p, part_bytes<T>(m, width)); }
    SLUICE_BODY_FN part() {}
    SLUICE_BODY_FN void put(void* p, int m) const { std::memcpy(p, a, part_bytes<T>(m, width)); }
  };

  static SLUICE_BODY_FN vec load(const float* p, int m = width) {
    return m == width ? _mm256_loadu_ps(p) : _mm256_loadu_ps(part<float>(p, m).a);
  }
  static SLUICE_BODY_FN void store(float* p, vec v, int m = width) {
    if (m == width) return _mm256_storeu_ps(p, v);
    part<float> t;
    _mm256_storeu_ps(t.a, v);
    t.put(p, m);
  }
  static SLUICE_BODY_FN __m128i load_8x16(const void* p, int m) {
    return m == width ? _mm_loadu_si128(static_cast<const __m128i*>(p))
                      : _mm_loadu_si128(reinterpret_cast<const __m128i*>(part<std::uint16_t>(p, m).a));
  }
  static SLUICE_BODY_FN void store_8x16(void* p, __m128i v, int m) {
    if (m == width) return _mm_storeu_si128(static_cast<__m128i*>(p), v);
    part<std::uint16_t> t;
    _mm_storeu_si128(reinterpret_cast<__m128i*>(t.a), v);
    t.put(p, m);
  }
  static SLUICE_BODY_FN vec load_f16(const void* p, int m = width) { return _mm256_cvtph_ps(load_8x16(p, m)); }
  static SLUICE_BODY_FN void store_f16(void* p, vec v, int m = width) {
    store_8x16(p, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), m);
  }
  static SLUICE_BODY_FN ints load_u8(const void* p, int m = width) {
    return _mm256_cvtepu8_epi32(m == width
                                    ? _mm_loadl_epi64(static_cast<const __m128i*>(p))
                                    : _mm_loadl_epi64(reinterpret_cast<const __m128i*>(part<std::uint8_t>(p, m).a)));
  }
  static SLUICE_BODY_FN ints load_u16(const void* p, int m = width) { return _mm256_cvtepu16_epi32(load_8x16(p, m)); }
  static SLUICE_BODY_FN ints load_i16(const void* p, int m = width) { return _mm256_cvtepi16_epi32(load_8x16(p, m)); }
  static SLUICE_BODY_FN __m128i low_halves(ints v) {
    const ints low = _mm256_shuffle_epi8(v, _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, -1, -1, -1, -1, -1, -1, -1, -1,
                                                             0, 1, 4, 5, 8, 9, 12, 13, -1, -1, -1, -1, -1, -1, -1, -1));
    return _mm256_castsi256_si128(_mm256_permute4x64_epi64(low, 0x08));
  }
  static SLUICE_BODY_FN vec from_f16(ints h) { return _mm256_cvtph_ps(low_halves(h)); }
  static SLUICE_BODY_FN void store_u16(void* p, ints v, int m = width) { store_8x16(p, low_halves(v), m); }
  static SLUICE_BODY_FN void store_u8(void* p, ints v, int m = width) {
    const __m128i b =
        _mm_shuffle_epi8(low_halves(v), _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, -1, -1, -1, -1, -1, -1, -1, -1));
    if (m == width) return _mm_storel_epi64(static_cast<__m128i*>(p), b);
    part<std::uint8_t> t;
    _mm_storel_epi64(reinterpret_cast<__m128i*>(t.a), b);
    t.put(p, m);
  }
  static SLUICE_BODY_FN void load_pairs(const float* p, vec& even, vec& odd, int m = width) {
    const vec a = load(p, m >= width / 2 ? width : 2 * m);
    const vec b = load(p + width, m >= width / 2 ? 2 * m - width : 0);
    even = _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(_mm256_shuffle_ps(a, b, 0x88)), 0xD8));
    odd = _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(_mm256_shuffle_ps(a, b, 0xDD)), 0xD8));
  }
  static SLUICE_BODY_FN void store_pairs(float* p, vec even, vec odd, int m = width) {
    const vec lo = _mm256_unpacklo_ps(even, odd), hi = _mm256_unpackhi_ps(even, odd);
    store(p, _mm256_permute2f128_ps(lo, hi, 0x20), m >= width / 2 ? width : 2 * m);
    store(p + width, _mm256_permute2f128_ps(lo, hi, 0x31), m >= width / 2 ? 2 * m - width : 0);
  }

  static SLUICE_BODY_FN vec set(float x) { return _mm256_set1_ps(x); }
  static SLUICE_BODY_FN vec add(vec a, vec b) { return _mm256_add_ps(a, b); }
  static SLUICE_BODY_FN vec sub(vec a, vec b) { return _mm256_sub_ps(a, b); }
  static SLUICE_BODY_FN vec mul(vec a, vec b) { return _mm256_mul_ps(a, b); }
  static SLUICE_BODY_FN vec fma(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }
  static SLUICE_BODY_FN vec min(vec a, vec b) { return _mm256_min_ps(a, b); }  // of equals, b
  static SLUICE_BODY_FN vec max(vec a, vec b) { return _mm256_max_ps(a, b); }
  static SLUICE_BODY_FN vec clamp(vec v, float limit) {  // NaN becomes -limit
    return _mm256_min_ps(_mm256_max_ps(v, set(-limit)), set(limit));
  }
  static SLUICE_BODY_FN vec from_ints(ints v) { return _mm256_cvtepi32_ps(v); }
  static SLUICE_BODY_FN ints round(vec v) {  // to nearest even, |v| <= 2^22
    return _mm256_cvtps_epi32(_mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }

  static SLUICE_BODY_FN ints set(std::int32_t x) { return _mm256_set1_epi32(x); }
  static SLUICE_BODY_FN ints bits(vec v) { return _mm256_castps_si256(v); }
  static SLUICE_BODY_FN vec as_float(ints v) { return _mm256_castsi256_ps(v); }
  static SLUICE_BODY_FN ints add(ints a, ints b) { return _mm256_add_epi32(a, b); }
  static SLUICE_BODY_FN ints sub(ints a, ints b) { return _mm256_sub_epi32(a, b); }
  static SLUICE_BODY_FN ints bit_and(ints a, ints b) { return _mm256_and_si256(a, b); }
  static SLUICE_BODY_FN ints bit_or(ints a, ints b) { return _mm256_or_si256(a, b); }
  template <int N>
  static SLUICE_BODY_FN ints shl(ints v) {
    return _mm256_slli_epi32(v, N);
  }
  template <int N>
  static SLUICE_BODY_FN ints shr(ints v) {
    return _mm256_srli_epi32(v, N);
  }
  static SLUICE_BODY_FN mask none() { return _mm256_setzero_si256(); }
  static SLUICE_BODY_FN mask greater(ints a, ints b) { return _mm256_cmpgt_epi32(a, b); }
  static SLUICE_BODY_FN mask either(mask a, mask b) { return _mm256_or_si256(a, b); }
  static SLUICE_BODY_FN ints select(mask m, ints yes, ints no) { return _mm256_blendv_epi8(no, yes, m); }
  static SLUICE_BODY_FN bool any(mask m) { return _mm256_movemask_epi8(m) != 0; }
};

struct shorts {
  static constexpr int width = 16;
  using vec = __m256i;

  template <class T>
  struct part {
    alignas(32) T a[width];
    SLUICE_BODY_FN part(const T* p, int m) : a{} { std::memcpy(a, p, part_bytes<T>(m, width)); }
    SLUICE_BODY_FN part() {}
    SLUICE_BODY_FN void put(T* p, int m) const { std::memcpy(p, a, part_bytes<T>(m, width)); }
  };

  static SLUICE_BODY_FN vec load(const std::int16_t* p, int m = width) {
    return m == width ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))
                      : _mm256_loadu_si256(reinterpret_cast<const __m256i*>(part<std::int16_t>(p, m).a));
  }
  static SLUICE_BODY_FN void store(std::int16_t* p, vec v, int m = width) {
    if (m == width) return _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v);
    part<std::int16_t> t;
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(t.a), v);
    t.put(p, m);
  }
  static SLUICE_BODY_FN void store(std::int8_t* p, vec v, int m = width) {
    const __m128i b = _mm256_castsi256_si128(_mm256_permute4x64_epi64(_mm256_packs_epi16(v, v), 0x08));
    if (m == width) return _mm_storeu_si128(reinterpret_cast<__m128i*>(p), b);
    part<std::int8_t> t;
    _mm_storeu_si128(reinterpret_cast<__m128i*>(t.a), b);
    t.put(p, m);
  }
  // v = 3 c + r with r in {-1, 0, 1}
  static SLUICE_BODY_FN void split3(vec v, vec& c, vec& r) {
    const vec q = _mm256_sub_epi16(_mm256_mulhi_epi16(v, _mm256_set1_epi16(21846)), _mm256_srai_epi16(v, 15));
    const vec d = _mm256_sub_epi16(v, _mm256_add_epi16(q, _mm256_add_epi16(q, q)));
    const vec up = _mm256_sub_epi16(q, _mm256_cmpgt_epi16(d, _mm256_set1_epi16(1)));
    c = _mm256_add_epi16(up, _mm256_cmpgt_epi16(_mm256_set1_epi16(-1), d));
    r = _mm256_sub_epi16(v, _mm256_add_epi16(c, _mm256_add_epi16(c, c)));
  }
  static SLUICE_BODY_FN bool any_outside(vec v, vec limit) {
    return _mm256_movemask_epi8(_mm256_or_si256(
               _mm256_cmpgt_epi16(v, limit), _mm256_cmpgt_epi16(_mm256_sub_epi16(_mm256_setzero_si256(), limit), v))) !=
           0;
  }
};

#elif SLUICE_TARGET_NEON

// Two registers side by side: what loads and narrows eight elements at once, and half the steps of a row.
struct floats {
  static constexpr int width = 8;
  struct vec {
    float32x4_t a, b;
  };
  struct ints {
    int32x4_t a, b;
  };
  using mask = ints;

  // A part is copied through the stack: it occurs at the end of a row only.
  template <class T>
  struct part {
    alignas(32) T a[width];
    SLUICE_BODY_FN part(const void* p, int m) : a{} { std::memcpy(a, p, part_bytes<T>(m, width)); }
    SLUICE_BODY_FN part() {}
    SLUICE_BODY_FN void put(void* p, int m) const { std::memcpy(p, a, part_bytes<T>(m, width)); }
  };

  static SLUICE_BODY_FN vec whole(const float* p) { return {vld1q_f32(p), vld1q_f32(p + 4)}; }
  static SLUICE_BODY_FN vec load(const float* p, int m = width) {
    return m == width ? whole(p) : whole(part<float>(p, m).a);
  }
  static SLUICE_BODY_FN void store(float* p, vec v, int m = width) {
    if (m == width) return vst1q_f32(p, v.a), vst1q_f32(p + 4, v.b);
    part<float> t;
    vst1q_f32(t.a, v.a), vst1q_f32(t.a + 4, v.b);
    t.put(p, m);
  }
  // Elements of 16 and 8 bits lie at any address: memcpy, which is one instruction.
  static SLUICE_BODY_FN uint16x8_t load_8x16(const void* p, int m) {
    uint16x8_t v;
    if (m != width) return vld1q_u16(part<std::uint16_t>(p, m).a);
    std::memcpy(&v, p, sizeof v);
    return v;
  }
  static SLUICE_BODY_FN void store_8x16(void* p, uint16x8_t v, int m) {
    if (m == width) return static_cast<void>(std::memcpy(p, &v, sizeof v));
    part<std::uint16_t> t;
    vst1q_u16(t.a, v);
    t.put(p, m);
  }
  static SLUICE_BODY_FN vec widened(uint16x8_t h) {
    const float16x8_t v = vreinterpretq_f16_u16(h);
    return {vcvt_f32_f16(vget_low_f16(v)), vcvt_high_f32_f16(v)};
  }
  static SLUICE_BODY_FN vec load_f16(const void* p, int m = width) { return widened(load_8x16(p, m)); }
  static SLUICE_BODY_FN void store_f16(void* p, vec v, int m = width) {
    store_8x16(p, vreinterpretq_u16_f16(vcvt_high_f16_f32(vcvt_f16_f32(v.a), v.b)), m);
  }
  static SLUICE_BODY_FN ints load_u8(const void* p, int m = width) {
    uint8x8_t b;
    if (m == width)
      std::memcpy(&b, p, sizeof b);
    else
      b = vld1_u8(part<std::uint8_t>(p, m).a);
    return from_u16(vmovl_u8(b));
  }
  static SLUICE_BODY_FN ints load_u16(const void* p, int m = width) { return from_u16(load_8x16(p, m)); }
  static SLUICE_BODY_FN ints load_i16(const void* p, int m = width) {
    const int16x8_t v = vreinterpretq_s16_u16(load_8x16(p, m));
    return {vmovl_s16(vget_low_s16(v)), vmovl_high_s16(v)};
  }
  static SLUICE_BODY_FN ints from_u16(uint16x8_t v) {
    return {vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(v))), vreinterpretq_s32_u32(vmovl_high_u16(v))};
  }
  static SLUICE_BODY_FN uint16x8_t low_halves(ints v) {
    return vuzp1q_u16(vreinterpretq_u16_s32(v.a), vreinterpretq_u16_s32(v.b));
  }
  static SLUICE_BODY_FN vec from_f16(ints h) { return widened(low_halves(h)); }
  static SLUICE_BODY_FN void store_u16(void* p, ints v, int m = width) { store_8x16(p, low_halves(v), m); }
  static SLUICE_BODY_FN void store_u8(void* p, ints v, int m = width) {
    const uint8x8_t b = vmovn_u16(low_halves(v));
    if (m == width) return static_cast<void>(std::memcpy(p, &b, sizeof b));
    part<std::uint8_t> t;
    vst1_u8(t.a, b);
    t.put(p, m);
  }
  static SLUICE_BODY_FN void load_pairs(const float* p, vec& even, vec& odd, int m = width) {
    const vec a = load(p, m >= width / 2 ? width : 2 * m);
    const vec b = load(p + width, m >= width / 2 ? 2 * m - width : 0);
    even = {vuzp1q_f32(a.a, a.b), vuzp1q_f32(b.a, b.b)};
    odd = {vuzp2q_f32(a.a, a.b), vuzp2q_f32(b.a, b.b)};
  }
  static SLUICE_BODY_FN void store_pairs(float* p, vec even, vec odd, int m = width) {
    const vec lo{vzip1q_f32(even.a, odd.a), vzip2q_f32(even.a, odd.a)};
    const vec hi{vzip1q_f32(even.b, odd.b), vzip2q_f32(even.b, odd.b)};
    store(p, lo, m >= width / 2 ? width : 2 * m);
    store(p + width, hi, m >= width / 2 ? 2 * m - width : 0);
  }

  static SLUICE_BODY_FN vec set(float x) {
    const float32x4_t v = vdupq_n_f32(x);
    return {v, v};
  }
  static SLUICE_BODY_FN vec add(vec a, vec b) { return {vaddq_f32(a.a, b.a), vaddq_f32(a.b, b.b)}; }
  static SLUICE_BODY_FN vec sub(vec a, vec b) { return {vsubq_f32(a.a, b.a), vsubq_f32(a.b, b.b)}; }
  static SLUICE_BODY_FN vec mul(vec a, vec b) { return {vmulq_f32(a.a, b.a), vmulq_f32(a.b, b.b)}; }
  static SLUICE_BODY_FN vec fma(vec a, vec b, vec c) { return {vfmaq_f32(c.a, a.a, b.a), vfmaq_f32(c.b, a.b, b.b)}; }
  // Not the processor's own, which propagate NaN and know the sign of zero.
  static SLUICE_BODY_FN vec min(vec a, vec b) {  // of equals, b
    return {vbslq_f32(vcltq_f32(a.a, b.a), a.a, b.a), vbslq_f32(vcltq_f32(a.b, b.b), a.b, b.b)};
  }
  static SLUICE_BODY_FN vec max(vec a, vec b) {
    return {vbslq_f32(vcgtq_f32(a.a, b.a), a.a, b.a), vbslq_f32(vcgtq_f32(a.b, b.b), a.b, b.b)};
  }
  static SLUICE_BODY_FN vec clamp(vec v, float limit) {  // NaN becomes -limit
    const vec least = max(v, set(-limit)), most = set(limit);
    return {vminq_f32(least.a, most.a), vminq_f32(least.b, most.b)};
  }
  static SLUICE_BODY_FN vec from_ints(ints v) { return {vcvtq_f32_s32(v.a), vcvtq_f32_s32(v.b)}; }
  static SLUICE_BODY_FN ints round(vec v) { return {vcvtnq_s32_f32(v.a), vcvtnq_s32_f32(v.b)}; }  // to nearest even

  static SLUICE_BODY_FN ints set(std::int32_t x) {
    const int32x4_t v = vdupq_n_s32(x);
    return {v, v};
  }
  static SLUICE_BODY_FN ints bits(vec v) { return {vreinterpretq_s32_f32(v.a), vreinterpretq_s32_f32(v.b)}; }
  static SLUICE_BODY_FN vec as_float(ints v) { return {vreinterpretq_f32_s32(v.a), vreinterpretq_f32_s32(v.b)}; }
  static SLUICE_BODY_FN ints add(ints a, ints b) { return {vaddq_s32(a.a, b.a), vaddq_s32(a.b, b.b)}; }
  static SLUICE_BODY_FN ints sub(ints a, ints b) { return {vsubq_s32(a.a, b.a), vsubq_s32(a.b, b.b)}; }
  static SLUICE_BODY_FN ints bit_and(ints a, ints b) { return {vandq_s32(a.a, b.a), vandq_s32(a.b, b.b)}; }
  static SLUICE_BODY_FN ints bit_or(ints a, ints b) { return {vorrq_s32(a.a, b.a), vorrq_s32(a.b, b.b)}; }
  template <int N>
  static SLUICE_BODY_FN ints shl(ints v) {
    return {vshlq_n_s32(v.a, N), vshlq_n_s32(v.b, N)};
  }
  template <int N>
  static SLUICE_BODY_FN ints shr(ints v) {
    return {shr4<N>(v.a), shr4<N>(v.b)};
  }
  template <int N>
  static SLUICE_BODY_FN int32x4_t shr4(int32x4_t v) {
    return vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_s32(v), N));
  }
  static SLUICE_BODY_FN mask none() { return set(0); }
  static SLUICE_BODY_FN mask greater(ints a, ints b) {
    return {vreinterpretq_s32_u32(vcgtq_s32(a.a, b.a)), vreinterpretq_s32_u32(vcgtq_s32(a.b, b.b))};
  }
  static SLUICE_BODY_FN mask either(mask a, mask b) { return bit_or(a, b); }
  static SLUICE_BODY_FN ints select(mask m, ints yes, ints no) {
    return {vbslq_s32(vreinterpretq_u32_s32(m.a), yes.a, no.a), vbslq_s32(vreinterpretq_u32_s32(m.b), yes.b, no.b)};
  }
  static SLUICE_BODY_FN bool any(mask m) { return vmaxvq_u32(vreinterpretq_u32_s32(vorrq_s32(m.a, m.b))) != 0; }
};

struct shorts {
  static constexpr int width = 16;
  struct vec {
    int16x8_t a, b;
  };

  template <class T>
  struct part {
    alignas(32) T a[width];
    SLUICE_BODY_FN part(const T* p, int m) : a{} { std::memcpy(a, p, part_bytes<T>(m, width)); }
    SLUICE_BODY_FN part() {}
    SLUICE_BODY_FN void put(T* p, int m) const { std::memcpy(p, a, part_bytes<T>(m, width)); }
  };

  static SLUICE_BODY_FN vec whole(const std::int16_t* p) { return {vld1q_s16(p), vld1q_s16(p + 8)}; }
  static SLUICE_BODY_FN vec load(const std::int16_t* p, int m = width) {
    return m == width ? whole(p) : whole(part<std::int16_t>(p, m).a);
  }
  static SLUICE_BODY_FN void store(std::int16_t* p, vec v, int m = width) {
    if (m == width) return vst1q_s16(p, v.a), vst1q_s16(p + 8, v.b);
    part<std::int16_t> t;
    vst1q_s16(t.a, v.a), vst1q_s16(t.a + 8, v.b);
    t.put(p, m);
  }
  static SLUICE_BODY_FN void store(std::int8_t* p, vec v, int m = width) {
    const int8x16_t b = vuzp1q_s8(vreinterpretq_s8_s16(v.a), vreinterpretq_s8_s16(v.b));
    if (m == width) return vst1q_s8(p, b);
    part<std::int8_t> t;
    vst1q_s8(t.a, b);
    t.put(p, m);
  }
  // v = 3 c + r with r in {-1, 0, 1}
  static SLUICE_BODY_FN void split3(vec v, vec& c, vec& r) {
    const int16x8_t three = vdupq_n_s16(3);
    c = {third(v.a), third(v.b)};
    r = {vmlsq_s16(v.a, c.a, three), vmlsq_s16(v.b, c.b, three)};
  }
  // 21845 / 65536 is short of a third by 1/6 at most; a rounding offset just below a half keeps that on its side.
  static SLUICE_BODY_FN int16x8_t third(int16x8_t v) {
    const int16x8_t factor = vdupq_n_s16(21845);
    const int32x4_t offset = vdupq_n_s32(32767);
    return vaddhn_high_s32(vaddhn_s32(vmull_s16(vget_low_s16(v), vget_low_s16(factor)), offset),
                           vmull_high_s16(v, factor), offset);
  }
  static SLUICE_BODY_FN bool any_outside(vec v, vec limit) {
    const uint16x8_t a = vorrq_u16(vcgtq_s16(v.a, limit.a), vcltq_s16(v.a, vnegq_s16(limit.a)));
    const uint16x8_t b = vorrq_u16(vcgtq_s16(v.b, limit.b), vcltq_s16(v.b, vnegq_s16(limit.b)));
    return vmaxvq_u16(vorrq_u16(a, b)) != 0;
  }
};

#elif SLUICE_TARGET_PORTABLE

struct floats {
  static constexpr int width = 4;
  using vec = float __attribute__((vector_size(16)));
  using ints = std::int32_t __attribute__((vector_size(16)));
  using mask = ints;
  using words = std::uint32_t __attribute__((vector_size(16)));

  template <class T>
  static SLUICE_BODY_FN ints load_ints(const void* p, int m) {
    T t[width] = {};
    if (m == width)
      std::memcpy(t, p, sizeof t);
    else
      std::memcpy(t, p, part_bytes<T>(m, width));
    return ints{t[0], t[1], t[2], t[3]};
  }
  template <class T>
  static SLUICE_BODY_FN void store_ints(void* p, ints v, int m) {
    const T t[width] = {static_cast<T>(v[0]), static_cast<T>(v[1]), static_cast<T>(v[2]), static_cast<T>(v[3])};
    if (m == width)
      std::memcpy(p, t, sizeof t);
    else
      std::memcpy(p, t, part_bytes<T>(m, width));
  }

  static SLUICE_BODY_FN vec load(const float* p, int m = width) {
    vec v{};
    if (m == width)
      std::memcpy(&v, p, sizeof v);  // one instruction; a size that varies is a call
    else
      std::memcpy(&v, p, part_bytes<float>(m, width));
    return v;
  }
  static SLUICE_BODY_FN void store(float* p, vec v, int m = width) {
    if (m == width)
      std::memcpy(p, &v, sizeof v);
    else
      std::memcpy(p, &v, part_bytes<float>(m, width));
  }
  static SLUICE_BODY_FN ints load_u8(const void* p, int m = width) { return load_ints<std::uint8_t>(p, m); }
  static SLUICE_BODY_FN ints load_u16(const void* p, int m = width) { return load_ints<std::uint16_t>(p, m); }
  static SLUICE_BODY_FN ints load_i16(const void* p, int m = width) { return load_ints<std::int16_t>(p, m); }
  static SLUICE_BODY_FN void store_u8(void* p, ints v, int m = width) { store_ints<std::uint8_t>(p, v, m); }
  static SLUICE_BODY_FN void store_u16(void* p, ints v, int m = width) { store_ints<std::uint16_t>(p, v, m); }
  // Integer arithmetic throughout, so that a caller's flush-to-zero mode cannot lose f16 subnormals.
  static SLUICE_BODY_FN vec load_f16(const void* p, int m = width) { return from_f16(load_u16(p, m)); }
  static SLUICE_BODY_FN vec from_f16(ints h) {
    const ints magnitude = shl<13>(bit_and(h, set(0x7fff)));
    const ints sign = shl<16>(bit_and(h, set(0x8000)));
    const ints subnormal =
        bits(as_float(add(magnitude, set(0x38800000))) - set(6.103515625e-05f));  // 2^-14 + m 2^-24 - 2^-14
    const ints normal = add(magnitude, select(greater(magnitude, set(0x0f7fffff)), set(0x70000000), set(0x38000000)));
    return as_float(bit_or(sign, select(greater(set(0x00800000), magnitude), subnormal, normal)));
  }
  static SLUICE_BODY_FN void store_f16(void* p, vec v, int m = width) {
    const ints b = bits(v);
    const ints magnitude = bit_and(b, set(0x7fffffff));
    const ints sign = bit_and(shr<16>(b), set(0x8000));
    // 0.5 has an ulp of 2^-24, the f16 subnormal unit: the sum's low bits are the rounded result
    const ints subnormal = sub(bits(as_float(magnitude) + set(0.5f)), set(0x3f000000));
    const ints odd = bit_and(shr<13>(magnitude), set(1));
    const ints normal = shr<13>(add(add(magnitude, set(static_cast<std::int32_t>(0xc8000fff))), odd));
    ints h = select(greater(set(0x38800000), magnitude), subnormal, normal);
    h = select(greater(magnitude, set(0x477fefff)), set(0x7c00), h);
    const ints nan = bit_or(set(0x7e00), bit_and(shr<13>(magnitude), set(0x3ff)));
    store_u16(p, bit_or(sign, select(greater(magnitude, set(0x7f800000)), nan, h)), m);
  }
  static SLUICE_BODY_FN void load_pairs(const float* p, vec& even, vec& odd, int m = width) {
    const vec a = load(p, m >= width / 2 ? width : 2 * m);
    const vec b = load(p + width, m >= width / 2 ? 2 * m - width : 0);
    even = __builtin_shufflevector(a, b, 0, 2, 4, 6);
    odd = __builtin_shufflevector(a, b, 1, 3, 5, 7);
  }
  static SLUICE_BODY_FN void store_pairs(float* p, vec even, vec odd, int m = width) {
    store(p, __builtin_shufflevector(even, odd, 0, 4, 1, 5), m >= width / 2 ? width : 2 * m);
    store(p + width, __builtin_shufflevector(even, odd, 2, 6, 3, 7), m >= width / 2 ? 2 * m - width : 0);
  }

  static SLUICE_BODY_FN vec set(float x) { return vec{x, x, x, x}; }
  static SLUICE_BODY_FN vec add(vec a, vec b) { return a + b; }
  static SLUICE_BODY_FN vec sub(vec a, vec b) { return a - b; }
  static SLUICE_BODY_FN vec mul(vec a, vec b) { return a * b; }
  static SLUICE_BODY_FN vec fma(vec a, vec b, vec c) { return a * b + c; }  // fused where the compiler's target can
  static SLUICE_BODY_FN vec min(vec a, vec b) { return as_float(select(a < b, bits(a), bits(b))); }  // of equals, b
  static SLUICE_BODY_FN vec max(vec a, vec b) { return as_float(select(a > b, bits(a), bits(b))); }
  static SLUICE_BODY_FN vec clamp(vec v, float limit) { return min(max(v, set(-limit)), set(limit)); }  // NaN: -limit
  static SLUICE_BODY_FN vec from_ints(ints v) { return __builtin_convertvector(v, vec); }
  static SLUICE_BODY_FN ints round(vec v) {  // to nearest even, |v| <= 2^22: 1.5 * 2^23 has an ulp of 1
    return bits(v + set(12582912.0f)) - set(0x4b400000);
  }

  static SLUICE_BODY_FN ints set(std::int32_t x) { return ints{x, x, x, x}; }
  static SLUICE_BODY_FN ints bits(vec v) { return reinterpret_cast<ints>(v); }
  static SLUICE_BODY_FN vec as_float(ints v) { return reinterpret_cast<vec>(v); }
  static SLUICE_BODY_FN ints add(ints a, ints b) { return from_words(as_words(a) + as_words(b)); }
  static SLUICE_BODY_FN ints sub(ints a, ints b) { return from_words(as_words(a) - as_words(b)); }
  static SLUICE_BODY_FN ints bit_and(ints a, ints b) { return a & b; }
  static SLUICE_BODY_FN ints bit_or(ints a, ints b) { return a | b; }
  template <int N>
  static SLUICE_BODY_FN ints shl(ints v) {
    return from_words(as_words(v) << N);
  }
  template <int N>
  static SLUICE_BODY_FN ints shr(ints v) {
    return from_words(as_words(v) >> N);
  }
  static SLUICE_BODY_FN mask none() { return mask{}; }
  static SLUICE_BODY_FN mask greater(ints a, ints b) { return a > b; }
  static SLUICE_BODY_FN mask either(mask a, mask b) { return a | b; }
  static SLUICE_BODY_FN ints select(mask m, ints yes, ints no) { return (yes & m) | (no & ~m); }
  static SLUICE_BODY_FN bool any(mask m) { return (m[0] | m[1] | m[2] | m[3]) != 0; }

  static SLUICE_BODY_FN words as_words(ints v) { return reinterpret_cast<words>(v); }
  static SLUICE_BODY_FN ints from_words(words v) { return reinterpret_cast<ints>(v); }
};

struct shorts {
  static constexpr int width = 8;
  struct vec {
    std::int16_t a[width];
  };

  static SLUICE_BODY_FN vec load(const std::int16_t* p, int m = width) {
    vec v{};
    if (m == width)
      std::memcpy(v.a, p, sizeof v.a);
    else
      std::memcpy(v.a, p, part_bytes<std::int16_t>(m, width));
    return v;
  }
  static SLUICE_BODY_FN void store(std::int16_t* p, vec v, int m = width) {
    if (m == width)
      std::memcpy(p, v.a, sizeof v.a);
    else
      std::memcpy(p, v.a, part_bytes<std::int16_t>(m, width));
  }
  static SLUICE_BODY_FN void store(std::int8_t* p, vec v, int m = width) {
    for (int i = 0; i < m; ++i) p[i] = static_cast<std::int8_t>(v.a[i]);
  }
  // v = 3 c + r with r in {-1, 0, 1}
  static SLUICE_BODY_FN void split3(vec v, vec& c, vec& r) {
    vec q, d;  // locals, which cannot alias: then the loop is vectorised
    for (int i = 0; i < width; ++i) {
      q.a[i] = static_cast<std::int16_t>((static_cast<std::uint32_t>(v.a[i] + 32770) * 43691u >> 17) - 10923u);
      d.a[i] = static_cast<std::int16_t>(v.a[i] - 3 * q.a[i]);
    }
    c = q;
    r = d;
  }
  static SLUICE_BODY_FN bool any_outside(vec v, vec limit) {
    int outside = 0;
    for (int i = 0; i < width; ++i) outside |= (v.a[i] > limit.a[i]) | (v.a[i] < -limit.a[i]);
    return outside != 0;
  }
};

#elif SLUICE_TARGET_CUDA

struct floats {
  static constexpr int width = 32;
  using vec = float;
  using ints = std::int32_t;
  using mask = bool;

  static SLUICE_BODY_FN int lane() { return static_cast<int>(threadIdx.x & 31u); }
  template <class T>
  static SLUICE_BODY_FN T get(const void* p, int m) {
    return lane() < m ? static_cast<const T*>(p)[lane()] : T{};
  }
  template <class T>
  static SLUICE_BODY_FN void put(void* p, T v, int m) {
    if (lane() < m) static_cast<T*>(p)[lane()] = v;
  }

  static SLUICE_BODY_FN vec load(const float* p, int m = width) { return get<float>(p, m); }
  static SLUICE_BODY_FN void store(float* p, vec v, int m = width) { put(p, v, m); }
  static SLUICE_BODY_FN ints load_u8(const void* p, int m = width) { return get<std::uint8_t>(p, m); }
  static SLUICE_BODY_FN ints load_u16(const void* p, int m = width) { return get<std::uint16_t>(p, m); }
  static SLUICE_BODY_FN ints load_i16(const void* p, int m = width) { return get<std::int16_t>(p, m); }
  static SLUICE_BODY_FN void store_u8(void* p, ints v, int m = width) { put(p, static_cast<std::uint8_t>(v), m); }
  static SLUICE_BODY_FN void store_u16(void* p, ints v, int m = width) { put(p, static_cast<std::uint16_t>(v), m); }
  static SLUICE_BODY_FN vec from_f16(ints h) { return __half2float(__ushort_as_half(static_cast<std::uint16_t>(h))); }
  static SLUICE_BODY_FN vec load_f16(const void* p, int m = width) { return from_f16(load_u16(p, m)); }
  static SLUICE_BODY_FN void store_f16(void* p, vec v, int m = width) {
    store_u16(p, __half_as_ushort(__float2half_rn(v)), m);
  }
  static SLUICE_BODY_FN void load_pairs(const float* p, vec& even, vec& odd, int m = width) {
    even = lane() < m ? p[2 * lane()] : 0.0f;
    odd = lane() < m ? p[2 * lane() + 1] : 0.0f;
  }
  static SLUICE_BODY_FN void store_pairs(float* p, vec even, vec odd, int m = width) {
    if (lane() >= m) return;
    p[2 * lane()] = even;
    p[2 * lane() + 1] = odd;
  }

  static SLUICE_BODY_FN vec set(float x) { return x; }
  static SLUICE_BODY_FN vec add(vec a, vec b) { return __fadd_rn(a, b); }
  static SLUICE_BODY_FN vec sub(vec a, vec b) { return __fsub_rn(a, b); }
  static SLUICE_BODY_FN vec mul(vec a, vec b) { return __fmul_rn(a, b); }
  static SLUICE_BODY_FN vec fma(vec a, vec b, vec c) { return __fmaf_rn(a, b, c); }
  static SLUICE_BODY_FN vec min(vec a, vec b) { return a < b ? a : b; }  // of equals, b
  static SLUICE_BODY_FN vec max(vec a, vec b) { return a > b ? a : b; }
  static SLUICE_BODY_FN vec clamp(vec v, float limit) { return fminf(fmaxf(v, -limit), limit); }  // NaN: -limit
  static SLUICE_BODY_FN vec from_ints(ints v) { return static_cast<float>(v); }
  static SLUICE_BODY_FN ints round(vec v) { return __float2int_rn(v); }

  static SLUICE_BODY_FN ints set(std::int32_t x) { return x; }
  static SLUICE_BODY_FN ints bits(vec v) { return __float_as_int(v); }
  static SLUICE_BODY_FN vec as_float(ints v) { return __int_as_float(v); }
  static SLUICE_BODY_FN ints add(ints a, ints b) { return words(words(a) + words(b)); }
  static SLUICE_BODY_FN ints sub(ints a, ints b) { return words(words(a) - words(b)); }
  static SLUICE_BODY_FN ints bit_and(ints a, ints b) { return a & b; }
  static SLUICE_BODY_FN ints bit_or(ints a, ints b) { return a | b; }
  template <int N>
  static SLUICE_BODY_FN ints shl(ints v) {
    return words(words(v) << N);
  }
  template <int N>
  static SLUICE_BODY_FN ints shr(ints v) {
    return words(words(v) >> N);
  }
  static SLUICE_BODY_FN mask none() { return false; }
  static SLUICE_BODY_FN mask greater(ints a, ints b) { return a > b; }
  static SLUICE_BODY_FN mask either(mask a, mask b) { return a || b; }
  static SLUICE_BODY_FN ints select(mask m, ints yes, ints no) { return m ? yes : no; }
  static SLUICE_BODY_FN bool any(mask m) { return __any_sync(0xffffffffu, m) != 0; }

  static SLUICE_BODY_FN std::uint32_t words(ints v) { return static_cast<std::uint32_t>(v); }
  static SLUICE_BODY_FN ints words(std::uint32_t v) { return static_cast<ints>(v); }
};

struct shorts {
  static constexpr int width = 32;
  using vec = int;

  static SLUICE_BODY_FN vec load(const std::int16_t* p, int m = width) { return floats::load_i16(p, m); }
  static SLUICE_BODY_FN void store(std::int16_t* p, vec v, int m = width) { floats::store_u16(p, v, m); }
  static SLUICE_BODY_FN void store(std::int8_t* p, vec v, int m = width) { floats::store_u8(p, v, m); }
  static SLUICE_BODY_FN void split3(vec v, vec& c, vec& r) {
    c = (v + 32770) / 3 - 10923;
    r = v - 3 * c;
  }
  static SLUICE_BODY_FN bool any_outside(vec v, vec limit) {
    return __any_sync(0xffffffffu, v > limit || v < -limit) != 0;
  }
};

#endif
