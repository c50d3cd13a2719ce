// SPDX-License-Identifier: Apache-2.0
// Rotary positions over the machine of warp/floats.inl.

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

#if !SLUICE_TARGET_CUDA

SLUICE_KERNEL void rotate_rows(float* x, std::ptrdiff_t ldx, int rows, int heads, int head_dim, rope_pairing pairing,
                               int rotary_dims, const float* cosine, const float* sine, std::ptrdiff_t ldt) noexcept {
  if (pairing == rope_pairing::none) return;
  for (int r = 0; r < rows; ++r)
    for (int h = 0; h < heads; ++h) {
      float* head = x + r * ldx + std::ptrdiff_t{h} * head_dim;
      pairing == rope_pairing::half ? rotate_head<true>(head, rotary_dims / 2, cosine + r * ldt, sine + r * ldt)
                                    : rotate_head<false>(head, rotary_dims / 2, cosine + r * ldt, sine + r * ldt);
    }
}

#endif
