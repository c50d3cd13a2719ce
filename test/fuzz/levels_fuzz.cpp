// SPDX-License-Identifier: Apache-2.0
// Bytes are a tile of codec::fp8 or codec::turboquant, which decodes to numbers that are the same in any order, or is
// corrupt. The first byte says which codec, and how wide a head is.
#include <sluice/codec/preset/fp8.hpp>
#include <sluice/codec/preset/turboquant.hpp>
#include <sluice/format/tile.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <vector>

namespace {

using namespace sluice;

void require(bool fact) {
  if (!fact) std::abort();
}

template <class Codec>
void decode(std::span<const std::uint8_t> bytes, int dim) {
  static const profile p = profile::uncalibrated(model_shape::uniform(1, 2, 4));  // these codecs look at no more of it
  static typename Codec::decoder d(p, isa::best);
  constexpr int tokens = 70;
  tile t;
  t.place = {0, plane::key, 0, 0, 2, dim, 1};
  const int width = t.place.width();
  if (parse_tile(bytes, tokens, std::size_t(2 * width), t.envelope) != status::ok) return;
  d.decode({&t, 1}, {});
  require(t.state == status::ok || t.state == status::corrupt_tile);
  if (t.state != status::ok) return;
  std::vector<float> x(std::size_t(t.rows() * width)), one(static_cast<std::size_t>(width));
  require(d.rows(t, 0, t.rows(), x.data(), width) == t.rows());
  for (const float v : x) require(std::isfinite(v));
  for (int r = t.rows() - 1; r >= 0; r -= 7) {
    require(d.rows(t, r, 1, one.data(), width) == 1);
    for (int c = 0; c < width; ++c) require(one[std::size_t(c)] == x[std::size_t(r * width + c)]);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 1) return 0;
  const std::span rest(data + 1, size - 1);
  const int dim = 1 + data[0] / 2 % 40;
  data[0] % 2 ? decode<codec::fp8>(rest, dim) : decode<codec::turboquant<4>>(rest, dim);
  return 0;
}
