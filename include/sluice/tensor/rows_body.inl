// SPDX-License-Identifier: Apache-2.0
// Elements of the engine's memory to floats and back, over the machine of warp/floats.inl.

// One element of the engine's memory as float, `m` of them from p.
template <dtype T>
SLUICE_BODY_FN floats::vec load_elements(const void* p, int m) {
  using f = floats;
  if constexpr (T == dtype::f32) {
    return f::load(static_cast<const float*>(p), m);
  } else if constexpr (T == dtype::f16) {
    return f::load_f16(p, m);
  } else if constexpr (T == dtype::bf16) {
    return f::as_float(f::template shl<16>(f::load_u16(p, m)));
  } else if constexpr (T == dtype::e5m2) {  // the upper byte of an f16
    return f::from_f16(f::template shl<8>(f::load_u8(p, m)));
  } else {  // e4m3: an f16 with the exponent off by 8, except that its only NaN is all ones
    const f::ints b = f::load_u8(p, m);
    const f::ints magnitude = f::bit_and(b, f::set(0x7f));
    const f::ints half = f::bit_or(f::template shl<8>(f::bit_and(b, f::set(0x80))), f::template shl<7>(magnitude));
    const f::vec value = f::mul(f::from_f16(half), f::set(256.0f));
    return f::as_float(f::select(f::greater(magnitude, f::set(0x7e)), f::set(0x7fc00000), f::bits(value)));
  }
}

// float to a format of 8 bits with `Mantissa` stored bits, exponent bias 7 (e4m3fn) or 15 (e5m2), to nearest even.
template <int Mantissa, int Bias>
SLUICE_BODY_FN floats::ints to_fp8(floats::vec v) {
  using f = floats;
  constexpr int shift = 23 - Mantissa;
  constexpr int rebias = (127 - Bias) << 23;
  const f::ints b = f::bits(v);
  const f::ints magnitude = f::bit_and(b, f::set(0x7fffffff));
  // adding a float whose ulp is the subnormal unit leaves the rounded subnormal in the low bits
  constexpr int magic = (127 + 1 - Bias - Mantissa + 23) << 23;
  const f::ints subnormal = f::sub(f::bits(f::add(f::as_float(magnitude), f::as_float(f::set(magic)))), f::set(magic));
  const f::ints odd = f::bit_and(f::template shr<shift>(magnitude), f::set(1));
  const f::ints rounded = f::add(f::add(f::sub(magnitude, f::set(rebias)), f::set((1 << (shift - 1)) - 1)), odd);
  const f::ints smallest_normal = f::set((128 - Bias) << 23);
  f::ints r = f::select(f::greater(smallest_normal, magnitude), subnormal, f::template shr<shift>(rounded));
  constexpr int top = Bias == 7 ? 0x7e : 0x7b;  // both saturate; only e5m2 has an infinity
  r = f::select(f::greater(r, f::set(top)), f::set(top), r);
  if constexpr (Bias == 15) r = f::select(f::greater(magnitude, f::set(0x7f7fffff)), f::set(0x7c), r);
  const f::ints nan = f::bit_or(f::set(Bias == 7 ? 0x7f : 0x7e), f::bit_and(f::template shr<21>(magnitude), f::set(3)));
  r = f::select(f::greater(magnitude, f::set(0x7f800000)), nan, r);
  return f::bit_or(r, f::bit_and(f::template shr<24>(b), f::set(0x80)));
}

template <dtype T>
SLUICE_BODY_FN void store_elements(void* p, floats::vec v, int m) {
  using f = floats;
  if constexpr (T == dtype::f32) {
    f::store(static_cast<float*>(p), v, m);
  } else if constexpr (T == dtype::f16) {
    f::store_f16(p, v, m);
  } else if constexpr (T == dtype::bf16) {
    const f::ints b = f::bits(v);
    const f::ints magnitude = f::bit_and(b, f::set(0x7fffffff));
    const f::ints odd = f::bit_and(f::template shr<16>(b), f::set(1));
    const f::ints rounded = f::template shr<16>(f::add(f::add(b, f::set(0x7fff)), odd));
    const f::ints nan = f::bit_or(f::template shr<16>(b), f::set(0x40));  // quiet, payload kept
    f::store_u16(p, f::select(f::greater(magnitude, f::set(0x7f800000)), nan, rounded), m);
  } else if constexpr (T == dtype::e4m3) {
    f::store_u8(p, to_fp8<3, 7>(v), m);
  } else {
    f::store_u8(p, to_fp8<2, 15>(v), m);
  }
}

SLUICE_BODY_FN floats::mask not_finite(floats::vec v) {
  using f = floats;
  return f::greater(f::bit_and(f::bits(v), f::set(0x7fffffff)), f::set(0x7f7fffff));
}

// n adjoining elements; true where one is not finite.
template <dtype T>
SLUICE_BODY_FN bool load_run(const std::byte* p, int n, float* to) {
  using f = floats;
  f::mask bad = f::none();
  int i = 0;
  for (; i + f::width <= n; i += f::width) {
    const f::vec v = load_elements<T>(p + i * size_of(T), f::width);
    f::store(to + i, v);
    bad = f::either(bad, not_finite(v));
  }
  if (i < n) {
    const f::vec v = load_elements<T>(p + i * size_of(T), n - i);
    f::store(to + i, v, n - i);
    bad = f::either(bad, not_finite(v));
  }
  return f::any(bad);
}

template <bool Finite>
SLUICE_BODY_FN floats::vec within_f16(floats::vec v) {
  if constexpr (Finite) return floats::clamp(v, 65504.0f);
  return v;
}

template <dtype T, bool Finite = false>
SLUICE_BODY_FN void store_run(const float* from, int n, std::byte* p) {
  using f = floats;
  int i = 0;
  for (; i + f::width <= n; i += f::width)
    store_elements<T>(p + i * size_of(T), within_f16<Finite>(f::load(from + i)), f::width);
  if (i < n) store_elements<T>(p + i * size_of(T), within_f16<Finite>(f::load(from + i, n - i)), n - i);
}

#if !SLUICE_TARGET_CUDA  // from here on: how the host walks rows; on CUDA the grid does

// Some rows of adjoining elements; sets bytes of `bad` (may be null) where a row has a number that is not finite. How
// rows are walked is compiled once, and calls what converts them.
template <dtype T>
SLUICE_BODY_FN void load_block(const std::byte* p, std::int64_t stride, int rows, int n, float* to, std::ptrdiff_t ld,
                               std::uint8_t* bad) {
  for (int r = 0; r < rows; ++r)
    if (load_run<T>(p + r * stride, n, to + r * ld) && bad) bad[r] = 1;
}

template <dtype T, bool Finite = false>
SLUICE_BODY_FN void store_block(const float* from, std::ptrdiff_t ld, int rows, int n, std::byte* p,
                                std::int64_t stride) {
  for (int r = 0; r < rows; ++r) store_run<T, Finite>(from + r * ld, n, p + r * stride);
}

SLUICE_BODY_FN decltype(&load_block<dtype::f32>) load_block_of(dtype type) {
  switch (type) {
    case dtype::f32: return load_block<dtype::f32>;
    case dtype::f16: return load_block<dtype::f16>;
    case dtype::bf16: return load_block<dtype::bf16>;
    case dtype::e4m3: return load_block<dtype::e4m3>;
    case dtype::e5m2: return load_block<dtype::e5m2>;
    case dtype::bytes: break;
  }
  return nullptr;
}

SLUICE_BODY_FN decltype(&store_block<dtype::f32>) store_block_of(dtype type, bool finite) {
  switch (type) {
    case dtype::f32: return store_block<dtype::f32>;
    case dtype::f16: return finite ? store_block<dtype::f16, true> : store_block<dtype::f16>;
    case dtype::bf16: return store_block<dtype::bf16>;
    case dtype::e4m3: return store_block<dtype::e4m3>;
    case dtype::e5m2: return store_block<dtype::e5m2>;
    case dtype::bytes: break;
  }
  return nullptr;
}

// Eight vectors of eight elements of 16 bits, and what a transposition of them takes.
#if SLUICE_TARGET_AVX2 || SLUICE_TARGET_AVX512
struct eight {
  using vec = __m128i;
  static SLUICE_BODY_FN vec load(const std::byte* p) { return _mm_loadu_si128(reinterpret_cast<const vec*>(p)); }
  static SLUICE_BODY_FN void store(std::byte* p, vec v) { _mm_storeu_si128(reinterpret_cast<vec*>(p), v); }
  static SLUICE_BODY_FN vec low16(vec a, vec b) { return _mm_unpacklo_epi16(a, b); }
  static SLUICE_BODY_FN vec high16(vec a, vec b) { return _mm_unpackhi_epi16(a, b); }
  static SLUICE_BODY_FN vec low32(vec a, vec b) { return _mm_unpacklo_epi32(a, b); }
  static SLUICE_BODY_FN vec high32(vec a, vec b) { return _mm_unpackhi_epi32(a, b); }
  static SLUICE_BODY_FN vec low64(vec a, vec b) { return _mm_unpacklo_epi64(a, b); }
  static SLUICE_BODY_FN vec high64(vec a, vec b) { return _mm_unpackhi_epi64(a, b); }
};
#elif SLUICE_TARGET_NEON
struct eight {
  using vec = uint8x16_t;
  static SLUICE_BODY_FN vec load(const std::byte* p) { return vld1q_u8(reinterpret_cast<const std::uint8_t*>(p)); }
  static SLUICE_BODY_FN void store(std::byte* p, vec v) { vst1q_u8(reinterpret_cast<std::uint8_t*>(p), v); }
  static SLUICE_BODY_FN uint16x8_t by16(vec v) { return vreinterpretq_u16_u8(v); }
  static SLUICE_BODY_FN uint32x4_t by32(vec v) { return vreinterpretq_u32_u8(v); }
  static SLUICE_BODY_FN uint64x2_t by64(vec v) { return vreinterpretq_u64_u8(v); }
  static SLUICE_BODY_FN vec low16(vec a, vec b) { return vreinterpretq_u8_u16(vzip1q_u16(by16(a), by16(b))); }
  static SLUICE_BODY_FN vec high16(vec a, vec b) { return vreinterpretq_u8_u16(vzip2q_u16(by16(a), by16(b))); }
  static SLUICE_BODY_FN vec low32(vec a, vec b) { return vreinterpretq_u8_u32(vzip1q_u32(by32(a), by32(b))); }
  static SLUICE_BODY_FN vec high32(vec a, vec b) { return vreinterpretq_u8_u32(vzip2q_u32(by32(a), by32(b))); }
  static SLUICE_BODY_FN vec low64(vec a, vec b) { return vreinterpretq_u8_u64(vzip1q_u64(by64(a), by64(b))); }
  static SLUICE_BODY_FN vec high64(vec a, vec b) { return vreinterpretq_u8_u64(vzip2q_u64(by64(a), by64(b))); }
};
#endif

// `lines` lines of `count` adjoining elements become `count` lines of `lines` elements; strides are bytes.
template <int Size>
SLUICE_BODY_ONCE void transpose_copy_of(const std::byte* from, std::int64_t from_stride, std::byte* to,
                                        std::int64_t to_stride, int lines, int count) {
  int l = 0;
#if !SLUICE_TARGET_PORTABLE
  if constexpr (Size == 2)
    for (; l + 8 <= lines; l += 8) {
      int i = 0;
      for (; i + 8 <= count; i += 8) {
        eight::vec a[8], b[8];
        SLUICE_UNROLL
        for (int j = 0; j < 8; ++j) a[j] = eight::load(from + (l + j) * from_stride + i * 2);
        SLUICE_UNROLL
        for (int j = 0; j < 4; ++j) {
          b[j] = eight::low16(a[2 * j], a[2 * j + 1]);
          b[j + 4] = eight::high16(a[2 * j], a[2 * j + 1]);
        }
        SLUICE_UNROLL
        for (int j = 0; j < 4; ++j) {
          a[2 * j] = eight::low32(b[2 * j], b[2 * j + 1]);
          a[2 * j + 1] = eight::high32(b[2 * j], b[2 * j + 1]);
        }
        SLUICE_UNROLL
        for (int j = 0; j < 8; ++j) {
          const eight::vec low = a[j / 4 * 4 + j % 4 / 2], high = a[j / 4 * 4 + j % 4 / 2 + 2];
          eight::store(to + (i + j) * to_stride + l * 2, j % 2 ? eight::high64(low, high) : eight::low64(low, high));
        }
      }
      for (; i < count; ++i)
        for (int j = 0; j < 8; ++j)
          std::memcpy(to + i * to_stride + (l + j) * 2, from + (l + j) * from_stride + i * 2, 2);
    }
#endif
  for (; l < lines; ++l)
    for (int i = 0; i < count; ++i) std::memcpy(to + i * to_stride + l * Size, from + l * from_stride + i * Size, Size);
}

SLUICE_BODY_FN void transpose_copy(int size, const std::byte* from, std::int64_t from_stride, std::byte* to,
                                   std::int64_t to_stride, int lines, int count) {
  size == 1   ? transpose_copy_of<1>(from, from_stride, to, to_stride, lines, count)
  : size == 2 ? transpose_copy_of<2>(from, from_stride, to, to_stride, lines, count)
              : transpose_copy_of<4>(from, from_stride, to, to_stride, lines, count);
}

// Elements on their way between a strided layout and rows.
struct raw_block {
  static constexpr int rows = 32, columns = 64;
  alignas(64) std::byte bytes[rows * columns * 4];

  // How many rows from `first` on adjoin, element by element: V kept transposed.
  static SLUICE_BODY_FN int run(const row_layout& at, int size, int first, int end) {
    int n = 1;
    while (n < rows && first + n < end && at.offsets[first + n] - at.offsets[first + n - 1] == size) ++n;
    return n;
  }
};

// Calls f(first row, rows, first float of the row, elements, where they lie) for all parts of a block: runs where
// elements adjoin, else what a raw_block holds.
template <class Run, class Block>
SLUICE_BODY_FN void walk_rows(const row_layout& at, int rows, Run run, Block block) {
  const int size = static_cast<int>(size_of(at.type));
  const std::int64_t base = at.first_head * at.head_stride;
  if (at.element_stride == size) {
    const bool one_run = at.head_stride == std::int64_t{at.head_dim} * size;
    const int runs = one_run ? 1 : at.num_heads, n = one_run ? at.head_dim * at.num_heads : at.head_dim;
    for (int r = 0; r < rows; ++r)
      for (int h = 0; h < runs; ++h) run(r, std::ptrdiff_t{h} * n, n, base + at.offsets[r] + h * at.head_stride);
    return;
  }
  for (int r0 = 0, nr = 0; r0 < rows; r0 += nr) {
    nr = raw_block::run(at, size, r0, rows);
    for (int h = 0; h < at.num_heads; ++h)
      for (int d0 = 0; d0 < at.head_dim; d0 += raw_block::columns) {
        const int nd = at.head_dim - d0 < raw_block::columns ? at.head_dim - d0 : raw_block::columns;
        block(r0, nr, std::ptrdiff_t{h} * at.head_dim + d0, nd,
              base + at.offsets[r0] + h * at.head_stride + d0 * at.element_stride);
      }
  }
}

SLUICE_KERNEL void load_rows(const std::byte* base, const row_layout& at, int rows, float* to, std::ptrdiff_t ld,
                             std::uint8_t* not_finite_rows) noexcept {
  const auto load = load_block_of(at.type);
  if (load == nullptr) return;
  const int size = static_cast<int>(size_of(at.type));
  const std::int64_t stride = raw_block::columns * size;
  raw_block raw;
  const auto put = [&](const std::byte* p, int r0, int nr, std::ptrdiff_t column, int n) {
    load(p, stride, nr, n, to + r0 * ld + column, ld, not_finite_rows ? not_finite_rows + r0 : nullptr);
  };
  walk_rows(
      at, rows, [&](int r, std::ptrdiff_t column, int n, std::int64_t from) { put(base + from, r, 1, column, n); },
      [&](int r0, int nr, std::ptrdiff_t column, int n, std::int64_t from) {
        transpose_copy(size, base + from, at.element_stride, raw.bytes, stride, n, nr);
        put(raw.bytes, r0, nr, column, n);
      });
}

SLUICE_KERNEL void store_rows(const float* from, std::ptrdiff_t ld, int rows, std::byte* base,
                              const row_layout& at) noexcept {
  const auto store = store_block_of(at.type, at.finite);
  if (store == nullptr) return;
  const int size = static_cast<int>(size_of(at.type));
  const std::int64_t stride = raw_block::columns * size;
  raw_block raw;
  const auto put = [&](int r0, int nr, std::ptrdiff_t column, int n, std::byte* p) {
    store(from + r0 * ld + column, ld, nr, n, p, stride);
  };
  walk_rows(
      at, rows, [&](int r, std::ptrdiff_t column, int n, std::int64_t to) { put(r, 1, column, n, base + to); },
      [&](int r0, int nr, std::ptrdiff_t column, int n, std::int64_t to) {
        put(r0, nr, column, n, raw.bytes);
        transpose_copy(size, raw.bytes, stride, base + to, at.element_stride, nr, n);
      });
}

#endif
