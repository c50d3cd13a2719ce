// SPDX-License-Identifier: Apache-2.0
// A profile that is accepted is written again to the same bytes and can be used, or is refused by encoder and decoder.
// The first byte says how: bit 0, make the checksums right.
#include <sluice/sluice.hpp>

#include <cstdint>
#include <cstdlib>
#include <span>
#include <support/caches.hpp>
#include <support/frames.hpp>
#include <vector>

namespace {
void require(bool fact) {
  if (!fact) std::abort();
}
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace sluice;
  if (size < 1) return 0;
  const auto given = std::as_bytes(std::span(data, size)).subspan(1);
  std::vector<std::byte> file(given.begin(), given.end());
  if (data[0] & 1) frames::fix_profile(file);
  const result<profile> p = profile::parse(file);
  if (!p) {
    require(p.status() == status::not_a_profile || p.status() == status::wrong_version ||
            p.status() == status::corrupt_profile || p.status() == status::missing_section);
    return 0;
  }
  require(validate(*p) == status::ok && p->serialize() == file);

  // Use it on the first layer that keeps something, where that is small.
  std::size_t width = 0, first = 0;
  for (const plane_profile& q : p->planes) width += std::size_t(q.width);
  if (width == 0 || width > 512) return 0;
  while (p->shape.layers[first].absent()) ++first;
  const layer_shape& shape = p->shape.layers[first];
  if (shape.head_dim_k == 0) return 0;
  const auto id = std::int32_t(first);
  caches::cache source(shape, {id}, 9, dtype::f32), back(shape, {id}, 9, dtype::f32);
  caches::fill(source.view(), p->shape, 1);
  const std::int32_t ids[] = {0, 1, 2, -1, 3, 1, 0, 1, 2};
  const auto use = [&]<class Codec>() {
    encoder<Codec> e(*p);
    std::vector<std::byte> out(e.max_size(source.view()));
    const auto n = e.encode(source.view(), out, {.side = {ids}});
    if (!n) return require(n.status() == status::corrupt_profile || n.status() == status::missing_section);
    const page_status done = decoder<Codec>(*p).decode(std::span(out).first(*n), back.view(), {.side = {ids}});
    require(done.worst == status::ok);
  };
  use.operator()<codec::standard>();
  use.operator()<codec::balanced>();
  use.operator()<codec::smallest>();
  return 0;
}
