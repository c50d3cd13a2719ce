// SPDX-License-Identifier: Apache-2.0
// One XXH32 round of the 32 lanes per 128 bytes. Latency of the multiplication bounds it, so lanes wait in registers;
// 512-bit vectors gain nothing, since products have half the ports there.

#if SLUICE_TARGET_AVX2 || SLUICE_TARGET_AVX512

SLUICE_KERNEL void checksum_stripes(const unsigned char* p, std::size_t stripes, std::uint32_t* lanes) noexcept {
  const __m256i prime1 = _mm256_set1_epi32(static_cast<int>(checksum_prime1));
  const __m256i prime2 = _mm256_set1_epi32(static_cast<int>(checksum_prime2));
  __m256i* const l = reinterpret_cast<__m256i*>(lanes);
  __m256i a = _mm256_loadu_si256(l), b = _mm256_loadu_si256(l + 1);
  __m256i c = _mm256_loadu_si256(l + 2), d = _mm256_loadu_si256(l + 3);
  const auto round = [&](__m256i lane, const unsigned char* word) {
    const __m256i w = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(word));
    const __m256i sum = _mm256_add_epi32(lane, _mm256_mullo_epi32(w, prime2));
    return _mm256_mullo_epi32(_mm256_or_si256(_mm256_slli_epi32(sum, 13), _mm256_srli_epi32(sum, 19)), prime1);
  };
  for (; stripes; --stripes, p += 128) {
    a = round(a, p);
    b = round(b, p + 32);
    c = round(c, p + 64);
    d = round(d, p + 96);
  }
  _mm256_storeu_si256(l, a);
  _mm256_storeu_si256(l + 1, b);
  _mm256_storeu_si256(l + 2, c);
  _mm256_storeu_si256(l + 3, d);
}

#elif SLUICE_TARGET_NEON

SLUICE_KERNEL void checksum_stripes(const unsigned char* p, std::size_t stripes, std::uint32_t* lanes) noexcept {
  const uint32x4_t prime1 = vdupq_n_u32(checksum_prime1), prime2 = vdupq_n_u32(checksum_prime2);
  uint32x4_t l[8];
  SLUICE_UNROLL
  for (int i = 0; i < 8; ++i) l[i] = vld1q_u32(lanes + 4 * i);
  for (; stripes; --stripes, p += 128) {
    SLUICE_UNROLL
    for (int i = 0; i < 8; ++i) {
      const uint32x4_t sum = vmlaq_u32(l[i], vreinterpretq_u32_u8(vld1q_u8(p + 16 * i)), prime2);
      l[i] = vmulq_u32(vsriq_n_u32(vshlq_n_u32(sum, 13), sum, 19), prime1);
    }
  }
  SLUICE_UNROLL
  for (int i = 0; i < 8; ++i) vst1q_u32(lanes + 4 * i, l[i]);
}

#elif SLUICE_TARGET_PORTABLE

SLUICE_KERNEL void checksum_stripes(const unsigned char* p, std::size_t stripes, std::uint32_t* lanes) noexcept {
  for (; stripes; --stripes, p += 128)
    for (int i = 0; i < 32; ++i) {
      std::uint32_t word;
      std::memcpy(&word, p + 4 * i, 4);
      lanes[i] = checksum_round(lanes[i], word);
    }
}

#endif
