// SPDX-License-Identifier: Apache-2.0
// Bytes become the contents of a cache, go through a codec and come back: bit for bit from a lossless one, and from the
// others with every token that is no number as it was and every other one finite.
#include <sluice/sluice.hpp>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <span>
#include <support/caches.hpp>
#include <vector>

namespace {

using namespace sluice;

void require(bool fact) {
  if (!fact) std::abort();
}

template <class Codec>
void round_trip(const profile& p, const caches::cache& source, caches::cache& back) {
  encoder<Codec> e(p);
  const kv_view& v = source.view();
  std::vector<std::byte> out(e.max_size(v));
  const auto n = e.encode(v, out);
  if (v.k.type == dtype::bytes && !Codec::entropy::exact) return require(n.status() == status::unsupported_type);
  require(n.has_value());
  std::vector<std::byte> again(*n);
  require(e.encode(v, again).has_value() && std::memcmp(again.data(), out.data(), *n) == 0);
  require(decoder<Codec>(p).decode(again, back.view()).worst == status::ok);
  if (Codec::entropy::exact) return require(caches::elements(v) == caches::elements(back.view()));

  for (plane which : caches::planes)
    for (std::int32_t l = 0; l < v.num_layers && v[which].present(); ++l)
      for (std::int64_t t = 0; t < v.tokens; ++t) {
        bool finite = v.position + t >= p.sinks, same = true, number = true;
        for (std::int32_t h = 0; h < v.num_kv_heads; ++h)
          for (std::int32_t d = 0; d < v[which].head_dim; ++d) {
            const std::byte *a = v.at(which, l, t, h, d), *b = back.view().at(which, l, t, h, d);
            finite &= std::isfinite(load_element(a, v[which].type));
            same &= std::memcmp(a, b, std::size_t(size_of(v[which].type))) == 0;
            number &= std::isfinite(load_element(b, v[which].type));
          }
        require(finite ? number : same);
      }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 8) return 0;
  const char* const name = codec::preset_names[data[0] % std::size(codec::preset_names)];
  const bool tuned = data[0] & 128;
  const auto type = dtype(data[1] % 6);
  model_shape shape = model_shape::uniform(1 + data[2] / 128, 1 + data[2] % 3, 1 + data[3] % 40);
  for (layer_shape& l : shape.layers) l.head_dim_v = data[3] & 128 ? l.head_dim_k : data[4] % 40;
  if (shape.layers[0].head_dim_k % 2) shape.ropes[0].pairing = rope_pairing::none;
  if (data[4] & 128) shape.ropes[0].pairing = rope_pairing::interleaved;
  if (validate(shape.ropes[0], shape.layers[0].head_dim_k) != status::ok) return 0;
  const std::int64_t tokens = 1 + data[5] % 40, position = data[6];
  const auto how = caches::engines[data[7] % std::size(caches::engines)];

  caches::cache source = caches::make_cache(shape, tokens, type, how, position);
  profile p = profile::uncalibrated(shape, 1 + data[6] % 6);
  if (tuned && type != dtype::bytes) {
    caches::fill(source.view(), shape, 1);
    p = caches::make_profile(shape, {&source.view(), 1}, 0, 1 + data[6] % 6);
  }
  // The rest of the input over and over; where there is none, what fill() left.
  const std::span rest(data + 8, size - 8);
  std::size_t next = 0;
  if (!rest.empty())
    caches::for_each_element(source.view(), [&](plane which, auto, auto, auto, auto, std::byte* at) {
      for (int i = 0; i < size_of(source.view()[which].type); ++i) at[i] = std::byte(rest[next++ % rest.size()]);
    });
  caches::cache back = caches::make_cache(shape, tokens, type, caches::engine::dense, position);
  codec::with_preset(name, [&]<class Codec>() { round_trip<Codec>(p, source, back); });
  return 0;
}
