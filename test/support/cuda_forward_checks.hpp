// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/codec.hpp>
#include <sluice/codec/preset/exact.hpp>
#include <sluice/cuda/encode_open.cuh>
#include <sluice/cuda/forward.hpp>
#include <sluice/cuda/image.hpp>
#include <sluice/cuda/measure.cuh>
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
    const detail::row_layout at{offsets.data(), pl.head_stride, pl.element_stride, 0, l.num_kv_heads, dim, pl.type, false};
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
    for (std::size_t i = 0; i < 2 * std::size_t(layer) + std::size_t(which); ++i) at += std::size_t(p_->planes[i].groups());
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
    return at<cuda::open_encode>(std::uint64_t(reinterpret_cast<const std::byte*>(state.requests) - state.workspace))[i];
  }
  const cuda::encode_strand& strand(std::int64_t i) const {
    return at<cuda::encode_strand>(std::uint64_t(reinterpret_cast<const std::byte*>(state.strands) - state.workspace))[i];
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
  void print(const char* what) const {
    MESSAGE(what, ": ", values, " integers of ", strands, " strands, ", exact, " rows exact; ", different,
            " differ, by at most ", worst, ", where sums lie within ", farthest, " of a middle");
  }
};

inline void compare_strand(const profile& p, forward_host& host, const kv_view& v, const forward_device& d,
                           const cuda::encode_strand& s, const cuda::group_model& g, int group,
                           forward_difference& out) {
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
    CHECK(std::vector<std::uint16_t>(mean, mean + g.width) == want.mean);
    for (int i = g.width; i < g.ld; ++i) REQUIRE(mean[i] == 0);
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
  (void)p;
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
    compare_strand(p, host, v, d, s, g, s.group - cuda::plane_of(image.data(), g.layer, g.plane).first_group, out);
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

inline void check_close(const forward_difference& d, double most = 1e-3) {
  CHECK(d.values > 0);
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

}  // namespace cuda_checks
