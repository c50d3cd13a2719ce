// SPDX-License-Identifier: Apache-2.0
// Codecs and stages of somebody who has the installed headers and nothing else, on the KV cache of a real model: each
// changes the bytes of tiles, gives back what it promises, and is refused by who does not know it.
#include "by_depth.hpp"
#include "capture.hpp"
#include "dead_zone.hpp"
#include "from_below.hpp"
#include "from_tokens.hpp"
#include "hadamard.hpp"
#include "run_length.hpp"
#include "xor_codec.hpp"

#include <sluice/sluice.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <span>
#include <string>
#include <vector>

namespace {

namespace codec = sluice::codec;
using sluice::plane;
using sluice::status;

int failures = 0;

void check(bool ok, const std::string& what) {
  if (ok) return;
  std::printf("FAILED: %s\n", what.c_str());
  ++failures;
}

/// Most that one element of K or V of a layer may be off at a level, but for rounding to f16.
using bound = std::function<double(int layer, plane p, int level)>;

template <class Codec>
std::vector<std::byte> encode(const sluice::profile& p, cache& from, const sluice::side_info& side) {
  sluice::encoder<Codec> e(p);
  std::vector<std::byte> frame(e.max_size(from.view()));
  const auto size = e.encode(from.view(), frame, {.side = side});
  check(bool(size), std::string("encode: ") + to_string(size.status()));
  frame.resize(size ? *size : 0);
  return frame;
}

/// Tiles of all passes that both frames have, and how many are not alike.
struct comparison {
  std::size_t tiles = 0, differ = 0;
};
comparison compare(std::span<const std::byte> a, std::span<const std::byte> b) {
  comparison out;
  sluice::frame_index ia, ib;
  if (ia.parse(a) != status::ok || ib.parse(b) != status::ok || ia.tiles_per_pass() != ib.tiles_per_pass()) return out;
  out.tiles = ia.tiles_per_pass() * std::min(ia.header().passes, ib.header().passes);
  for (std::size_t i = 0; i < out.tiles; ++i) {
    const auto ra = ia.range(i), rb = ib.range(i);
    out.differ += !std::equal(a.begin() + std::ptrdiff_t(ra.begin), a.begin() + std::ptrdiff_t(ra.end),
                              b.begin() + std::ptrdiff_t(rb.begin), b.begin() + std::ptrdiff_t(rb.end));
  }
  return out;
}

/// Encodes with a codec of ours and the library's nearest one; `least` = share of tiles that must differ.
template <class Mine, class Theirs>
std::vector<std::byte> prove(const char* name, const sluice::profile& p, cache& source, double least, const bound& most,
                             const sluice::side_info& side = {}) {
  const std::string what = name;
  const auto mine = encode<Mine>(p, source, side), theirs = encode<Theirs>(p, source, side);

  const comparison c = compare(mine, theirs);
  check(c.tiles > 0 && double(c.differ) >= least * double(c.tiles), what + ": its tiles are the library's");

  cache back = cache::like(source);
  check(sluice::decoder<Theirs>(p).decode(mine, back.view()).worst == status::wrong_codec, what + ": read by another");
  check(sluice::decoder<Mine>(p).decode(theirs, back.view()).worst == status::wrong_codec, what + ": reads another's");
  check(!codec::with_codec(Mine::id, []<class>() {}), what + ": the presets know it");
  check(back.bytes == cache::like(source).bytes, what + ": a refused frame was written");

  double worst = 0;
  const int levels = Mine::passes(p);
  for (int level = 0; level < levels; ++level) {
    const sluice::decode_options options{.level = level, .side = side};
    back = cache::like(source);
    check(sluice::decoder<Mine>(p).decode(mine, back.view(), options).worst == status::ok, what + ": does not decode");
    if (sluice::is_exact<Mine>) check(back.bytes == source.bytes, what + ": not lossless");
    for (int l = 0; l < source.layers; ++l)
      for (plane which : {plane::key, plane::value}) {
        const auto a = source.floats(l, which), b = back.floats(l, which);
        const double limit = most(l, which, level);
        double off = 0;
        for (std::size_t i = 0; i < a.size(); ++i)
          off = std::max(off, double(std::fabs(a[i] - b[i])) - double(std::fabs(a[i])) / 1024);
        worst = std::max(worst, limit > 0 ? off / limit : off > 0 ? 2. : 0.);
        check(off <= limit, what + ": layer " + std::to_string(l) + ", level " + std::to_string(level) + " is off by " +
                                std::to_string(off) + " of " + std::to_string(limit));
      }

    // Products of floats may round otherwise on another processor: a small part of the bound, nowhere more.
    cache other = cache::like(source);
    check(sluice::decoder<Mine>(p, {.isa = sluice::isa::portable}).decode(mine, other.view(), options).worst ==
              status::ok,
          what + ": another instruction set does not decode");
    for (int l = 0; l < source.layers; ++l)
      for (plane which : {plane::key, plane::value}) {
        const auto a = back.floats(l, which), b = other.floats(l, which);
        double off = 0;
        for (std::size_t i = 0; i < a.size(); ++i)
          off = std::max(off, double(std::fabs(a[i] - b[i])) - double(std::fabs(a[i])) / 512);
        check(off <= most(l, which, level) / 100, what + ": another instruction set decodes something else");
      }

    // Any range of layers gives the same bytes.
    for (const auto& [a, b] : {std::pair{0, 1}, {7, 8}, {8, 13}, {29, 30}}) {
      other = cache::like(source);
      sluice::decode_options some = options;
      some.layers = {a, b};
      check(sluice::decoder<Mine>(p).decode(mine, other.view(), some).worst == status::ok, what + ": no layer range");
      for (int l = 0; l < source.layers; ++l) {
        const auto at = std::ptrdiff_t(source.offset(l, plane::key)),
                   end = at + std::ptrdiff_t(2 * source.plane_bytes());
        const cache& expected = l >= a && l < b ? back : cache::like(source);
        check(std::equal(other.bytes.begin() + at, other.bytes.begin() + end, expected.bytes.begin() + at),
              what + ": layer " + std::to_string(l) + " of a range");
      }
    }
  }
  std::printf("%-12s %7zu bytes, the library's %7zu; %zu of %zu tiles differ; %d levels, off by %.2f of the bound\n",
              name, mine.size(), theirs.size(), c.differ, c.tiles, levels, worst);
  return mine;
}

std::uint64_t bytes_of(std::span<const std::byte> frame, int layer) {
  sluice::frame_index index;
  if (index.parse(frame) != status::ok) return 0;
  std::uint64_t n = 0;
  for (int pass = 0; pass < index.header().passes; ++pass) n += index.range(pass, layer, layer + 1).size();
  return n;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string data = argc > 1 ? argv[1] : DATA;
  const auto loaded = sluice::profile::load((data + "/smollm2.profile").c_str());
  cache source;
  if (!loaded || !source.read(data + "/smollm2_sample.safetensors", loaded->shape)) return std::puts("no data"), 1;
  const sluice::profile& p = *loaded;

  // Off by `steps` finest steps in every coefficient: as much as the columns of the basis add up to; the rotary
  // embedding of a key mixes two of them. The products are rounded, hence one percent.
  const auto through_basis = [&](double steps, int layer, plane which) {
    const sluice::plane_profile& q = p.of(layer, which);
    double most = 0;
    for (int g = 0; g < q.groups(); ++g)
      for (int j = 0; j < q.width_of(g); ++j) {
        double sum = 0;
        for (int k = 0; k < q.width_of(g); ++k)
          sum += std::fabs(double(to_float(sluice::f16{q.matrix_of(g)[k * q.width_of(g) + j]})));
        most = std::max(most, sum);
      }
    return 1.01 * steps * double(q.scale) * most * (which == plane::key ? std::sqrt(2.) : 1.);
  };
  const auto half_cell = [&](int level) { return std::pow(3., p.passes - 1 - level) / 2; };
  // Of what is coded: the first tokens of a sequence are kept exact. Rotation does not change it.
  const auto rms = [&](int layer, plane which) {
    double sum = 0;
    const auto x = source.floats(layer, which, p.sinks);
    for (float v : x) sum += double(v) * double(v);
    return std::sqrt(sum / double(x.size()));
  };

  prove<mine::xor_codec, codec::uncompressed::with_grouping<sluice::tile_tokens<64>>>(
      "xor_codec", p, source, 1, [](int, plane, int) { return 0.; });

  // What the base level sees as zero stays zero, however fine the level.
  prove<codec::standard::with_entropy<mine::run_length>, codec::standard>(
      "run_length", p, source, 1, [&](int l, plane which, int) { return through_basis(half_cell(0), l, which); });

  // Every coefficient is off by half a cell at most, so a head by that times the root of its size, whatever the rotation.
  prove<codec::standard::with_transform<mine::hadamard>, codec::standard>(
      "hadamard", p, source, 1, [&](int l, plane which, int level) {
        return 1.01 * std::sqrt(double(source.dim)) * half_cell(level) * rms(l, which) / std::pow(3., p.passes - 2);
      });

  const auto as_standard = [&](int l, plane which, int level) { return through_basis(half_cell(level), l, which); };
  prove<codec::standard::with_predictor<mine::from_below>, codec::standard>("from_below", p, source, 0.25, as_standard);

  // The first half of the text stands for the weights.
  const auto v = source.floats(0, plane::value);
  const std::size_t width = source.row_bytes() / 2;
  for (std::size_t t = 0; t < std::size_t(source.tokens / 2); ++t)
    mine::from_tokens::table[source.ids[t]].assign(v.begin() + std::ptrdiff_t(t * width),
                                                   v.begin() + std::ptrdiff_t((t + 1) * width));
  const auto known = prove<codec::standard::with_predictor<mine::from_tokens>, codec::standard>(
      "from_tokens", p, source, 1. / 60, as_standard, {source.ids});
  check(bytes_of(known, 0) < bytes_of(encode<codec::standard>(p, source, {}), 0),
        "from_tokens: knowing tokens saves nothing");

  // Never off by more than a step; steps are those of by_depth.
  using coarse = sluice::codec::basic_codec<sluice::tile_tokens<>, sluice::no_prediction, sluice::identity_transform,
                                            mine::dead_zone, mine::by_depth>;
  prove<coarse, coarse::with_quantizer<sluice::single_level>>("dead_zone", p, source, 1, [&](int l, plane which, int) {
    constexpr double of_rms[] = {0.25, 0.5, 1};
    return 1.001 * of_rms[mine::by_depth::third(l, source.layers)] * rms(l, which);
  });

  // Codes of 6, 5 and 4 bits over the range of a channel: off by a step at most, which is rounded to f16.
  const auto tiered = prove<codec::plain<5>::with_bit_widths<mine::by_depth>, codec::plain<5>>(
      "by_depth", p, source, 0.6, [&](int l, plane which, int) {
        const auto x = source.floats(l, which, p.sinks);
        double most = 0;
        for (std::size_t c = 0; c < width; ++c) {
          float low = x[c], high = x[c];
          for (std::size_t i = c; i < x.size(); i += width) low = std::min(low, x[i]), high = std::max(high, x[i]);
          most = std::max(most, double(high - low));
        }
        return 1.01 * most / ((1 << mine::by_depth::bits(l, which, source.layers)) - 1);
      });
  check(bytes_of(tiered, 0) > bytes_of(tiered, 15) && bytes_of(tiered, 15) > bytes_of(tiered, 29), "by_depth: widths");

  if (failures) return std::printf("%d failures\n", failures), 1;
  std::printf("sluice %d.%d.%d\n", SLUICE_VERSION_MAJOR, SLUICE_VERSION_MINOR, SLUICE_VERSION_PATCH);
  return 0;
}
