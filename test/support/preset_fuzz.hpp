// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/decoder.hpp>
#include <sluice/codec/encoder.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <support/caches.hpp>
#include <vector>

/// Fuzzes a codec that has a section of its own in the profile.
namespace preset_fuzz {

using namespace sluice;

inline void require(bool fact) {
  if (!fact) std::abort();
}

/// A tile of a model of one group: sound or corrupt, rows the same in any order, all of them numbers.
template <class Codec>
void decode_tile(const profile& p, std::span<const std::uint8_t> bytes) {
  static typename Codec::decoder d(p, isa::best);
  if (bytes.empty()) return;
  constexpr int tokens = 64;
  tile t;
  const plane which = bytes[0] % 2 ? plane::key : plane::value;
  t.place = place_of(p.shape, p.of(0, which).group_width, 0, which, 0);
  const int width = t.place.width();
  if (parse_tile(bytes.subspan(1), tokens, std::size_t(2 * width), t.envelope) != status::ok) return;
  d.decode({&t, 1}, {});
  require(t.state == status::ok || t.state == status::corrupt_tile);
  if (t.state != status::ok) return;
  std::vector<float> x(std::size_t(t.rows() * width)), one(std::size_t(width), 0.f);
  require(d.rows(t, 0, t.rows(), x.data(), width) == t.rows());
  for (const float v : x) require(std::isfinite(v));
  for (int r = t.rows() - 1; r >= 0; r -= 7) {
    require(d.rows(t, r, 1, one.data(), width) == 1);
    for (int c = 0; c < width; ++c) require(one[std::size_t(c)] == x[std::size_t(r * width + c)]);
  }
}

/// A section: refused by encoder and decoder alike, or what it encodes it decodes.
template <class Codec>
void read_section(profile p, std::span<const std::uint8_t> bytes) {
  const auto* const b = reinterpret_cast<const std::byte*>(bytes.data());
  p.sections[0].bytes.assign(b, b + bytes.size());
  caches::cache source = caches::make_cache(p.shape, 23), back = caches::make_cache(p.shape, 23);
  caches::fill(source.view(), p.shape, bytes.size());
  encoder<Codec> e(p);
  decoder<Codec> d(p);
  std::vector<std::byte> out(1 << 14);
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

/// One input: even first byte, a tile behind a byte that says whether of K; odd, a section.
template <class Codec>
int run(profile (*model)(), const std::uint8_t* data, std::size_t size) {
  static const profile p = model();
  if (size < 1) return 0;
  const std::span rest(data + 1, size - 1);
  if (data[0] % 2)
    read_section<Codec>(p, rest);
  else
    decode_tile<Codec>(p, rest);
  return 0;
}

}  // namespace preset_fuzz
