// SPDX-License-Identifier: Apache-2.0
// Fixed-width codes of 32 lanes, eight rows at a time. A width is a sum of parts of 8, 4, 2 and 1 bits; a part of P bits
// of eight rows is P planes of 32 bytes, byte i for lane i, so that packing is shifts and masks of whole planes and a
// warp's loads are contiguous. An item is one such group of one block: the unit of a warp's work.

namespace packing {

#if SLUICE_TARGET_CUDA

struct lane_bytes {
  using vec = std::uint32_t;
  template <class T>
  static SLUICE_BODY_FN vec load(const T* p) {
    return static_cast<std::uint8_t>(p[threadIdx.x & 31]);
  }
  template <class T>
  static SLUICE_BODY_FN void store(T* p, vec v) {
    p[threadIdx.x & 31] = static_cast<std::uint8_t>(v);
  }
  static SLUICE_BODY_FN vec zero() { return 0; }
  static SLUICE_BODY_FN vec field(vec v, int shift, unsigned mask) { return v >> shift & mask; }
  static SLUICE_BODY_FN vec join(vec v, vec more, int shift) { return v | more << shift; }
  static SLUICE_BODY_FN floats::ints widen(vec v, int) { return static_cast<int>(v); }
  static SLUICE_BODY_FN vec narrow(const floats::ints (&codes)[1]) { return static_cast<vec>(codes[0]); }
};

/// A float of every lane, as vectors of the float machine and one by one.
struct lane_floats {
  float value;
  SLUICE_BODY_FN void put(int, float v) { value = v; }
  SLUICE_BODY_FN float get(int) const { return value; }
  SLUICE_BODY_FN float& of(int) { return value; }
  template <class F>
  static SLUICE_BODY_FN void each(F f) {
    f(static_cast<int>(threadIdx.x & 31));
  }
  static SLUICE_BODY_FN float reciprocal(float x) { return __frcp_rn(x); }
};

#else

struct lane_bytes {
#if SLUICE_TARGET_PORTABLE || SLUICE_TARGET_NEON
  using words = std::uint64_t __attribute__((vector_size(16)));
  static constexpr int parts = 2;
  struct vec {
    words w[parts];
  };

  static SLUICE_BODY_FN vec load(const std::uint8_t* p) {
    vec v;
    std::memcpy(&v, p, 32);
    return v;
  }
  static SLUICE_BODY_FN void store(std::uint8_t* p, const vec& v) { std::memcpy(p, &v, 32); }
#if SLUICE_TARGET_NEON
  static SLUICE_BODY_FN vec load(const std::int16_t* p) {
    return {{reinterpret_cast<words>(low_bytes(p)), reinterpret_cast<words>(low_bytes(p + 16))}};
  }
  static SLUICE_BODY_FN uint8x16_t low_bytes(const std::int16_t* p) {
    return vuzp1q_u8(vreinterpretq_u8_s16(vld1q_s16(p)), vreinterpretq_u8_s16(vld1q_s16(p + 8)));
  }
  static SLUICE_BODY_FN void store(std::int16_t* p, const vec& v) {
    SLUICE_UNROLL
    for (int i = 0; i < parts; ++i) {
      const auto b = reinterpret_cast<uint8x16_t>(v.w[i]);
      vst1q_s16(p + 16 * i, vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(b))));
      vst1q_s16(p + 16 * i + 8, vreinterpretq_s16_u16(vmovl_high_u8(b)));
    }
  }
#else
  static SLUICE_BODY_FN vec load(const std::int16_t* p) {
    std::uint8_t b[32];
    for (int i = 0; i < 32; ++i) b[i] = static_cast<std::uint8_t>(p[i]);
    return load(b);
  }
  static SLUICE_BODY_FN void store(std::int16_t* p, const vec& v) {
    std::uint8_t b[32];
    store(b, v);
    for (int i = 0; i < 32; ++i) p[i] = b[i];
  }
#endif
#else
  using words = std::uint64_t __attribute__((vector_size(32)));
  static constexpr int parts = 1;
  struct vec {
    words w[parts];
  };

  static SLUICE_BODY_FN vec load(const std::uint8_t* p) {
    return {{reinterpret_cast<words>(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))}};
  }
  static SLUICE_BODY_FN void store(std::uint8_t* p, const vec& v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), reinterpret_cast<__m256i>(v.w[0]));
  }
  static SLUICE_BODY_FN vec load(const std::int16_t* p) {
    const __m256i low = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    const __m256i high = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 16));
    const __m256i byte = _mm256_set1_epi16(0xff);
    const __m256i b = _mm256_packus_epi16(_mm256_and_si256(low, byte), _mm256_and_si256(high, byte));
    return {{reinterpret_cast<words>(_mm256_permute4x64_epi64(b, 0xd8))}};
  }
  static SLUICE_BODY_FN void store(std::int16_t* p, const vec& v) {
    const auto b = reinterpret_cast<__m256i>(v.w[0]);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_cvtepu8_epi16(_mm256_castsi256_si128(b)));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 16), _mm256_cvtepu8_epi16(_mm256_extracti128_si256(b, 1)));
  }
#endif
  static SLUICE_BODY_FN vec zero() { return {}; }
  /// (v >> shift) & mask in every byte; what the wider shift carries over from a neighbour, the mask must clear.
  static SLUICE_BODY_FN vec field(vec v, int shift, unsigned mask) {
    for (int i = 0; i < parts; ++i) v.w[i] = v.w[i] >> shift & (mask * 0x0101010101010101u);
    return v;
  }
  /// v | more << shift in every byte; no bit of `more` may leave its byte.
  static SLUICE_BODY_FN vec join(vec v, const vec& more, int shift) {
    for (int i = 0; i < parts; ++i) v.w[i] |= more.w[i] << shift;
    return v;
  }
  /// The integers of the float machine: its `part`-th vector of the 32, and back.
  static SLUICE_BODY_FN floats::ints widen(const vec& v, int part) {
    alignas(32) std::uint8_t b[32];
    store(b, v);
    return floats::load_u8(b + floats::width * part);
  }
  template <int Parts>
  static SLUICE_BODY_FN vec narrow(const floats::ints (&codes)[Parts]) {
    alignas(32) std::uint8_t b[32];
    for (int i = 0; i < Parts; ++i) floats::store_u8(b + floats::width * i, codes[i]);
    return load(b);
  }
};

/// A float of every lane, as vectors of the float machine and one by one.
struct lane_floats {
  alignas(64) float value[32];
  SLUICE_BODY_FN void put(int part, floats::vec v) { floats::store(value + floats::width * part, v); }
  SLUICE_BODY_FN floats::vec get(int part) const { return floats::load(value + floats::width * part); }
  SLUICE_BODY_FN float& of(int lane) { return value[lane]; }
  template <class F>
  static SLUICE_BODY_FN void each(F f) {
    for (int lane = 0; lane < 32; ++lane) f(lane);
  }
  static SLUICE_BODY_FN float reciprocal(float x) { return 1 / x; }
};

#endif

constexpr int vectors = 32 / floats::width;

// Parts of a width from `Part` down, of `count` rows; rows beyond are zero.
template <int Width, int Part = 8, int Above = 0>
SLUICE_BODY_FN void pack_parts(const lane_bytes::vec (&rows)[8], int count, std::uint8_t* out) {
  if constexpr (Part == 0) {
    return;
  } else if constexpr ((Width & Part) == 0) {
    pack_parts<Width, Part / 2, Above>(rows, count, out);
  } else {
    constexpr int per_plane = 8 / Part;
    SLUICE_UNROLL
    for (int first = 0; first < 8; first += per_plane) {
      if (first >= count) break;
      auto plane = lane_bytes::zero();
      SLUICE_UNROLL
      for (int i = 0; i < per_plane; ++i)
        plane = lane_bytes::join(plane, lane_bytes::field(rows[first + i], Above, (1u << Part) - 1), i * Part);
      lane_bytes::store(out, plane);
      out += 32;
    }
    pack_parts<Width, Part / 2, Above + Part>(rows, count, out);
  }
}

template <int Width, int Part = 8, int Above = 0>
SLUICE_BODY_FN void unpack_parts(const std::uint8_t* in, int count, lane_bytes::vec (&rows)[8]) {
  if constexpr (Part == 0) {
    return;
  } else if constexpr ((Width & Part) == 0) {
    unpack_parts<Width, Part / 2, Above>(in, count, rows);
  } else {
    constexpr int per_plane = 8 / Part;
    SLUICE_UNROLL
    for (int first = 0; first < 8; first += per_plane) {
      if (first >= count) break;
      const auto plane = lane_bytes::load(in);
      in += 32;
      SLUICE_UNROLL
      for (int i = 0; i < per_plane; ++i) {
        const auto bits = lane_bytes::field(plane, i * Part, (1u << Part) - 1);
        rows[first + i] = Above == 0 ? bits : lane_bytes::join(rows[first + i], bits, Above);
      }
    }
    unpack_parts<Width, Part / 2, Above + Part>(in, count, rows);
  }
}

// Rows of a group, and where its planes begin.
SLUICE_BODY_FN int rows_from(const bitpack_job& job, int row) { return job.rows - row < 8 ? job.rows - row : 8; }

template <int Width>
SLUICE_BODY_FN std::uint8_t* planes(const bitpack_job& job, int row, int block, int count) {
  int each = 0;
  SLUICE_UNROLL
  for (int part = 1; part <= 8; part *= 2)
    if (Width & part) each += (count * part + 7) / 8;
  return job.packed + 32 * (std::int64_t{row / 8} * Width * job.blocks + std::int64_t{block} * each);
}

SLUICE_BODY_FN std::uint8_t* scales(const bitpack_job& job, int row, int block) {
  return job.scales + 128 * (std::int64_t{row / job.group_rows} * job.blocks + block);
}

template <int Width>
SLUICE_BODY_FN void pack_item(const bitpack_job& job, const lane_bytes::vec (&rows)[8], int row, int block, int count) {
  std::uint8_t* out = planes<Width>(job, row, block, count);
  count == 8 ? pack_parts<Width>(rows, 8, out) : pack_parts<Width>(rows, count, out);
}

template <int Width>
SLUICE_BODY_FN void unpack_item(const bitpack_job& job, lane_bytes::vec (&rows)[8], int row, int block, int count) {
  const std::uint8_t* in = planes<Width>(job, row, block, count);
  if (count == 8) return unpack_parts<Width>(in, 8, rows);
  for (auto& r : rows) r = lane_bytes::zero();
  unpack_parts<Width>(in, count, rows);
}

template <int Width, class T>
SLUICE_BODY_FN void pack_codes(const bitpack_job& job, const T* values, int row, int block) {
  const int count = rows_from(job, row);
  values += row * job.stride + 32 * block;
  lane_bytes::vec rows[8];
  SLUICE_UNROLL
  for (int r = 0; r < 8; ++r) rows[r] = r < count ? lane_bytes::load(values + r * job.stride) : lane_bytes::zero();
  pack_item<Width>(job, rows, row, block, count);
}

template <int Width, class T>
SLUICE_BODY_FN void unpack_codes(const bitpack_job& job, T* values, int row, int block) {
  const int count = rows_from(job, row);
  values += row * job.stride + 32 * block;
  lane_bytes::vec rows[8];
  unpack_item<Width>(job, rows, row, block, count);
  SLUICE_UNROLL
  for (int r = 0; r < 8; ++r)
    if (r < count) lane_bytes::store(values + r * job.stride, rows[r]);
}

// code * step is exact in a float (8 and 11 bits), so that a fused addition rounds as a separate one does.
template <int Width>
SLUICE_BODY_FN void dequantize_codes(const bitpack_job& job, int row, int block) {
  const int count = rows_from(job, row);
  const std::uint8_t* scale = scales(job, row, block);
  float* out = job.floats + row * job.stride + 32 * block;
  lane_bytes::vec rows[8];
  unpack_item<Width>(job, rows, row, block, count);
  SLUICE_UNROLL
  for (int v = 0; v < vectors; ++v) {
    const auto step = floats::load_f16(scale + 2 * floats::width * v);
    const auto zero = floats::load_f16(scale + 64 + 2 * floats::width * v);
    SLUICE_UNROLL
    for (int r = 0; r < 8; ++r)
      if (r < count)
        floats::store(out + r * job.stride + floats::width * v,
                      floats::fma(floats::from_ints(lane_bytes::widen(rows[r], v)), step, zero));
  }
}

/// Steps and zeros of the group of `group_rows` rows that begins with `row`; false where a range does not fit f16.
SLUICE_BODY_FN bool measure_group(const bitpack_job& job, int levels, int row, int block) {
  const int count = job.rows - row < job.group_rows ? job.rows - row : job.group_rows;
  const auto none = floats::set(0);
  lane_floats low, high;
  SLUICE_UNROLL
  for (int v = 0; v < vectors; ++v) {
    const float* x = job.floats + row * job.stride + 32 * block + floats::width * v;
    auto lo = floats::bits(floats::load(x)), hi = lo;
    for (int r = 1; r < count; ++r) {
      const auto y = floats::load(x + r * job.stride);
      const auto below = floats::bits(floats::sub(floats::as_float(lo), y));
      const auto above = floats::bits(floats::sub(y, floats::as_float(hi)));
      lo = floats::select(floats::greater(below, none), floats::bits(y), lo);
      hi = floats::select(floats::greater(above, none), floats::bits(y), hi);
    }
    low.put(v, floats::as_float(lo));
    high.put(v, floats::as_float(hi));
  }
  std::uint8_t* scale = scales(job, row, block);
  bool fits = true;
  lane_floats::each([&](int lane) {
    f16 step{}, zero{};
    fits &= group_scale(low.of(lane), high.of(lane), levels, step, zero);
    std::memcpy(scale + 2 * lane, &step.bits, 2);
    std::memcpy(scale + 64 + 2 * lane, &zero.bits, 2);
  });
  return fits;
}

/// Codes of one item under the scales that stand there: clamp(round((x - zero) / step)).
template <int Width>
SLUICE_BODY_FN void quantize_codes(const bitpack_job& job, int row, int block) {
  constexpr auto most = static_cast<float>((1 << Width) - 1);
  const int count = rows_from(job, row);
  const std::uint8_t* scale = scales(job, row, block);
  const float* x = job.floats + row * job.stride + 32 * block;
  lane_floats inverse;
  SLUICE_UNROLL
  for (int v = 0; v < vectors; ++v) inverse.put(v, floats::load_f16(scale + 2 * floats::width * v));
  lane_floats::each([&](int lane) {
    float& step = inverse.of(lane);
    step = step > 0 ? lane_floats::reciprocal(step) : 0;
  });
  lane_bytes::vec rows[8];
  SLUICE_UNROLL
  for (int r = 0; r < 8; ++r) {
    floats::ints codes[vectors];
    SLUICE_UNROLL
    for (int v = 0; v < vectors; ++v) {
      const auto zero = floats::load_f16(scale + 64 + 2 * floats::width * v);
      const auto value = r < count ? floats::load(x + r * job.stride + floats::width * v) : zero;
      const auto code = floats::round(floats::clamp(floats::mul(floats::sub(value, zero), inverse.get(v)), most));
      codes[v] = floats::select(floats::greater(code, floats::set(0)), code, floats::set(0));
    }
    rows[r] = lane_bytes::narrow(codes);
  }
  pack_item<Width>(job, rows, row, block, count);
}

#if !SLUICE_TARGET_CUDA

// Calls f with a width that the compiler knows, then walks all items of the job.
template <int Width = 1, class F>
inline void with_width(int width, F f) {
  if constexpr (Width < 8)
    if (width != Width) return with_width<Width + 1>(width, f);
  f(std::integral_constant<int, Width>{});
}

template <class F>
inline void each_item(const bitpack_job& job, F item) {
  for (int row = 0; row < job.rows; row += 8)
    for (int block = 0; block < job.blocks; ++block) item(row, block);
}

template <class T>
inline void pack_all(int width, const bitpack_job& job, const T* values) {
  with_width(width,
             [&](auto w) { each_item(job, [&](int row, int block) { pack_codes<w>(job, values, row, block); }); });
}

template <class T>
inline void unpack_all(int width, const bitpack_job& job, T* values) {
  with_width(width,
             [&](auto w) { each_item(job, [&](int row, int block) { unpack_codes<w>(job, values, row, block); }); });
}

SLUICE_KERNEL void pack(int width, const bitpack_job& job) noexcept {
  job.wide ? pack_all(width, job, job.wide) : pack_all(width, job, job.values);
}

SLUICE_KERNEL void unpack(int width, const bitpack_job& job) noexcept {
  job.wide ? unpack_all(width, job, job.wide) : unpack_all(width, job, job.values);
}

SLUICE_KERNEL void dequantize(int width, const bitpack_job& job) noexcept {
  with_width(width, [&](auto w) { each_item(job, [&](int row, int block) { dequantize_codes<w>(job, row, block); }); });
}

SLUICE_KERNEL bool quantize(int width, const bitpack_job& job) noexcept {
  for (int row = 0; row < job.rows; row += job.group_rows)
    for (int block = 0; block < job.blocks; ++block)
      if (!measure_group(job, (1 << width) - 1, row, block)) return false;
  with_width(width, [&](auto w) { each_item(job, [&](int row, int block) { quantize_codes<w>(job, row, block); }); });
  return true;
}

#endif

}  // namespace packing
