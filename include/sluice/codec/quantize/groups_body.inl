// SPDX-License-Identifier: Apache-2.0
// Values, codes and scales of groups over the machine of warp/floats.inl: row by row, as they lie in memory.

// Calls f(row, first column, columns) for every vector of every row.
template <class F>
SLUICE_BODY_FN void each_vector(int first_row, const group_rows& of, F f) {
  const int rows = of.rows, columns = of.columns;
  for (int r = first_row; r < rows; ++r)
    for (int i = 0; i < columns; i += floats::width) f(r, i, columns - i < floats::width ? columns - i : floats::width);
}

SLUICE_BODY_FN floats::vec column_scale(bool shared, const float* scale, int i, int m) {
  return shared ? floats::set(*scale) : floats::load(scale + i, m);
}

#if !SLUICE_TARGET_CUDA

SLUICE_KERNEL void group_ranges(const group_rows& of, const float* x, float* low, float* high) noexcept {
  const std::ptrdiff_t ld = of.ldx;
  std::memcpy(low, x, static_cast<std::size_t>(of.columns) * sizeof(float));
  std::memcpy(high, x, static_cast<std::size_t>(of.columns) * sizeof(float));
  each_vector(1, of, [=](int r, int i, int m) {
    const auto v = floats::load(x + r * ld + i, m);
    floats::store(low + i, floats::min(v, floats::load(low + i, m)), m);
    floats::store(high + i, floats::max(v, floats::load(high + i, m)), m);
  });
}

SLUICE_KERNEL void group_codes(const group_rows& of, const float* x, const float* inverse, const float* zero,
                               float most, std::int16_t* q) noexcept {
  const group_rows at = of;
  each_vector(0, of, [=](int r, int i, int m) {
    const auto above = floats::sub(floats::load(x + r * at.ldx + i, m), column_scale(at.shared, zero, i, m));
    const auto y = floats::mul(above, column_scale(at.shared, inverse, i, m));
    const auto code = floats::round(floats::max(floats::min(y, floats::set(most)), floats::set(0.f)));
    floats::store_u16(q + r * at.ldq + i, code, m);
  });
}

SLUICE_KERNEL void group_peaks(const group_rows& of, const float* x, float* peak) noexcept {
  const auto magnitude = floats::set(0x7fffffff);
  const int columns = of.columns;
  for (int r = 0; r < of.rows; ++r, x += of.ldx, peak += of.lds) {
    auto most = floats::set(0.f);
    for (int i = 0; i < columns; i += floats::width) {
      const auto v = floats::load(x + i, columns - i < floats::width ? columns - i : floats::width);
      most = floats::max(floats::as_float(floats::bit_and(floats::bits(v), magnitude)), most);
    }
    float lanes[floats::width];
    floats::store(lanes, most);
    for (int half = floats::width / 2; half > 0; half /= 2)
      for (int i = 0; i < half; ++i) lanes[i] = lanes[i] > lanes[i + half] ? lanes[i] : lanes[i + half];
    *peak = lanes[0];
  }
}

SLUICE_KERNEL void group_signed_codes(const group_rows& of, const float* x, const float* inverse, float half,
                                      std::int16_t* q) noexcept {
  // Clamped before the addition, so that no compiler fuses it with the product.
  const auto least = floats::set(0.5f - half), most = floats::set(half - 1), offset = floats::set(half + 0.5f);
  const group_rows at = of;
  each_vector(0, of, [=](int r, int i, int m) {
    const auto y = floats::mul(floats::load(x + r * at.ldx + i, m), floats::set(inverse[r * at.lds]));
    const auto above = floats::add(floats::max(floats::min(y, most), least), offset);
    const auto nearest = floats::round(above);
    const auto up = floats::greater(floats::bits(floats::from_ints(nearest)), floats::bits(above));  // both positive
    floats::store_u16(q + r * at.ldq + i, floats::select(up, floats::sub(nearest, floats::set(1)), nearest), m);
  });
}

SLUICE_KERNEL void group_floats(const group_rows& of, const std::int16_t* q, const float* step, const float* zero,
                                float* x) noexcept {
  const group_rows at = of;
  each_vector(0, of, [=](int r, int i, int m) {
    const auto code = floats::from_ints(floats::load_i16(q + r * at.ldq + i, m));
    floats::store(x + r * at.ldx + i,
                  floats::fma(code, column_scale(at.shared, step, i, m), column_scale(at.shared, zero, i, m)), m);
  });
}

SLUICE_KERNEL void group_scales(const float* pairs, std::size_t n, float* step, float* zero) noexcept {
  for (std::size_t i = 0; i < n; i += std::size_t{floats::width}) {
    const int m = n - i < std::size_t{floats::width} ? static_cast<int>(n - i) : floats::width;
    const auto pair = floats::bits(floats::load(pairs + i, m));
    floats::store(step + i, floats::from_f16(floats::bit_and(pair, floats::set(0xffff))), m);
    floats::store(zero + i, floats::from_f16(floats::shr<16>(pair)), m);
  }
}

#endif
