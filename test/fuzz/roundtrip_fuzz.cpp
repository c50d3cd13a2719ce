// SPDX-License-Identifier: Apache-2.0
// Bytes become the contents of a cache, go through a codec and come back: bit for bit from a lossless one, and from the
// others with every token that is no number as it was and every other one finite.
#include <sluice/calibrate/preset_sections.hpp>
#include <sluice/sluice.hpp>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <span>
#include <support/caches.hpp>
#include <support/prediction.hpp>
#include <vector>

namespace {

using namespace sluice;

void require(bool fact) {
  if (!fact) std::abort();
}

template <class Codec>
void compare(const profile& p, const kv_view& v, const kv_view& back) {
  if (is_exact<Codec>) return require(caches::elements(v) == caches::elements(back));
  for (plane which : caches::planes)
    for (std::int32_t l = 0; l < v.num_layers && v[which].present(); ++l)
      for (std::int64_t t = 0; t < v.tokens; ++t) {
        bool finite = !Codec::keeps_exact(p, v.position + t, v.position + v.tokens), same = true, number = true;
        for (std::int32_t h = 0; h < v.num_kv_heads; ++h)
          for (std::int32_t d = 0; d < v[which].head_dim; ++d) {
            const std::byte *a = v.at(which, l, t, h, d), *b = back.at(which, l, t, h, d);
            finite &= std::isfinite(load_element(a, v[which].type));
            same &= std::memcmp(a, b, std::size_t(size_of(v[which].type))) == 0;
            number &= std::isfinite(load_element(b, v[which].type));
          }
        require(finite ? number : same);
      }
}

template <class Codec>
void round_trip(const profile& p, std::span<const kv_view> source, std::span<const kv_view> back) {
  static const std::vector<std::int32_t> ids = caches::token_ids(64);
  encoder<Codec> e(p);
  std::vector<std::byte> out(e.max_size(source));
  const auto n = e.encode(source, out, {.side = {ids}});
  if (n.status() == status::missing_section) return require(!p.calibrated());
  bool opaque = false;
  for (const kv_view& v : source)
    for (plane which : caches::planes) opaque |= v[which].present() && v[which].type == dtype::bytes;
  if (opaque && !is_exact<Codec>) return require(n.status() == status::unsupported_type);
  require(n.has_value());
  std::vector<std::byte> again(*n);
  require(e.encode(source, again, {.side = {ids}}).has_value() && std::memcmp(again.data(), out.data(), *n) == 0);
  require(decoder<Codec>(p).decode(again, back, {.side = {ids}}).worst == status::ok);
  for (std::size_t i = 0; i < source.size(); ++i) compare<Codec>(p, source[i], back[i]);
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

  // The rest of the input over and over; where there is none, what was there.
  const std::span rest(data + 8, size - 8);
  std::size_t next = 0;
  const auto pour = [&](const kv_view& v) {
    if (rest.empty()) return;
    caches::for_each_element(v, [&](plane which, auto, auto, auto, auto, std::byte* at) {
      for (int i = 0; i < size_of(v[which].type); ++i) at[i] = std::byte(rest[next++ % rest.size()]);
    });
  };
  if (data[2] & 64) {  // a hybrid model: types, tokens and layers as the first bytes of the rest say
    shape.layers.resize(4, shape.layers[0]);
    std::vector<caches::layer_kind> kinds;
    for (std::size_t l = 0; l < 4; ++l) {
      const unsigned b = rest.empty() ? 0u : rest[l % rest.size()];
      kinds.push_back({dtype(b % 6), dtype(b / 6 % 6), position + b % 3, 1 + tokens - b % 2});
      if (l && b & 64) shape.layers[l] = {};
    }
    const caches::mixed_cache source(shape, kinds), back(shape, kinds, 2);
    for (const kv_view& v : source.views()) pour(v);
    profile p = profile::uncalibrated(shape, 1 + data[6] % 6);
    require(calibrate_presets(p, {}) == status::ok);
    codec::with_preset(name, [&]<class Codec>() { round_trip<Codec>(p, source.views(), back.views()); });
    return 0;
  }
  caches::cache source = caches::make_cache(shape, tokens, type, how, position);
  profile p = profile::uncalibrated(shape, 1 + data[6] % 6);
  if (tuned && type != dtype::bytes) {
    caches::fill(source.view(), shape, 1);
    p = caches::make_profile(shape, {&source.view(), 1}, 0, 1 + data[6] % 6);
    caches::add_prediction(p, 1);
  }
  require(calibrate_presets(p, {}) == status::ok);
  pour(source.view());
  caches::cache back = caches::make_cache(shape, tokens, type, caches::engine::dense, position);
  codec::with_preset(name, [&]<class Codec>() { round_trip<Codec>(p, {&source.view(), 1}, {&back.view(), 1}); });
  return 0;
}
