// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/codec.hpp>
#include <sluice/codec/preset/exact.hpp>
#include <sluice/cuda/encode/encode_open.cuh>
#include <sluice/cuda/encode/forward.hpp>
#include <sluice/cuda/encode/measure.cuh>
#include <sluice/cuda/image.hpp>
#include <sluice/tensor/model_ropes.hpp>
#include <sluice/tensor/rows.hpp>

#include <doctest/doctest.h>
#include <support/caches.hpp>
#include <support/captures.hpp>
#include <support/cuda_decode_checks.hpp>
#include <support/device.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <span>
#include <string>
#include <vector>

/// The forward stage of a device against the stages of the host's encoder: the same tokens coded and exact, the same
/// integers but where a sum of floats lies between two. For a GPU, and for the emulator.
namespace cuda_checks {

using namespace sluice;

/// What a host makes of one strand, by the stages of codec::standard.
struct forward_strand {
  int first = 0, count = 0;
  bool calibrated = false;
  float step = 1;
  std::vector<std::uint16_t> coded, exact, mean;
  std::vector<std::int16_t> values;  // [rows][ld]
  std::vector<float> x;              // [rows][ld], what they were made of
};

/// Tokens of one frame and how they are cut.
struct forward_tokens {
  std::int64_t position, count;
  int tile_tokens;
  std::int64_t exact_before = 0, exact_from = INT64_MAX;
};

class forward_host {
 public:
  forward_host(const profile& p, const kv_view& v, const forward_tokens& t)
      : p_(&p), v_(v), t_(t), ropes_(p.shape), transform_(p, isa::best), quantizer_(isa::best) {
    ropes_.fill(t.position, int(t.count), true);
  }

  forward_strand strand(int slot, plane which, int group, int tile) {
    const int layer = v_.layer_id(slot);
    const plane_profile& q = p_->of(layer, which);
    const plane_view& pl = v_[which];
    const layer_shape& l = p_->shape.layers[std::size_t(layer)];
    const std::int64_t start = t_.position + std::int64_t{tile} * t_.tile_tokens;
    const std::int64_t stop = std::min(start + t_.tile_tokens, t_.position + t_.count);
    const std::int64_t from = std::clamp(v_.position, start, stop),
                       to = std::clamp(v_.position + v_.tokens, from, stop);
    forward_strand out;
    out.first = int(from - start);
    out.count = int(to - from);
    std::vector<std::int64_t> offsets;
    std::vector<std::uint8_t> flagged;
    for (std::int64_t t = from; t < to; ++t) {
      offsets.push_back(v_.token_offset(pl, t - v_.position));
      flagged.push_back(t < t_.exact_before || t >= t_.exact_from);
    }
    const int dim = l.head_dim(which), all = detail::padded(q.width);
    std::vector<float> x(std::size_t(out.count) * std::size_t(all));
    const detail::row_layout at{offsets.data(), pl.head_stride, pl.element_stride, 0, l.num_kv_heads, dim,
                                pl.type,        false};
    detail::load_rows(isa::best, v_.layer_base(pl, slot), at, out.count, x.data(), all, flagged.data());
    if (which == plane::key)
      ropes_.rotate(isa::best, layer, x.data(), all, out.count, l.num_kv_heads, int(from - t_.position));

    tile_rows in;
    in.place = place_of(p_->shape, q.group_width, layer, which, group);
    in.range = {int(from - t_.position), from, out.count};
    in.type = pl.type;
    in.ld = detail::padded(in.place.width());
    for (int t = 0; t < out.count; ++t) {
      if (flagged[std::size_t(t)]) {
        in.exact.push_back(std::uint16_t(t));
        continue;
      }
      in.rows.push_back(std::uint16_t(t));
      const float* row = &x[std::size_t(t) * std::size_t(all) + std::size_t(group * q.group_width)];
      out.x.insert(out.x.end(), row, row + in.place.width());
      out.x.resize(out.x.size() + std::size_t(in.ld - in.place.width()));
    }
    in.x = out.x.data();
    quantize(in, out);
    out.coded = in.rows;
    out.exact = in.exact;
    return out;
  }

  /// What an integer is the rounding of, as exactly as can be.
  double sum(int layer, plane which, int group, const forward_strand& s, int row, int column) const {
    const plane_profile& q = p_->of(layer, which);
    const int width = q.width_of(group), ld = detail::padded(width);
    const auto inverse = detail::inverse_bases_of(*p_);
    std::size_t at = 0;
    for (std::size_t i = 0; i < 2 * std::size_t(layer) + std::size_t(which); ++i)
      at += std::size_t(p_->planes[i].groups());
    const std::vector<float>& m = (*inverse)[at + std::size_t(group)];
    double y = 0;
    for (int k = 0; k < width; ++k) {
      const float mean = to_float(f16{q.mean[std::size_t(group * q.group_width + k)]});
      y += double(s.x[std::size_t(row * ld + k)] - mean) * double(m[std::size_t(k * width + column)]);
    }
    return y;
  }

 private:
  // As basic_codec::encoder::quantize.
  void quantize(tile_rows& in, forward_strand& out) {
    const int width = in.place.width();
    std::vector<std::uint8_t> beyond;
    if (transform_.calibrated(in.place)) {
      out.calibrated = true;
      do {
        out.values.assign(in.rows.size() * std::size_t(in.ld), 0);
        beyond.assign(in.rows.size(), 0);
        if (in.count()) transform_.rounded(in, out.values.data(), in.ld, beyond.data());
      } while (in.make_exact(beyond));
      return;
    }
    coefficients c;
    symbols s;
    do {
      tile_writer w;
      c.rows = in.count();
      c.width = width;
      c.ld = in.ld;
      c.y.assign(in.rows.size() * std::size_t(in.ld), 0);
      s.rows = in.count();
      s.ld = in.ld;
      s.finest.assign(in.rows.size() * std::size_t(in.ld), 0);
      beyond.assign(in.rows.size(), 0);
      REQUIRE(transform_.forward(in, c, w) == status::ok);
      out.values.clear();
      if (in.rows.empty()) return;
      out.mean.resize(std::size_t(width));
      std::memcpy(out.mean.data(), w.at(0, section::transform).data(), 2 * std::size_t(width));
      const float step = profile_steps::step(0, plane::key, 1, coefficient_statistics(c, p_->passes));
      REQUIRE(quantizer_.quantize(c, step, s, beyond, w) == status::ok);
      out.step = 1;
      if (const auto& bytes = w.at(0, section::quantizer); !bytes.empty()) std::memcpy(&out.step, bytes.data(), 4);
      out.values = s.finest;
    } while (in.make_exact(beyond));
  }

  const profile* p_;
  kv_view v_;
  forward_tokens t_;
  detail::model_ropes ropes_;
  profile_basis::encoder transform_;
  embedded<>::encoder quantizer_;
};

/// What a device made of requests.
struct forward_device {
  cuda::encode_state state;
  std::vector<std::byte> memory;

  template <class T>
  const T* at(std::uint64_t offset) const {
    return reinterpret_cast<const T*>(memory.data() + offset);
  }
  const cuda::open_encode& request(std::size_t i) const {
    return at<cuda::open_encode>(
        std::uint64_t(reinterpret_cast<const std::byte*>(state.requests) - state.workspace))[i];
  }
  const cuda::encode_strand& strand(std::int64_t i) const {
    return at<cuda::encode_strand>(
        std::uint64_t(reinterpret_cast<const std::byte*>(state.strands) - state.workspace))[i];
  }
};

inline std::vector<std::byte> image_for_encodes(const profile& p, bool elements = false) {
  std::vector<std::byte> image;
  const auto take = [&](const auto& m) {
    REQUIRE(m.state() == status::ok);
    image.assign(m.image().begin(), m.image().end());
  };
  if (elements)
    take(cuda::model<codec::uncompressed>(p));
  else
    take(cuda::model<codec::standard>(p));
  if (!elements) REQUIRE(cuda::add_forward(p, image) == status::ok);
  return image;
}

inline forward_device run_forward(const std::vector<std::byte>& image, std::span<const cuda::encode_request> requests,
                                  int tile_tokens, bool elements = false) {
  const cuda::model_head head = cuda::head_of(image.data());
  const device_buffer<std::byte> there(image);
  device_buffer<std::byte> workspace(cuda::room_for(head, requests, tile_tokens, elements).size());
  forward_device out;
  out.state = cuda::place_encode(head, requests, tile_tokens, head.passes, elements, there.data(), workspace.data());
  REQUIRE(cuda::open_encodes(out.state, head, requests, elements, nullptr) == status::ok);
  if (elements) {
    REQUIRE(cuda::gather_elements(out.state, nullptr) == status::ok);
  } else {
    REQUIRE(cuda::allow_forward(head, tile_tokens) == status::ok);
    REQUIRE(cuda::forward(out.state, head, nullptr) == status::ok);
  }
  REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
  out.memory = workspace.download();
  return out;
}

/// How integers of a device and a host compare.
struct forward_difference {
  std::int64_t values = 0, different = 0, worst = 0, strands = 0, exact = 0;
  double farthest = 0;  // from the middle between two integers, of a sum whose integers differ
  void print(const std::string& what) const {
    MESSAGE(what, ": ", values, " integers of ", strands, " strands, ", exact, " rows exact; ", different,
            " differ, by at most ", worst, ", where sums lie within ", farthest, " of a middle");
  }
};

inline void compare_strand(forward_host& host, const kv_view& v, const forward_device& d, const cuda::encode_strand& s,
                           const cuda::group_model& g, int group, forward_difference& out) {
  const plane which = g.plane ? plane::value : plane::key;
  const forward_strand want = host.strand(s.slot, which, group, s.tile);
  REQUIRE(int(s.count) == want.count);
  REQUIRE(int(s.rows) + int(s.exact) == want.count);
  CHECK(s.type == v[which].type);
  if (want.count > 0) CHECK(int(s.first) == want.first);
  const auto* coded = d.at<std::uint16_t>(s.coded_at);
  const auto* exact = d.at<std::uint16_t>(s.exact_at);
  REQUIRE(std::vector<std::uint16_t>(coded, coded + s.rows) == want.coded);
  REQUIRE(std::vector<std::uint16_t>(exact, exact + s.exact) == want.exact);
  CHECK(s.calibrated == want.calibrated);
  if (!want.calibrated && s.rows > 0) {
    CHECK(std::fabs(s.step / want.step - 1) < 1e-6f);
    const auto* mean = d.at<std::uint16_t>(s.mean_at);
    // Angles of a device and of a host differ by a rounding, which a mean may lie upon.
    int differ = 0;
    for (int i = 0; i < g.ld; ++i) {
      const int of_host = i < g.width ? want.mean[std::size_t(i)] : 0;
      REQUIRE(std::abs(mean[i] - of_host) <= (which == plane::key && i < g.width));
      differ += mean[i] != of_host;
    }
    CHECK(differ <= 1 + g.width / 100);
  }
  const auto* values = d.at<std::int16_t>(s.values_at);
  const int layer = g.layer;
  ++out.strands;
  out.exact += s.exact;
  for (int r = 0; r < s.rows; ++r)
    for (int i = 0; i < g.ld; ++i) {
      const int have = values[r * g.ld + i];
      if (i >= g.width) {
        REQUIRE(have == 0);
        continue;
      }
      const int wanted = want.values[std::size_t(r * g.ld + i)];
      ++out.values;
      if (have == wanted) continue;
      ++out.different;
      out.worst = std::max<std::int64_t>(out.worst, std::abs(have - wanted));
      if (!want.calibrated) continue;
      const double y = host.sum(layer, which, group, want, r, i);
      out.farthest = std::max(out.farthest, std::fabs(y - std::floor(y) - 0.5));
    }
}

/// All strands of one request, which shows all it has.
inline void compare_request(const profile& p, const std::vector<std::byte>& image, const kv_view& v,
                            const forward_tokens& t, const forward_device& d, std::size_t request,
                            forward_difference& out) {
  const cuda::open_encode& r = d.request(request);
  REQUIRE(r.state == status::ok);
  const cuda::model_head& head = cuda::head_of(image.data());
  CHECK(r.token_tiles == (t.count + t.tile_tokens - 1) / t.tile_tokens);
  CHECK(r.strands == r.token_tiles * head.strands);
  forward_host host(p, v, t);
  for (std::int32_t k = 0; k < r.strands; ++k) {
    const cuda::encode_strand& s = d.strand(r.first_strand + k);
    REQUIRE(s.request == std::int32_t(request));
    REQUIRE(s.group == k % head.strands);
    REQUIRE(s.tile == k / head.strands);
    if (s.state == status::absent) {
      CHECK(s.count == 0);
      continue;
    }
    REQUIRE(s.state == status::ok);
    const cuda::group_model& g = cuda::group_of(image.data(), s.group);
    compare_strand(host, v, d, s, g, s.group - cuda::plane_of(image.data(), g.layer, g.plane).first_group, out);
  }
}

inline cuda::encode_request request_of(const kv_view& there, const forward_tokens& t) {
  cuda::encode_request r;
  r.cache = there;
  r.position = t.position;
  r.tokens = t.count;
  r.exact_before = t.exact_before;
  r.exact_from = t.exact_from;
  return r;
}

/// Runs one view and compares all of it.
inline forward_difference compare_forward(const profile& p, const kv_view& v, const forward_tokens& t) {
  const std::vector<std::byte> image = image_for_encodes(p);
  const device_cache there(v);
  const std::vector<cuda::encode_request> requests{request_of(there.view(), t)};
  const forward_device d = run_forward(image, requests, t.tile_tokens);
  forward_difference out;
  compare_request(p, image, v, t, d, 0, out);
  return out;
}

inline void check_close(const forward_difference& d, double most = 1e-3, bool any = true) {
  if (any) CHECK(d.values > 0);
  CHECK(d.worst <= 1);
  CHECK(double(d.different) <= most * double(d.values) + 2);
  CHECK(d.farthest < 1e-2);
}

/// The real capture by its real profile: some layers, or all.
inline void forward_of_capture(std::span<const std::int32_t> layers) {
  const captures::memory m = captures::load(captures::sample);
  const profile p = captures::known();
  kv_view v = m.view;
  std::vector<std::byte*> bases[2];
  std::vector<std::int32_t> ids(layers.begin(), layers.end());
  for (const plane which : caches::planes)
    for (const std::int32_t l : ids) bases[int(which)].push_back(v.layer_base(v[which], l));
  v.k.layer_bases = bases[0].data(), v.v.layer_bases = bases[1].data();
  v.num_layers = std::int32_t(ids.size());
  v.layer_ids = ids.data();
  const forward_tokens t{v.position, v.tokens, 256, p.sinks};
  const forward_difference d = compare_forward(p, v, t);
  d.print("capture");
  check_close(d);
}

/// Models, layouts and types that real ones have or might; the profile's random bases are orthogonal, its steps fine.
inline void forward_of_made_up_models(unsigned seed) {
  INFO("seed ", seed);
  std::mt19937 random(seed);
  const dtype types[] = {dtype::f32, dtype::f16, dtype::bf16, dtype::e4m3, dtype::e5m2};
  struct kind {
    int heads, k, v, heads_per_basis;
    rope r;
  };
  const kind kinds[] = {
      {3, 32, 32, 0, {}},
      {2, 80, 64, 1, {.pairing = rope_pairing::interleaved, .rotary_dims = 64}},
      {5, 24, 40, 2, {.rotary_dims = 16}},
      {1, 12, 20, 0, {.pairing = rope_pairing::interleaved}},  // no whole chunks
      {2, 36, 36, 0, {.rotary_dims = 12}},                     // pairs not in fours
      {4, 16, 0, 4, {.pairing = rope_pairing::none}},          // no V
      {2,
       128,
       128,
       0,
       {.scaling = rope_scaling::yarn,
        .factor = 4,
        .low_freq = 1,
        .high_freq = 32,
        .original_context = 128,
        .attention_factor = 1.2}},
  };
  forward_difference all;
  int at = 0;
  for (const caches::engine how : caches::engines) {
    const kind& k = kinds[std::size_t(at) % std::size(kinds)];
    const dtype type = types[std::size_t(at) % std::size(types)];
    ++at;
    const model_shape shape{{{k.heads, k.k, k.v}, {k.heads, k.k, k.v}}, {k.r}};
    const std::int64_t tokens = 20 + random() % 80, position = random() % 3 ? random() % 5000 : 0;
    const caches::cache c = caches::make_cache(shape, tokens, type, how, position, random());
    caches::fill(c.view(), shape, random());
    const profile p = caches::make_profile(shape, {&c.view(), 1}, k.heads_per_basis, 4, 4, 8, random());
    CAPTURE(int(how));
    CAPTURE(int(type));
    const forward_difference d = compare_forward(p, c.view(), {position, tokens, 32, p.sinks});
    check_close(d);
    all.values += d.values, all.different += d.different, all.strands += d.strands, all.exact += d.exact;
    all.worst = std::max(all.worst, d.worst), all.farthest = std::max(all.farthest, d.farthest);
  }
  all.print("made-up models");
}

/// A view that begins and ends inside of tiles of a longer frame, some of which it shows nothing of; recent tokens exact.
inline void forward_of_a_part(unsigned seed) {
  INFO("seed ", seed);
  std::mt19937 random(seed);
  const model_shape shape = model_shape::uniform(2, 2, 32);
  const caches::cache c = caches::make_cache(shape, 150, dtype::bf16, caches::engine::vllm_nhd, 1000, random());
  caches::fill(c.view(), shape, random());
  const profile p = caches::make_profile(shape, {&c.view(), 1}, 0, 4, 4, 4, random());
  for (const auto& [begin, end] : {std::pair{40, 105}, std::pair{0, 150}, std::pair{149, 150}, std::pair{70, 75}}) {
    const kv_view v = c.view().slice(begin, end);
    const forward_difference d = compare_forward(p, v, {980, 200, 48, 0, 1000 + end - 2});
    CHECK(d.exact > 0);
    check_close(d, 1e-3, end - begin > 2);
  }
}

/// Rows with a NaN or an infinity, in any head; rows that leave the range of the integers; none left.
inline void forward_of_exact_rows(unsigned seed) {
  INFO("seed ", seed);
  std::mt19937 random(seed);
  const dtype types[] = {dtype::e4m3, dtype::f32, dtype::f16, dtype::bf16, dtype::e5m2};
  int at = 0;
  for (const bool calibrated : {true, false})
    for (const int heads_per_basis : {0, 1, 2})
      for (int again = 0; again < 2; ++again) {
        const dtype type = types[std::size_t(at++) % std::size(types)];
        // Of one row that is left, what differs from its mean in f16 is no larger than what angles are rounded by: what is
        // measured of it is a host's only where nothing turns.
        const model_shape shape{{{3, 40, 40}}, {{.pairing = calibrated ? rope_pairing::half : rope_pairing::none}}};
        const caches::cache c = caches::make_cache(shape, 70, type, caches::engine::vllm_hnd, 3, random());
        caches::fill(c.view(), shape, random());
        // Of a profile with 6 passes the finest step is small enough for a row to leave the range without one.
        const profile p = calibrated ? caches::make_profile(shape, {&c.view(), 1}, heads_per_basis, 4, 4, 8, random())
                                     : profile::uncalibrated(shape, 6);
        const float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
        for (int i = 0; i < 12; ++i) {
          const plane which = random() % 2 ? plane::key : plane::value;
          const float x = i % 3 == 0 ? nan : i % 3 == 1 ? (random() % 2 ? infinity : -infinity) : 3e4f;
          caches::set(c.view(), which, 0, random() % 70, int(random() % 3), int(random() % 40), x);
        }
        if (type == dtype::f32) caches::set(c.view(), plane::value, 0, 9, 1, 7, 3e38f);
        CAPTURE(int(type));
        CAPTURE(calibrated);
        const forward_difference d = compare_forward(p, c.view(), {3, 70, 32, p.sinks});
        CHECK(d.exact > 0);
        check_close(d);
        caches::fill_with_noise(c.view(), random());
        check_close(compare_forward(p, c.view(), {3, 70, 32, p.sinks}), 1e-3, type == dtype::e4m3);
        for (int t = 0; t < 70; ++t)
          for (const plane which : caches::planes) caches::set(c.view(), which, 0, t, t % 3, t % 40, nan);
        CHECK(compare_forward(p, c.view(), {3, 70, 32, p.sinks}).values == 0);
      }
}

/// Groups that a profile knows nothing of, of tiles that fit into shared memory and that do not; rows that leave the range
/// as they are taken away, one after the other.
inline void forward_without_a_profile(unsigned seed) {
  INFO("seed ", seed);
  std::mt19937 random(seed);
  forward_difference all;
  const auto run = [&](const model_shape& shape, int tokens, int tile_tokens, int passes, dtype type, int outliers) {
    const caches::cache c = caches::make_cache(shape, tokens, type, caches::engine::sglang, 17, random());
    caches::fill(c.view(), shape, random());
    for (int i = 0; i < outliers; ++i)
      for (const plane which : caches::planes)
        caches::set(c.view(), which, 0, 5 + 3 * i, 0, 1 + i, std::pow(2000.f, float(i + 1)));
    const profile p = profile::uncalibrated(shape, passes);
    const forward_difference d = compare_forward(p, c.view(), {17, tokens, tile_tokens, p.sinks});
    CHECK(d.values > 0);
    CHECK(d.worst <= 1);
    CHECK(d.different * 1000 <= d.values);
    all.values += d.values, all.different += d.different, all.strands += d.strands, all.exact += d.exact;
  };
  run(model_shape::uniform(1, 2, 64), 100, 64, 4, dtype::bf16, 0);
  run(model_shape::uniform(2, 3, 24), 70, 32, 6, dtype::f16, 0);
  run(model_shape::uniform(1, 1, 256), 300, 256, 4, dtype::e4m3, 0);
  run({{{1, 40, 1024}}, {}}, 60, 48, 2, dtype::f16, 0);
  run({{{1, 1024, 512}}, {}}, 190, 192, 6, dtype::f32, 9);
  all.print("uncalibrated");
}

/// A wide group, whose rows come a few at a time and whose channels a lane at a time has not in registers.
inline void forward_of_a_wide_group(int width, unsigned seed) {
  INFO("seed ", seed);
  const model_shape shape{{{4, 16, width / 4}}, {{}}};
  const caches::cache c = caches::make_cache(shape, 70, dtype::f16, caches::engine::dense, 0, seed);
  caches::fill(c.view(), shape, seed);
  const profile p = caches::make_profile(shape, {&c.view(), 1}, 4, 4, 4, 4, seed);
  REQUIRE(p.of(0, plane::value).group_width == width);
  const forward_difference d = compare_forward(p, c.view(), {0, 70, 80, p.sinks});
  d.print("wide group");
  check_close(d);
}

/// Elements as they stand.
inline void elements_of_any_type(unsigned seed) {
  INFO("seed ", seed);
  std::mt19937 random(seed);
  const dtype types[] = {dtype::f32, dtype::f16, dtype::bf16, dtype::e4m3, dtype::e5m2, dtype::bytes};
  int at = 0;
  for (const caches::engine how : caches::engines)
    for (const int dim : {20, 32, 3}) {
      const dtype type = types[std::size_t(at++) % std::size(types)];
      const model_shape shape{{{3, dim, dim}, {3, dim, dim}}, {{.pairing = rope_pairing::none}}};
      const caches::cache c = caches::make_cache(shape, 50, type, how, 5, random());
      caches::fill_with_noise(c.view(), random());
      const profile p = profile::uncalibrated(shape);
      const std::vector<std::byte> image = image_for_encodes(p, true);
      const device_cache there(c.view());
      const forward_tokens t{5, 50, 32, 8, 53};
      const std::vector<cuda::encode_request> requests{request_of(there.view(), t)};
      const forward_device d = run_forward(image, requests, t.tile_tokens, true);
      REQUIRE(d.request(0).state == status::ok);
      for (std::int32_t k = 0; k < d.state.num_strands; ++k) {
        const cuda::encode_strand& s = d.strand(k);
        const cuda::group_model& g = cuda::group_of(image.data(), s.group);
        const plane which = g.plane ? plane::value : plane::key;
        REQUIRE(s.state == status::ok);
        CHECK(int(s.exact) == (s.tile ? 2 : 3));
        const auto* coded = d.at<std::uint16_t>(s.coded_at);
        const std::byte* have = d.at<std::byte>(s.values_at);
        bool same = true;
        for (int r = 0; r < s.rows; ++r)
          for (int h = 0; h < g.heads; ++h)
            for (int e = 0; e < dim; ++e, have += size_of(type))
              same = same && std::memcmp(have, c.view().at(which, s.slot, s.tile * 32 + coded[r], g.first_head + h, e),
                                         std::size_t(size_of(type))) == 0;
        CHECK(same);
      }
    }
}

/// Views that are refused, alone and among others, as encoder::encode refuses them; others of the launch are not touched.
inline void forward_refusals() {
  const model_shape shape = model_shape::uniform(3, 2, 16);
  const caches::cache c = caches::make_cache(shape, 40, dtype::f16, caches::engine::vllm_nhd, 0, 3);
  caches::fill(c.view(), shape, 4);
  const profile p = caches::make_profile(shape, {&c.view(), 1}, 0, 4, 4, 4, 5);
  const std::vector<std::byte> image = image_for_encodes(p);
  const forward_tokens t{0, 40, 32, p.sinks};
  std::vector<kv_view> views;
  std::vector<std::vector<std::int32_t>> tables;
  const auto add = [&](auto change) {
    kv_view v = c.view();
    change(v);
    views.push_back(v);
  };
  const auto table = [&](std::int32_t entry, std::int32_t value) {
    add([&](kv_view& v) {
      tables.emplace_back(v.indices, v.indices + v.num_indices)[std::size_t(entry)] = value;
      v.indices = tables.back().data();
    });
  };
  const auto layers = [&](std::vector<std::int32_t> ids) {
    add([&](kv_view& v) { v.layer_ids = tables.emplace_back(std::move(ids)).data(); });
  };
  tables.reserve(16);
  table(1, -1), table(2, std::int32_t(c.view().capacity)), table(0, INT32_MIN);
  layers({0, 1, 3}), layers({0, 1, 1}), layers({0, -1, 2}), layers({2, 0, 1}), layers({0, 1, INT32_MAX});
  add([](kv_view& v) { v.num_layers = 0; });
  add([](kv_view& v) { v.tokens = 0; });
  add([](kv_view& v) { v.position = -1; });
  add([](kv_view& v) { v.position = INT64_MAX - 40; });
  add([](kv_view& v) { v.num_kv_heads = 1; });
  add([](kv_view& v) { v.k.head_dim = 12; });
  add([](kv_view& v) { v.v = {}; });
  add([](kv_view& v) { v.v.type = dtype::bytes; });
  add([](kv_view& v) { v.num_indices = 1; });
  add([](kv_view&) {});

  std::vector<device_cache> there;
  std::vector<cuda::encode_request> requests;
  for (const kv_view& v : views) there.emplace_back(v);
  for (const device_cache& x : there) {
    cuda::encode_request r;
    r.cache = x.view();
    r.exact_before = t.exact_before;
    requests.push_back(r);
  }
  const forward_device d = run_forward(image, requests, t.tile_tokens);
  int sound = 0;
  encoder<codec::standard> host(p);
  std::vector<std::byte> out(host.max_size(c.view()));
  for (std::size_t i = 0; i < views.size(); ++i) {
    CAPTURE(i);
    const result<std::size_t> want = host.encode(views[i], out);
    CHECK(d.request(i).state == want.status());
    if (!want) continue;
    ++sound;
    forward_difference difference;
    compare_request(p, image, views[i], t, d, i, difference);
    check_close(difference);
  }
  CHECK(sound == 2);
}

/// The halves of a packed matrix stand for its numbers, whatever these are.
inline void packed_matrices(unsigned seed) {
  INFO("seed ", seed);
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  for (const int width : {1, 8, 24, 32, 33, 80, 192}) {
    const int ld = cuda::forward_ld(width);
    std::vector<float> m(std::size_t(width) * std::size_t(width));
    for (int k = 0; k < width; ++k)
      for (int c = 0; c < width; ++c)
        m[std::size_t(k * width + c)] = c % 7 == 6 ? 0
                                                   : std::ldexp(normal(random), c % 5 == 0   ? -140
                                                                                : c % 5 == 1 ? 120
                                                                                             : c % 3);
    std::vector<std::byte> packed(cuda::forward_bytes(width) + 16, std::byte{0xa5});
    cuda::pack_forward(m.data(), width, packed.data());
    for (int i = 0; i < 16; ++i) REQUIRE(packed[packed.size() - 16 + std::size_t(i)] == std::byte{0xa5});
    // Thread `lane` holds rows 2 * (lane % 4) + {0, 1, 8, 9} of column lane / 4 of each product, which is channel
    // 8 * (lane / 8) + 2 * product + lane / 4 % 2 of the panel.
    bool close = true;
    for (int panel = 0; panel < ld / 32; ++panel)
      for (int step = 0; step < ld / 16; ++step)
        for (int lane = 0; lane < 32; ++lane)
          for (int product = 0; product < 4; ++product)
            for (int i = 0; i < 4; ++i) {
              const int k = 16 * step + lane % 4 * 2 + i % 2 + i / 2 * 8;
              const int column = 32 * panel + lane / 8 * 8 + 2 * product + lane / 4 % 2;
              float back = 0;
              f16 hi{}, lo{};
              std::memcpy(&back, packed.data() + 4 * column, 4);
              const std::size_t half = std::size_t(product % 2 * 4 + i) * 2;
              std::memcpy(&hi, packed.data() + cuda::forward_part(ld, panel, step, product / 2, lane) + half, 2);
              std::memcpy(&lo, packed.data() + cuda::forward_part(ld, panel, step, 2 + product / 2, lane) + half, 2);
              const double have = (double(to_float(hi)) + double(to_float(lo))) * double(back);
              const bool inside = k < width && column < width;
              const double want = inside ? double(m[std::size_t(k * width + column)]) : 0;
              double most = 0;
              for (int j = 0; inside && j < width; ++j)
                most = std::max(most, std::fabs(double(m[std::size_t(j * width + column)])));
              close = close && std::fabs(have - want) <= std::max(std::fabs(want) * 0x1p-22, most * 0x1p-38);
            }
    CHECK(close);
  }
}

}  // namespace cuda_checks
