// SPDX-License-Identifier: Apache-2.0
// The float side of the codec over the machine of warp/floats.inl; what the functions promise stands in dense.hpp.

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

// One row of one head or of all: dims i and i + half (Half) or 2i and 2i+1 turn by the angle whose cosine and sine
// stand at i.
template <bool Half>
SLUICE_BODY_FN void rotate_head(float* x, int half, const float* cosine, const float* sine) {
  using f = floats;
  for (int i = 0; i < half; i += f::width) {
    const int m = half - i < f::width ? half - i : f::width;
    const f::vec c = f::load(cosine + i, m), s = f::load(sine + i, m);
    f::vec a, b;
    if constexpr (Half) {
      a = f::load(x + i, m);
      b = f::load(x + half + i, m);
    } else {
      f::load_pairs(x + 2 * i, a, b, m);
    }
    const f::vec minus_s = f::as_float(f::sub(f::bits(s), f::set(static_cast<std::int32_t>(0x80000000u))));
    const f::vec p = f::fma(b, minus_s, f::mul(a, c));
    const f::vec q = f::fma(a, s, f::mul(b, c));
    if constexpr (Half) {
      f::store(x + i, p, m);
      f::store(x + half + i, q, m);
    } else {
      f::store_pairs(x + 2 * i, p, q, m);
    }
  }
}

// R rows times C vectors of columns: out(row, j, sum over k of a[row][k] * b(k, j)). Every sum runs over k in order,
// so a result depends neither on the tile it falls in nor on the machine's width.
template <int R, int C, class Matrix, class Out>
SLUICE_BODY_FN void multiply_tile(const float* a, std::ptrdiff_t lda, int k, const Matrix& b, const Out& out) {
  using f = floats;
  f::vec sum[R][C];
  SLUICE_UNROLL
  for (int r = 0; r < R; ++r) {
    SLUICE_UNROLL
    for (int j = 0; j < C; ++j) sum[r][j] = f::set(0.0f);
  }
  for (int i = 0; i < k; ++i) {
    f::vec m[C];
    SLUICE_UNROLL
    for (int j = 0; j < C; ++j) m[j] = b(i, j);
    SLUICE_UNROLL
    for (int r = 0; r < R; ++r) {
      const f::vec s = f::set(a[r * lda + i]);
      SLUICE_UNROLL
      for (int j = 0; j < C; ++j) sum[r][j] = f::fma(s, m[j], sum[r][j]);
    }
  }
  SLUICE_UNROLL
  for (int r = 0; r < R; ++r) out.template row<C>(r, sum[r]);
}

// Where the tiles' results go: x = scale * sum + mean.
struct reconstruct_sink {
  float* x;  // the tile's corner
  std::ptrdiff_t ldx;
  const float* mean;  // at the tile's first column; may be null
  float scale;
  int rows, columns;  // of the tile that exist

  template <int C>
  SLUICE_BODY_FN void row(int r, const floats::vec (&sum)[C]) const {
    using f = floats;
    if (r >= rows) return;
    SLUICE_UNROLL
    for (int j = 0; j < C; ++j) {
      const int at = j * f::width;
      const int m = columns - at < f::width ? columns - at : f::width;
      if (m <= 0) continue;
      const f::vec base = mean ? f::load(mean + at, m) : f::set(0.0f);
      f::store(x + r * ldx + at, f::fma(sum[j], f::set(scale), base), m);
    }
  }
};

SLUICE_BODY_FN floats::mask beyond_range(floats::vec v) {  // |v| > 32000 or NaN
  using f = floats;
  return f::greater(f::bit_and(f::bits(v), f::set(0x7fffffff)), f::set(0x46fa0000));
}

// Where the tiles' results go: f = the sum rounded.
struct quantize_sink {
  std::int16_t* q;
  std::ptrdiff_t ldq;
  std::uint8_t* beyond;  // of the tile's first row; may be null
  int rows, columns;

  template <int C>
  SLUICE_BODY_FN void row(int r, const floats::vec (&sum)[C]) const {
    using f = floats;
    if (r >= rows) return;
    f::mask bad = f::none();
    SLUICE_UNROLL
    for (int j = 0; j < C; ++j) {
      const int at = j * f::width;
      const int m = columns - at < f::width ? columns - at : f::width;
      if (m <= 0) continue;
      bad = f::either(bad, beyond_range(sum[j]));
      f::store_u16(q + r * ldq + at, f::round(f::clamp(sum[j], 32767.0f)), m);
    }
    if (f::any(bad) && beyond) beyond[r] = 1;
  }
};

// to[i] = from[i] as float, zero from n to the end of the last vector.
SLUICE_BODY_FN void widen_row(const std::int16_t* from, int n, float* to) {
  using f = floats;
  for (int i = 0; i < n; i += f::width)
    f::store(to + i, f::from_ints(f::load_i16(from + i, n - i < f::width ? n - i : f::width)));
}

// to = from - mean, zero from n to the end of the last vector.
SLUICE_BODY_FN void centre_row(const float* from, const float* mean, int n, float* to) {
  using f = floats;
  for (int i = 0; i < n; i += f::width) {
    const int m = n - i < f::width ? n - i : f::width;
    const f::vec v = f::load(from + i, m);
    f::store(to + i, mean ? f::sub(v, f::load(mean + i, m)) : v);
  }
}

// x += s * m: a correction to a coefficient that has no place in the product.
SLUICE_BODY_FN void add_scaled_row(float* x, float s, const std::uint16_t* row, int n) {
  using f = floats;
  for (int i = 0; i < n; i += f::width) {
    const int m = n - i < f::width ? n - i : f::width;
    f::store(x + i, f::fma(f::set(s), f::load_f16(row + i, m), f::load(x + i, m)), m);
  }
}

SLUICE_BODY_FN void dequantize_row(const std::int16_t* c, int k, float step, const float* mean, int n, float* x) {
  using f = floats;
  for (int i = 0; i < n; i += f::width) {
    const int m = n - i < f::width ? n - i : f::width;
    const f::vec base = mean ? f::load(mean + i, m) : f::set(0.0f);
    const int live = k - i < m ? k - i : m;
    const f::vec v = live > 0 ? f::from_ints(f::load_i16(c + i, live)) : f::set(0.0f);
    f::store(x + i, f::fma(v, f::set(step), base), m);
  }
}

// True where the row leaves the range.
SLUICE_BODY_FN bool quantize_row(const float* x, const float* mean, float inverse_step, int n, std::int16_t* q) {
  using f = floats;
  f::mask bad = f::none();
  for (int i = 0; i < n; i += f::width) {
    const int m = n - i < f::width ? n - i : f::width;
    const f::vec v = f::load(x + i, m);
    const f::vec y = f::mul(mean ? f::sub(v, f::load(mean + i, m)) : v, f::set(inverse_step));
    bad = f::either(bad, beyond_range(y));
    f::store_u16(q + i, f::round(f::clamp(y, 32767.0f)), m);
  }
  return f::any(bad);
}

template <class Digit>
SLUICE_BODY_FN void split3_run(const std::int16_t* from, std::int16_t* c, Digit* r, int n) {
  for (int i = 0; i < n; i += shorts::width) {
    const int m = n - i < shorts::width ? n - i : shorts::width;
    shorts::vec quotient, digit;
    shorts::split3(shorts::load(from + i, m), quotient, digit);
    shorts::store(c + i, quotient, m);
    shorts::store(r + i, digit, m);
  }
}

#if !SLUICE_TARGET_CUDA  // from here on: how the host walks rows and blocks; on CUDA the grid does

// `lines` lines of `count` adjoining elements become `count` lines of `lines` elements; strides are bytes.
template <int Size>
SLUICE_BODY_FN void transpose_copy(const std::byte* from, std::int64_t from_stride, std::byte* to,
                                   std::int64_t to_stride, int lines, int count) {
  int l = 0;
#if SLUICE_TARGET_AVX2 || SLUICE_TARGET_AVX512
  if constexpr (Size == 2)
    for (; l + 8 <= lines; l += 8) {
      int i = 0;
      for (; i + 8 <= count; i += 8) {
        __m128i a[8], b[8];
        SLUICE_UNROLL
        for (int j = 0; j < 8; ++j)
          a[j] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + (l + j) * from_stride + i * 2));
        SLUICE_UNROLL
        for (int j = 0; j < 4; ++j) {
          b[j] = _mm_unpacklo_epi16(a[2 * j], a[2 * j + 1]);
          b[j + 4] = _mm_unpackhi_epi16(a[2 * j], a[2 * j + 1]);
        }
        SLUICE_UNROLL
        for (int j = 0; j < 4; ++j) {
          a[2 * j] = _mm_unpacklo_epi32(b[2 * j], b[2 * j + 1]);
          a[2 * j + 1] = _mm_unpackhi_epi32(b[2 * j], b[2 * j + 1]);
        }
        SLUICE_UNROLL
        for (int j = 0; j < 8; ++j) {
          const __m128i low = a[j / 4 * 4 + j % 4 / 2], high = a[j / 4 * 4 + j % 4 / 2 + 2];
          _mm_storeu_si128(reinterpret_cast<__m128i*>(to + (i + j) * to_stride + l * 2),
                           j % 2 ? _mm_unpackhi_epi64(low, high) : _mm_unpacklo_epi64(low, high));
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

template <int Size>
struct raw_block {  // elements on their way between a strided layout and rows
  static constexpr int rows = 32, columns = 64;
  static constexpr std::int64_t stride = columns * Size;
  alignas(64) std::byte bytes[rows * columns * Size];

  // How many rows from `first` on adjoin, element by element: V kept transposed.
  static SLUICE_BODY_FN int run(const row_layout& at, int first, int end) {
    int n = 1;
    while (n < rows && first + n < end && at.offsets[first + n] - at.offsets[first + n - 1] == Size) ++n;
    return n;
  }
};

template <dtype T>
SLUICE_BODY_FN void load_rows_as(const std::byte* base, const row_layout& at, int rows, float* to, std::ptrdiff_t ld,
                                 std::uint8_t* not_finite_rows) {
  constexpr int size = size_of(T);
  base += at.first_head * at.head_stride;
  if (at.element_stride == size) {
    const bool one_run = at.head_stride == std::int64_t{at.head_dim} * size;
    const int runs = one_run ? 1 : at.num_heads, n = one_run ? at.head_dim * at.num_heads : at.head_dim;
    for (int r = 0; r < rows; ++r) {
      bool bad = false;
      for (int h = 0; h < runs; ++h)
        bad |= load_run<T>(base + at.offsets[r] + h * at.head_stride, n, to + r * ld + std::ptrdiff_t{h} * n);
      if (bad && not_finite_rows) not_finite_rows[r] = 1;
    }
    return;
  }
  raw_block<size> raw;
  for (int r0 = 0, nr = 0; r0 < rows; r0 += nr) {
    nr = raw.run(at, r0, rows);
    for (int h = 0; h < at.num_heads; ++h)
      for (int d0 = 0; d0 < at.head_dim; d0 += raw.columns) {
        const int nd = at.head_dim - d0 < raw.columns ? at.head_dim - d0 : raw.columns;
        const std::byte* from = base + at.offsets[r0] + h * at.head_stride + d0 * at.element_stride;
        transpose_copy<size>(from, at.element_stride, raw.bytes, raw.stride, nd, nr);
        float* corner = to + r0 * ld + std::ptrdiff_t{h} * at.head_dim + d0;
        for (int r = 0; r < nr; ++r)
          if (load_run<T>(raw.bytes + r * raw.stride, nd, corner + r * ld) && not_finite_rows)
            not_finite_rows[r0 + r] = 1;
      }
  }
}

template <dtype T, bool Finite = false>
SLUICE_BODY_FN void store_rows_as(const float* from, std::ptrdiff_t ld, int rows, std::byte* base,
                                  const row_layout& at) {
  constexpr int size = size_of(T);
  base += at.first_head * at.head_stride;
  if (at.element_stride == size) {
    const bool one_run = at.head_stride == std::int64_t{at.head_dim} * size;
    const int runs = one_run ? 1 : at.num_heads, n = one_run ? at.head_dim * at.num_heads : at.head_dim;
    for (int r = 0; r < rows; ++r)
      for (int h = 0; h < runs; ++h)
        store_run<T, Finite>(from + r * ld + std::ptrdiff_t{h} * n, n, base + at.offsets[r] + h * at.head_stride);
    return;
  }
  raw_block<size> raw;
  for (int r0 = 0, nr = 0; r0 < rows; r0 += nr) {
    nr = raw.run(at, r0, rows);
    for (int h = 0; h < at.num_heads; ++h)
      for (int d0 = 0; d0 < at.head_dim; d0 += raw.columns) {
        const int nd = at.head_dim - d0 < raw.columns ? at.head_dim - d0 : raw.columns;
        const float* corner = from + r0 * ld + std::ptrdiff_t{h} * at.head_dim + d0;
        for (int r = 0; r < nr; ++r) store_run<T, Finite>(corner + r * ld, nd, raw.bytes + r * raw.stride);
        std::byte* to = base + at.offsets[r0] + h * at.head_stride + d0 * at.element_stride;
        transpose_copy<size>(raw.bytes, raw.stride, to, at.element_stride, nr, nd);
      }
  }
}

SLUICE_BODY_FN void load_rows(const std::byte* base, const row_layout& at, int rows, float* to, std::ptrdiff_t ld,
                              std::uint8_t* not_finite_rows) {
  switch (at.type) {
    case dtype::f32: return load_rows_as<dtype::f32>(base, at, rows, to, ld, not_finite_rows);
    case dtype::f16: return load_rows_as<dtype::f16>(base, at, rows, to, ld, not_finite_rows);
    case dtype::bf16: return load_rows_as<dtype::bf16>(base, at, rows, to, ld, not_finite_rows);
    case dtype::e4m3: return load_rows_as<dtype::e4m3>(base, at, rows, to, ld, not_finite_rows);
    case dtype::e5m2: return load_rows_as<dtype::e5m2>(base, at, rows, to, ld, not_finite_rows);
    case dtype::bytes: return;
  }
}

SLUICE_BODY_FN void store_rows(const float* from, std::ptrdiff_t ld, int rows, std::byte* base, const row_layout& at) {
  switch (at.type) {
    case dtype::f32: return store_rows_as<dtype::f32>(from, ld, rows, base, at);
    case dtype::f16:
      return at.finite ? store_rows_as<dtype::f16, true>(from, ld, rows, base, at)
                       : store_rows_as<dtype::f16>(from, ld, rows, base, at);
    case dtype::bf16: return store_rows_as<dtype::bf16>(from, ld, rows, base, at);
    case dtype::e4m3: return store_rows_as<dtype::e4m3>(from, ld, rows, base, at);
    case dtype::e5m2: return store_rows_as<dtype::e5m2>(from, ld, rows, base, at);
    case dtype::bytes: return;
  }
}

SLUICE_BODY_FN void rotate_rows(float* x, std::ptrdiff_t ldx, int rows, int heads, int head_dim, rope_pairing pairing,
                                int rotary_dims, const float* cosine, const float* sine, std::ptrdiff_t ldt) {
  if (pairing == rope_pairing::none) return;
  for (int r = 0; r < rows; ++r)
    for (int h = 0; h < heads; ++h) {
      float* head = x + r * ldx + std::ptrdiff_t{h} * head_dim;
      pairing == rope_pairing::half ? rotate_head<true>(head, rotary_dims / 2, cosine + r * ldt, sine + r * ldt)
                                    : rotate_head<false>(head, rotary_dims / 2, cosine + r * ldt, sine + r * ldt);
    }
}

// Tile of the product: with R x C sums, C matrix vectors and one factor all in registers.
#if SLUICE_TARGET_AVX512
inline constexpr int dense_tile_rows = 6, dense_tile_vectors = 4;
#elif SLUICE_TARGET_AVX2
inline constexpr int dense_tile_rows = 6, dense_tile_vectors = 2;
#else
inline constexpr int dense_tile_rows = 4, dense_tile_vectors = 2;
#endif

template <int C>
struct packed_panel {  // [k][C * width], in the order in which a tile reads it
  const float* p;
  SLUICE_BODY_FN floats::vec operator()(int k, int j) const {
    return floats::load(p + (std::ptrdiff_t{k} * C + j) * floats::width);
  }
};

// Some columns of a matrix as floats in a panel of whole vectors, zero beyond the last column.
template <class Element>
SLUICE_BODY_FN void pack_panel(const Element* matrix, std::ptrdiff_t ldm, int k, int columns, float* to) {
  using f = floats;
  for (int i = 0; i < k; ++i, matrix += ldm)
    for (int j = 0; j < columns; j += f::width, to += f::width) {
      const int m = columns - j < f::width ? columns - j : f::width;
      if constexpr (sizeof(Element) == 2)
        f::store(to, f::load_f16(matrix + j, m));
      else
        f::store(to, f::load(matrix + j, m));
    }
}

// Sink: reconstruct_sink or quantize_sink, placed at the block's first row and column 0.
template <int C>
SLUICE_BODY_FN void multiply_panel(const float* a, std::ptrdiff_t lda, int rows, int k, const float* panel, int c0,
                                   int columns, const reconstruct_sink& out) {
  for (int r = 0; r < rows; r += dense_tile_rows)
    multiply_tile<dense_tile_rows, C>(
        a + r * lda, lda, k, packed_panel<C>{panel},
        reconstruct_sink{out.x + r * out.ldx + c0, out.ldx, out.mean ? out.mean + c0 : nullptr, out.scale, rows - r,
                         columns});
}
template <int C>
SLUICE_BODY_FN void multiply_panel(const float* a, std::ptrdiff_t lda, int rows, int k, const float* panel, int c0,
                                   int columns, const quantize_sink& out) {
  for (int r = 0; r < rows; r += dense_tile_rows)
    multiply_tile<dense_tile_rows, C>(
        a + r * lda, lda, k, packed_panel<C>{panel},
        quantize_sink{out.q + r * out.ldq + c0, out.ldq, out.beyond ? out.beyond + r : nullptr, rows - r, columns});
}

// A panel is made right before all rows of the block meet it, which finds it in a near cache; making it again for the
// next block costs little beside that.
template <class Element, class Sink>
SLUICE_BODY_FN void multiply_block(const float* a, std::ptrdiff_t lda, int rows, int k, const Element* matrix,
                                   std::ptrdiff_t ldm, int n, float* panel, const Sink& out) {
  constexpr int width = dense_tile_vectors * floats::width;
  static_assert(width <= dense_panel(64));
  for (int c0 = 0; c0 < n; c0 += width) {
    const int columns = n - c0 < width ? n - c0 : width;
    const int vectors = (columns + floats::width - 1) / floats::width;
    pack_panel(matrix + c0, ldm, k, columns, panel);
    if (vectors == dense_tile_vectors)
      multiply_panel<dense_tile_vectors>(a, lda, rows, k, panel, c0, columns, out);
    else if (vectors == 1)
      multiply_panel<1>(a, lda, rows, k, panel, c0, columns, out);
#if SLUICE_TARGET_AVX512
    else if (vectors == 2)
      multiply_panel<2>(a, lda, rows, k, panel, c0, columns, out);
    else
      multiply_panel<3>(a, lda, rows, k, panel, c0, columns, out);
#endif
  }
}

// Rows of the left factor at a time: at most 1 MiB of it, for the second-level cache.
SLUICE_BODY_FN int dense_block_rows(int rows, std::ptrdiff_t lda) {
  const int fit = static_cast<int>(dense_block_floats / (lda > 0 ? lda : 1)) / dense_tile_rows * dense_tile_rows;
  const int most = fit < 4 * dense_tile_rows ? 4 * dense_tile_rows : fit;
  return rows < most ? rows : most;
}

SLUICE_BODY_FN float* align_floats(float* p) {
  return reinterpret_cast<float*>((reinterpret_cast<std::uintptr_t>(p) + 63) & ~std::uintptr_t{63});
}

SLUICE_BODY_FN void zero_tail_rows(float* a, std::ptrdiff_t lda, int from) {
  const int end = (from + dense_tile_rows - 1) / dense_tile_rows * dense_tile_rows;
  if (end > from) std::memset(a + from * lda, 0, static_cast<std::size_t>((end - from) * lda) * sizeof(float));
}

SLUICE_BODY_FN void inverse_transform(const inverse_job& job, float* workspace) {
  const int n = job.n, k = job.k;
  const std::ptrdiff_t lda = dense_round_up(k);
  float* panel = align_floats(workspace);
  float* a = panel + std::ptrdiff_t{dense_panel(n)} * k;
  const int step = dense_block_rows(job.rows, lda);
  for (int r0 = 0; r0 < job.rows; r0 += step) {
    const int rows = job.rows - r0 < step ? job.rows - r0 : step;
    for (int r = 0; r < rows; ++r) widen_row(job.c + (r0 + r) * job.ldc, k, a + r * lda);
    zero_tail_rows(a, lda, rows);
    for (std::size_t i = 0; i < job.num_corrections; ++i) {
      const coefficient_correction& e = job.corrections[i];
      if (e.row >= r0 && e.row < r0 + rows && e.coefficient >= 0 && e.coefficient < k)
        a[(e.row - r0) * lda + e.coefficient] += e.value;
    }
    multiply_block(a, lda, rows, k, job.matrix, n, n, panel,
                   reconstruct_sink{job.x + r0 * job.ldx, job.ldx, job.mean, job.scale, rows, n});
  }
  for (std::size_t i = 0; i < job.num_corrections; ++i) {
    const coefficient_correction& e = job.corrections[i];
    if (e.row >= 0 && e.row < job.rows && e.coefficient >= k && e.coefficient < job.matrix_rows)
      add_scaled_row(job.x + e.row * job.ldx, job.scale * e.value, job.matrix + std::ptrdiff_t{e.coefficient} * n, n);
  }
}

SLUICE_BODY_FN void forward_transform(const forward_job& job, float* workspace) {
  const int n = job.n, k = job.k;
  const std::ptrdiff_t lda = dense_round_up(n);
  float* panel = align_floats(workspace);
  float* a = panel + std::ptrdiff_t{dense_panel(k)} * n;
  const int step = dense_block_rows(job.rows, lda);
  for (int r0 = 0; r0 < job.rows; r0 += step) {
    const int rows = job.rows - r0 < step ? job.rows - r0 : step;
    for (int r = 0; r < rows; ++r) centre_row(job.x + (r0 + r) * job.ldx, job.mean, n, a + r * lda);
    zero_tail_rows(a, lda, rows);
    multiply_block(a, lda, rows, n, job.matrix, job.ldm, k, panel,
                   quantize_sink{job.c + r0 * job.ldc, job.ldc, job.beyond ? job.beyond + r0 : nullptr, rows, k});
  }
}

SLUICE_BODY_FN void dequantize_rows(const std::int16_t* c, std::ptrdiff_t ldc, int rows, int k, float step,
                                    const float* mean, int n, float* x, std::ptrdiff_t ldx) {
  for (int r = 0; r < rows; ++r) dequantize_row(c + r * ldc, k, step, mean, n, x + r * ldx);
}

SLUICE_BODY_FN void quantize_rows(const float* x, std::ptrdiff_t ldx, int rows, const float* mean, float inverse_step,
                                  int n, std::int16_t* q, std::ptrdiff_t ldq, std::uint8_t* beyond) {
  for (int r = 0; r < rows; ++r)
    if (quantize_row(x + r * ldx, mean, inverse_step, n, q + r * ldq) && beyond) beyond[r] = 1;
}

SLUICE_BODY_FN std::size_t scan_limits(const std::int16_t* v, std::ptrdiff_t ldv, int rows, int n,
                                       const std::int16_t* limit, coefficient_place* found, std::size_t cap) {
  std::size_t count = 0;
  for (int r = 0; r < rows; ++r)
    for (int i = 0; i < n; i += shorts::width) {
      const std::int16_t* p = v + r * ldv + i;
      const int m = n - i < shorts::width ? n - i : shorts::width;
      if (!shorts::any_outside(shorts::load(p, m), shorts::load(limit + i, m))) continue;
      for (int j = 0; j < m; ++j)
        if (p[j] > limit[i + j] || p[j] < -limit[i + j]) {
          if (count < cap) found[count] = {r, i + j};
          ++count;
        }
    }
  return count;
}

#endif
