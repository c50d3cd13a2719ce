// SPDX-License-Identifier: Apache-2.0
// The first byte says what the others are: even, a tile of codec::cachegen_paper, which decodes or is corrupt; odd, the
// section of its tables, which serves encoder and decoder alike or neither.
#include <sluice/codec/decoder.hpp>
#include <sluice/codec/encoder.hpp>
#include <sluice/codec/preset/cachegen_paper.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <support/cachegen_model.hpp>
#include <support/caches.hpp>
#include <vector>

namespace {

using namespace sluice;
using codec_t = codec::cachegen_paper<>;

void require(bool fact) {
  if (!fact) std::abort();
}

void decode_tile(std::span<const std::uint8_t> bytes) {
  static const profile p = cachegen::small_model();
  static codec_t::decoder d(p, isa::best);
  constexpr int width = 4, tokens = 64;
  tile t;
  t.place = place_of(p.shape, width, 0, plane::value, 0);
  if (parse_tile(bytes, tokens, 2 * width, t.envelope) != status::ok) return;
  d.decode({&t, 1}, {});
  require(t.state == status::ok || t.state == status::corrupt_tile);
  if (t.state != status::ok) return;
  std::vector<float> x(std::size_t(t.rows() * width)), one(width);
  require(d.rows(t, 0, t.rows(), x.data(), width) == t.rows());
  for (const float v : x) require(std::isfinite(v));
  for (int r = t.rows() - 1; r >= 0; r -= 7) {
    require(d.rows(t, r, 1, one.data(), width) == 1);
    for (int c = 0; c < width; ++c) require(one[std::size_t(c)] == x[std::size_t(r * width + c)]);
  }
}

void read_section(std::span<const std::uint8_t> bytes) {
  profile p = cachegen::small_model();
  const auto* const b = reinterpret_cast<const std::byte*>(bytes.data());
  p.sections[0].bytes.assign(b, b + bytes.size());
  caches::cache source = caches::make_cache(p.shape, 23), back = caches::make_cache(p.shape, 23);
  caches::fill(source.view(), p.shape, bytes.size());
  encoder<codec_t> e(p);
  decoder<codec_t> d(p);
  std::vector<std::byte> out(1 << 13);
  const auto n = e.encode(source.view(), out);
  if (!n) {
    require(n.status() == status::corrupt_profile || n.status() == status::missing_section);
    require(d.decode(out, back.view()).worst == n.status());
    return;
  }
  require(*n <= e.max_size(source.view()));
  require(d.decode(std::span(out).first(*n), back.view()).worst == status::ok);
  for (const float v : caches::floats(back.view())) require(std::isfinite(v));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 1) return 0;
  const std::span rest(data + 1, size - 1);
  data[0] % 2 ? read_section(rest) : decode_tile(rest);
  return 0;
}
