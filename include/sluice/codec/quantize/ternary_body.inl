// SPDX-License-Identifier: Apache-2.0
// Levels of integers over the machine of warp/floats.inl.

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

#if !SLUICE_TARGET_CUDA

SLUICE_KERNEL void split3(const std::int16_t* f, std::int16_t* c, std::int16_t* r, int count) noexcept {
  split3_run(f, c, r, count);
}

SLUICE_KERNEL void split_levels(const std::int16_t* f, std::int16_t* c, std::int8_t* const* digits, int passes,
                                int made, int count) noexcept {
  for (int i = 0; i < count; i += shorts::width) {
    const int m = count - i < shorts::width ? count - i : shorts::width;
    shorts::vec v = shorts::load(f + i, m), digit;
    for (int p = passes - 1; p > 0; --p) {
      shorts::split3(v, v, digit);
      if (p < made) shorts::store(digits[p] + i, digit, m);
    }
    shorts::store(c + i, v, m);
  }
}

SLUICE_KERNEL std::size_t scan_limits(const std::int16_t* v, std::ptrdiff_t ldv, int rows, int n,
                                      const std::int16_t* limit, coefficient_place* found, std::size_t cap) noexcept {
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
