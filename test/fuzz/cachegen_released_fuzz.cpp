// SPDX-License-Identifier: Apache-2.0
// Bytes are a tile of codec::cachegen_released, which decodes to finite values or is corrupt. The first byte says how wide
// it is.
#include <sluice/codec/preset/cachegen_released.hpp>
#include <sluice/format/tile.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <vector>

namespace {

using namespace sluice;
using codec_t = codec::cachegen_released<>;

void require(bool fact) {
  if (!fact) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 1) return 0;
  static const profile p = profile::uncalibrated(model_shape::uniform(1, 3, 2));
  static codec_t::decoder d(p, isa::best);
  constexpr int tokens = 600;  // codes of 256 rows each
  const int width = 2 * (1 + data[0] % 3);
  tile t;
  t.place = place_of(p.shape, width, 0, plane::value, 0);
  if (parse_tile({data + 1, size - 1}, tokens, std::size_t(2 * width), t.envelope) != status::ok) return 0;
  d.decode({&t, 1}, {});
  require(t.state == status::ok || t.state == status::corrupt_tile);
  if (t.state != status::ok) return 0;
  std::vector<float> x(std::size_t(t.rows() * width)), one(static_cast<std::size_t>(width));
  require(d.rows(t, 0, t.rows(), x.data(), width) == t.rows());
  for (const float v : x) require(std::isfinite(v));
  for (int r = t.rows() - 1; r >= 0; r -= 7) {
    require(d.rows(t, r, 1, one.data(), width) == 1);
    for (int c = 0; c < width; ++c) require(one[std::size_t(c)] == x[std::size_t(r * width + c)]);
  }
  return 0;
}
