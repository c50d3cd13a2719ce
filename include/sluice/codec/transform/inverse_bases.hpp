// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/format/checksum.hpp>
#include <sluice/model/profile.hpp>
#include <sluice/numeric.hpp>
#include <sluice/tensor/half.hpp>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace sluice::detail {

// out = inverse of scale * M, both row-major n x n; M in f16 bits. Gauss-Jordan with partial pivoting in double: run
// once per basis, so that a profile carries the decoder's matrix only. False where M is singular.
inline bool invert_basis(const std::uint16_t* m, int n, double scale, std::vector<float>& out) {
  const std::size_t w = std::size_t(n);
  std::vector<double> a(w * w), b(w * w);
  for (std::size_t i = 0; i < w * w; ++i) a[i] = scale * double(to_float(f16{m[i]}));
  for (std::size_t i = 0; i < w; ++i) b[i * w + i] = 1;
  for (std::size_t c = 0; c < w; ++c) {
    std::size_t pivot = c;
    for (std::size_t r = c + 1; r < w; ++r)
      if (detail::abs(a[r * w + c]) > detail::abs(a[pivot * w + c])) pivot = r;
    const double p = a[pivot * w + c];
    if (!(detail::abs(p) > 1e-30)) return false;
    if (pivot != c)
      for (std::size_t j = 0; j < w; ++j) {
        std::swap(a[pivot * w + j], a[c * w + j]);
        std::swap(b[pivot * w + j], b[c * w + j]);
      }
    for (std::size_t j = 0; j < w; ++j) {
      a[c * w + j] /= p;
      b[c * w + j] /= p;
    }
    for (std::size_t r = 0; r < w; ++r) {
      const double f = a[r * w + c];
      if (r == c || f == 0) continue;
      for (std::size_t j = c; j < w; ++j) a[r * w + j] -= f * a[c * w + j];
      for (std::size_t j = 0; j < w; ++j) b[r * w + j] -= f * b[c * w + j];
    }
  }
  out.resize(w * w);
  for (std::size_t i = 0; i < w * w; ++i) {
    out[i] = float(b[i]);
    if (!detail::isfinite(out[i])) return false;
  }
  return true;
}

// The encoder's matrix of every group in the order (layer, plane, group); empty where the profile has none.
using inverse_bases = std::vector<std::vector<float>>;

// Of the bases, and of nothing else.
inline std::uint64_t bases_key(const profile& p) noexcept {
  std::uint32_t a = 0, b = 1;
  for (const plane_profile& q : p.planes) {
    a = checksum(q.matrix.data(), 2 * q.matrix.size(), a);
    const std::uint32_t shape[] = {a, std::uint32_t(q.width), std::uint32_t(q.group_width),
                                   std::bit_cast<std::uint32_t>(q.scale)};
    b = checksum(shape, sizeof shape, b);
  }
  return std::uint64_t{a} << 32 | b;
}

// Inverted once for a profile, whoever asks: 600 ms for a model of 30 layers, eight times what an encode takes. Null
// where a basis is singular.
inline std::shared_ptr<const inverse_bases> inverse_bases_of(const profile& p) {
  return p.memo.get<inverse_bases>(bases_key(p), [&]() -> std::shared_ptr<const inverse_bases> {
    auto all = std::make_shared<inverse_bases>();
    for (const plane_profile& q : p.planes)
      for (int g = 0; g < q.groups(); ++g) {
        all->emplace_back();
        if (!q.matrix.empty() && !invert_basis(q.matrix_of(g), q.width_of(g), double(q.scale), all->back())) return {};
      }
    return all;
  });
}

}  // namespace sluice::detail
