// SPDX-License-Identifier: Apache-2.0
#pragma once

// The store stage of a decode against the CPU's: strands whose integers the CPU has decoded, or made-up ones, into pages
// of either. For the emulator, whose headers then stand before the library's, and for a GPU.
#include <sluice/cuda/stages.cuh>
#include <sluice/cuda/store/elements.cuh>
#include <sluice/cuda/store/store.cuh>

#include <sluice/codec/codec.hpp>
#include <sluice/codec/decoder.hpp>
#include <sluice/codec/encoder.hpp>
#include <sluice/tensor/model_ropes.hpp>
#include <sluice/tensor/rows.hpp>

#include <sluice/tensor/layouts.hpp>

#include <doctest/doctest.h>
#include <support/caches.hpp>
#include <support/device.hpp>
#include <support/real_cache.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

namespace cuda_store_checks {

using namespace sluice;
using bytes = std::vector<std::byte>;

template <class T>
std::uint64_t append(bytes& to, const T* p, std::size_t n, std::size_t alignment) {
  to.resize((to.size() + alignment - 1) / alignment * alignment);
  const std::size_t at = to.size();
  to.resize(at + n * sizeof(T));
  if (n) std::memcpy(to.data() + at, p, n * sizeof(T));
  return at;
}

/// What the store stage reads of the image of a model.
inline bytes image_of(const profile& p, value_domain domain) {
  bytes out(sizeof(cuda::model_head));
  cuda::model_head head{};
  head.layers = p.shape.num_layers();
  head.depth = head.passes = p.passes;
  head.domain = int(domain);
  std::vector<cuda::plane_model> planes;
  std::vector<cuda::group_model> groups;
  std::vector<cuda::rope_model> ropes;
  for (int l = 0; l < head.layers; ++l)
    for (plane which : {plane::key, plane::value}) {
      const plane_profile& q = p.of(l, which);
      const layer_shape& s = p.shape.layers[std::size_t(l)];
      cuda::plane_model m{s.num_kv_heads, s.head_dim(which), q.group_width, q.groups(), int(groups.size()), -1, 0,
                          q.scale};
      cuda::column_plan columns{0, m.head_dim, 0, rope_pairing::none};
      if (which == plane::key && domain == value_domain::unrotated && !p.shape.ropes.empty()) {
        const rope& r = p.shape.ropes[std::size_t(s.rope_index)];
        if (const int dims = rotary_dims(r, m.head_dim); dims > 0) {
          std::vector<double> frequency(std::size_t(dims / 2));
          rope_frequencies(r, m.head_dim, frequency);
          const int before = ropes.empty() ? 0 : ropes.back().pairs_before + ropes.back().pairs;
          m.rope = int(ropes.size());  // one for each layer: a real image shares them
          ropes.push_back({int(r.pairing), dims / 2, before, m.head_dim,
                           append(out, frequency.data(), frequency.size(), 16), r.attention_factor});
          columns.pairs = dims / 2, columns.pairing = r.pairing;
        }
      }
      for (int g = 0; g < q.groups(); ++g) {
        const group_place place = place_of(p.shape, q.group_width, l, which, g);
        cuda::group_model n{};
        n.layer = l, n.plane = int(which), n.first_head = place.first_head, n.heads = place.heads;
        n.width = place.width(), n.ld = int(sluice::detail::padded(n.width));
        head.max_width = std::max(head.max_width, n.ld);
        columns.heads = n.heads;
        if (const std::uint16_t* matrix = q.matrix_of(g)) {
          bytes basis(cuda::basis_size(columns, n.ld)), runs(cuda::columns_size(columns));
          cuda::pack_basis(columns, matrix, &q.mean[std::size_t(g * q.group_width)], n.ld, basis.data());
          cuda::pack_columns(columns, runs.data());
          n.basis_at = append(out, basis.data(), basis.size(), 16);
          n.columns_at = append(out, runs.data(), runs.size(), 16);
          n.mean_at = n.basis_at;  // the store stage asks no more than whether it is there
        }
        groups.push_back(n);
      }
      planes.push_back(m);
    }
  head.ropes = int(ropes.size());
  head.rope_pairs = ropes.empty() ? 0 : ropes.back().pairs_before + ropes.back().pairs;
  head.strands = int(groups.size());
  head.planes_at = append(out, planes.data(), planes.size(), 16);
  head.groups_at = append(out, groups.data(), groups.size(), 16);
  head.ropes_at = append(out, ropes.data(), ropes.size(), 16);
  std::memcpy(out.data(), &head, sizeof head);
  return out;
}

/// One request and its strands, as the stages before leave them.
struct scene {
  const sluice::profile* profile = nullptr;
  value_domain domain = value_domain::unrotated;
  bytes frame = bytes(1);  // so that nothing in it is aligned
  bytes workspace;
  std::vector<cuda::strand> strands;
  cuda::open_request request{};

  cuda::piece put(const void* p, std::size_t n) {
    const cuda::piece at{frame.size(), std::uint32_t(n)};
    append(frame, static_cast<const std::byte*>(p), n, 1);
    return at;
  }
};

/// Cosines and sines of a scene's tokens.
inline void fill_ropes(scene& s) {
  std::vector<float> tables;
  for (int l = 0; l < s.profile->shape.num_layers() && s.domain == value_domain::unrotated; ++l) {
    const layer_shape& layer = s.profile->shape.layers[std::size_t(l)];
    if (s.profile->shape.ropes.empty()) continue;
    const rope& r = s.profile->shape.ropes[std::size_t(layer.rope_index)];
    std::vector<double> frequency(std::size_t(rotary_dims(r, layer.head_dim_k) / 2));
    rope_frequencies(r, layer.head_dim_k, frequency);
    for (std::uint32_t t = 0; t < s.request.asked.tokens; ++t)
      for (double f : frequency) {
        const double angle = double(s.request.position + t) * f;
        tables.push_back(float(std::cos(angle) * r.attention_factor));
        tables.push_back(float(std::sin(angle) * r.attention_factor));
      }
  }
  s.request.ropes_at = append(s.workspace, tables.data(), tables.size(), 16);
}

/// A view of the same memory elsewhere, with tables on the device.
struct moved_view {
  kv_view view;
  device_buffer<std::int32_t> indices;
  device_buffer<std::byte*> bases[2];

  moved_view(const kv_view& v, const std::byte* from, std::byte* to) : view(v) {
    if (v.mode != addressing::contiguous) {
      indices = device_buffer<std::int32_t>(std::span<const std::int32_t>(v.indices, std::size_t(v.num_indices)));
      view.indices = indices.data();
    }
    for (plane_view* p : {&view.k, &view.v}) {
      if (p->base) p->base = to + (p->base - from);
      if (!p->layer_bases) continue;
      std::vector<std::byte*> all(p->layer_bases, p->layer_bases + v.num_layers);
      for (std::byte*& b : all) b = to + (b - from);
      device_buffer<std::byte*>& table = bases[p == &view.v];
      table = device_buffer<std::byte*>(all);
      p->layer_bases = table.data();
    }
  }
};

/// Runs the kernels, `launch(state, plan)`; returns the memory that `view` is of, which began as `memory`.
template <class Launch>
bytes stored(const scene& s, const kv_view& view, const bytes& memory, Launch launch,
             std::size_t limit = cuda::max_shared) {
  const bytes image = image_of(*s.profile, s.domain);
  const device_buffer<std::byte> pages(memory), on_device(image), frame(s.frame), workspace(s.workspace);
  const moved_view moved(view, memory.data(), pages.data());
  cuda::open_request r = s.request;
  r.asked.cache = moved.view;
  r.asked.frame = frame.data();
  const device_buffer<cuda::open_request> requests(std::span<const cuda::open_request>(&r, 1));
  const device_buffer<cuda::strand> strands(s.strands);
  cuda::decode_state state{};
  state.image = on_device.data(), state.workspace = workspace.data();
  state.requests = requests.data(), state.num_requests = 1;
  state.strands = strands.data(), state.num_strands = int(s.strands.size());
  const cuda::store_plan plan = cuda::plan_store(cuda::head_of(image.data()).max_width, limit);
  REQUIRE(cuda::allow_store(plan) == status::ok);
  REQUIRE(launch(state, plan) == status::ok);
  REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
  return pages.download();
}
inline bytes stored(const scene& s, const kv_view& view, const bytes& memory, std::size_t limit = cuda::max_shared) {
  return stored(
      s, view, memory,
      [](const cuda::decode_state& d, const cuda::store_plan& plan) { return cuda::store_rows(d, plan, nullptr); },
      limit);
}

/// How far two memories of one view are apart.
struct difference {
  int far = 0;        ///< elements further apart than FORMAT.md section 1 allows
  int elements = 0;   ///< compared
  int others = 0;     ///< that are not the same bits
  int strangers = 0;  ///< bytes that are no element of the view and differ
};

/// Distance to the next number of a type.
inline double ulp(dtype type, double x) {
  const auto of = [x](int mantissa, int least) {
    return std::ldexp(1.0, std::max(x == 0 ? least : std::ilogb(x), least) - mantissa);
  };
  switch (type) {
    case dtype::f32: return 0;
    case dtype::f16: return 0;
    case dtype::bf16: return of(7, -126);
    case dtype::e4m3: return of(3, -6);
    default: return of(2, -14);
  }
}

/// Values may differ by one unit of f16 of max(|x|, rms of that token and head), and by one of their own type where
/// rounding falls to either side.
inline difference compare(const kv_view& view, const bytes& want, const bytes& got) {
  difference d;
  std::vector<char> element(want.size(), 0);
  for (plane p : {plane::key, plane::value})
    for (int l = 0; view[p].present() && l < view.num_layers; ++l)
      for (std::int64_t t = 0; t < view.tokens; ++t)
        for (int h = 0; h < view.num_kv_heads; ++h) {
          double square = 0;
          const dtype type = view[p].type;
          for (int pass = 0; pass < 2; ++pass)
            for (int e = 0; e < view[p].head_dim; ++e) {
              const std::byte* at = view.at(p, l, t, h, e);
              const std::size_t offset = std::size_t(at - want.data());
              const double a = double(load_element(at, type));
              if (pass == 0) {
                square += std::isfinite(a) ? a * a : 0;
                continue;
              }
              const double b = double(load_element(got.data() + offset, type));
              const bool same = std::memcmp(at, got.data() + offset, std::size_t(size_of(type))) == 0;
              std::memset(element.data() + offset, 1, std::size_t(size_of(type)));
              const double size = std::max(std::abs(a), std::sqrt(square / view[p].head_dim));
              const double one = std::ldexp(1.0, std::max(size > 0 ? std::ilogb(size) : -14, -14) - 10);
              ++d.elements;
              d.others += !same;
              d.far += !same && !(std::abs(a - b) <= std::max(one, ulp(type, a)) * 1.0001);
            }
        }
  for (std::size_t i = 0; i < want.size(); ++i) d.strangers += !element[i] && want[i] != got[i];
  return d;
}

/// Every value at most a rounding off, few of them, and nothing else touched.
inline void check(const kv_view& view, const bytes& want, const bytes& got) {
  const difference d = compare(view, want, got);
  CHECK(d.elements > 0);
  CHECK(d.far == 0);
  CHECK(d.strangers == 0);
  // A host that multiplies in integers is off by an eighth of a unit in the mean.
  if (view.k.type != dtype::f32)
    CHECK(d.others * (sluice::detail::multiplies_integers(isa::best) ? 8 : 20) <= d.elements);
}

/// The strands of a frame of codec::standard, their integers decoded on the CPU; `exact` gets where exact tokens stand.
struct exact_place {
  plane which;
  int layer, first_head, heads;
  std::int64_t token;  // of the frame
};
inline scene scene_of(const profile& p, const bytes& frame, const kv_view& view, int level, std::int64_t position,
                      std::vector<exact_place>* exact = nullptr) {
  scene s;
  s.profile = &p;
  s.frame = frame;
  frame_index index;
  REQUIRE(index.parse(frame) == status::ok);
  cuda::open_request& r = s.request;
  r.asked.tokens = index.header().tokens;
  r.asked.tile_tokens = index.header().tile_tokens;
  r.asked.size = frame.size();
  r.came_from = index.header().position;
  r.position = position < 0 ? r.came_from : position;
  r.level = std::min(level, index.header().levels_present - 1);
  fill_ropes(s);
  const auto piece_of = [&](std::span<const std::uint8_t> b) {
    const auto* first = reinterpret_cast<const std::uint8_t*>(frame.data());
    return b.empty() ? cuda::piece{} : cuda::piece{std::uint64_t(b.data() - first), std::uint32_t(b.size())};
  };
  sluice::detail::class_rans_decoder coder(p, isa::best);
  for (int tile = 0; tile < index.token_tiles(); ++tile) {
    int group = 0;
    for (int layer = 0; layer < p.shape.num_layers(); ++layer)
      for (plane which : {plane::key, plane::value})
        for (int g = 0; g < p.of(layer, which).groups(); ++g, ++group) {
          int slot = -1;
          for (int i = 0; i < view.num_layers; ++i)
            if (view.layer_id(i) == layer) slot = i;
          if (slot < 0) continue;
          const tile_key key{layer, which, tile, g};
          sluice::tile t;
          t.place = place_of(p.shape, p.of(layer, which).group_width, layer, which, g);
          t.type = index.type(layer, which);
          t.level = r.level;
          const auto base = tile_bytes(index, frame, index.ordinal(0, key));
          if (base->empty()) continue;
          REQUIRE(parse_tile(*base, index.tokens_of(tile), index.row_bytes(key), t.envelope) == status::ok);
          for (int pass = 1; pass <= t.level; ++pass)
            REQUIRE(parse_refinement(*tile_bytes(index, frame, index.ordinal(pass, key)), t.refinements[pass - 1]) ==
                    status::ok);
          decoded_symbols d;
          d.tile = &t;
          d.calibrated = !p.of(layer, which).mean.empty();
          d.passes = p.passes;
          d.ld = sluice::detail::padded(t.place.width());
          d.live = t.place.width();
          std::vector<std::int16_t> values(std::size_t(t.rows()) * std::size_t(d.ld), 0);
          d.values = values.data();
          cuda::strand n{};
          n.step = 1;
          if (const auto q = t.section(0, section::quantizer); !q.empty()) {
            d.calibrated = false;
            std::memcpy(&n.step, q.data(), 4);
          }
          if (t.rows()) coder.decode({&d, 1});
          REQUIRE(d.state == status::ok);
          n.state = n.opened = status::ok;
          n.group = group, n.tile = tile, n.slot = slot, n.level = t.level;
          n.type[0] = std::uint8_t(t.type);
          n.first = std::uint16_t(t.envelope.first), n.count = std::uint16_t(t.envelope.count);
          n.exact = std::uint16_t(t.envelope.exact);
          n.exact_index = piece_of(t.envelope.exact_index);
          n.exact_rows = piece_of(t.envelope.exact_rows);
          n.transform = piece_of(t.section(0, section::transform));
          for (int pass = 0; pass <= t.level; ++pass) {
            class_section c;
            REQUIRE(c.parse(t.section(pass, section::entropy), pass, t.rows(), t.place.width()));
            n.exceptions[pass] = piece_of(c.exceptions);
          }
          n.live = d.live;
          n.scale = n.step * float(sluice::detail::power_of_3(p.passes - 1 - t.level));
          n.values_at = append(s.workspace, values.data(), values.size(), 16);
          s.strands.push_back(n);
          for (int i = 0; exact && i < t.envelope.exact; ++i)
            exact->push_back({which, layer, t.place.first_head, t.place.heads,
                              tile * std::int64_t{index.header().tile_tokens} + n.first + t.envelope.exact_token(i)});
        }
  }
  return s;
}

inline bytes encoded(const profile& p, const kv_view& view) {
  encoder<> e(p);
  bytes frame(e.max_size(view));
  const auto n = e.encode(view, frame);
  REQUIRE(n.has_value());
  frame.resize(*n);
  return frame;
}

/// A frame into the view of a memory, here and there. Exact tokens that stay what and where they are must be equal.
inline void against_decoder(const profile& p, const bytes& frame, const kv_view& view, bytes& memory, int level,
                            std::int64_t position = -1, std::size_t limit = cuda::max_shared) {
  std::vector<exact_place> exact;
  const scene s = scene_of(p, frame, view, level, position, &exact);
  const bytes got = stored(s, view, memory, limit);
  decoder<> d(p);
  const page_status said = d.decode(frame, view, {.level = level, .position = position});
  REQUIRE((said.worst == status::ok || said.worst == status::absent));
  check(view, memory, got);
  int wrong = 0, seen = 0;
  for (const exact_place& e : exact) {
    const std::int64_t token = s.request.position + e.token - view.position;
    if (token < 0 || token >= view.tokens) continue;
    if (e.which == plane::key && s.request.position != s.request.came_from) continue;
    for (int i = 0; i < view.num_layers; ++i)
      if (view.layer_id(i) == e.layer)
        for (int h = e.first_head; h < e.first_head + e.heads; ++h)
          for (int c = 0; c < view[e.which].head_dim; ++c, ++seen) {
            const std::byte* at = view.at(e.which, i, token, h, c);
            wrong += std::memcmp(at, got.data() + (at - memory.data()), std::size_t(size_of(view[e.which].type))) != 0;
          }
  }
  CHECK(wrong == 0);
  CHECK((seen > 0 || exact.empty() || s.request.position != s.request.came_from || view.position > 0));
}

/// One layer of K and V whose bases, means and coefficients are noise, without a frame.
struct noise {
  int heads = 1, dim_k = 64, dim_v = 64, group_heads = 0;
  rope embedding{};
  int tokens = 40, sinks = 2, level = 3;
  int largest = 200;     ///< coefficient
  int exceptions = 0;    ///< a pass
  int live = INT32_MAX;  ///< coefficients that are not zero
  bool calibrated = true;
};

struct noisy {
  sluice::profile profile;
  scene s;
  noisy(const noise& n, std::mt19937& random) {
    model_shape shape = model_shape::uniform(1, n.heads, n.dim_k, n.embedding);
    shape.layers[0].head_dim_v = n.dim_v;
    profile = sluice::profile::uncalibrated(shape);
    std::normal_distribution<float> normal;
    s.profile = &profile;
    cuda::open_request& r = s.request;
    r.asked.tokens = std::uint32_t(n.tokens);
    r.position = r.came_from = 100;
    int group = 0;
    for (plane which : {plane::key, plane::value}) {
      plane_profile& q = profile.of(0, which);
      q.group_width = (n.group_heads ? n.group_heads : n.heads) * shape.layers[0].head_dim(which);
      if (!q.width) q.group_width = 0;
      q.scale = 0.01f;
      if (n.calibrated) {
        q.classes.assign(std::size_t(q.width), 1);
        for (int i = 0; i < q.width; ++i) q.mean.push_back(from_float<f16>(normal(random)).bits);
        for (std::size_t i = q.matrix_size(); i > 0; --i) q.matrix.push_back(from_float<f16>(normal(random)).bits);
      }
      for (int g = 0; g < q.groups(); ++g, ++group) {
        const int width = q.width_of(g), ld = int(sluice::detail::padded(width));
        cuda::strand t{};
        t.state = t.opened = status::ok;
        t.group = group, t.level = n.level;
        t.type[0] = std::uint8_t(dtype::f16);
        t.count = std::uint16_t(n.tokens), t.exact = std::uint16_t(n.sinks);
        std::vector<std::uint16_t> index;  // spread, the last token among them
        for (int i = 0; i < n.sinks; ++i) index.push_back(std::uint16_t((i + 1) * n.tokens / n.sinks - 1));
        std::vector<std::uint16_t> exact(std::size_t(n.sinks * width));
        for (auto& e : exact) e = from_float<f16>(normal(random)).bits;
        t.exact_index = s.put(index.data(), 2 * index.size());
        t.exact_rows = s.put(exact.data(), 2 * exact.size());
        t.live = std::min(n.live, width);
        t.step = 1;
        t.scale = 3;
        std::vector<std::int16_t> values(std::size_t(t.rows()) * std::size_t(ld), 0);
        for (int row = 0; row < t.rows(); ++row)
          for (int i = 0; i < t.live; ++i) {
            // The largest ones in some rows only: whole slabs are without.
            const int most = row % 20 < 2 ? n.largest : std::min(n.largest, row % 3 ? 500 : 2040);
            values[std::size_t(row * ld + i)] =
                std::int16_t(std::clamp(int(std::lround(normal(random) * float(most) / 2)), -most - 1, most));
          }
        t.values_at = append(s.workspace, values.data(), values.size(), 16);
        for (int pass = 0; pass <= n.level && n.exceptions; ++pass) {
          std::vector<exception> list(std::size_t(n.exceptions));
          for (exception& e : list)
            e = {std::uint16_t(random() % unsigned(t.rows())), std::uint16_t(random() % unsigned(width)),
                 int(random() % 2001) - 1000};
          t.exceptions[pass] = s.put(list.data(), list.size() * sizeof(exception));
        }
        if (!n.calibrated) {
          std::vector<std::uint16_t> mean;
          for (int i = 0; i < width; ++i) mean.push_back(from_float<f16>(normal(random)).bits);
          t.transform = s.put(mean.data(), 2 * mean.size());
        }
        s.strands.push_back(t);
      }
    }
    fill_ropes(s);
  }
  noisy(const noisy&) = delete;
};

/// The same by the functions that the CPU's decoder is made of.
inline void store_on_host(const scene& s, const kv_view& view, isa on = isa::portable) {
  sluice::detail::model_ropes ropes(s.profile->shape);
  ropes.fill(s.request.position, int(s.request.asked.tokens), false);
  const bytes image = image_of(*s.profile, s.domain);
  for (const cuda::strand& t : s.strands) {
    const cuda::group_model& g = cuda::group_of(image.data(), t.group);
    const plane which = plane(g.plane);
    const plane_profile& q = s.profile->of(g.layer, which);
    const plane_view& p = view[which];
    const int first_group = cuda::plane_of(image.data(), g.layer, g.plane).first_group;
    std::vector<sluice::detail::coefficient_correction> corrections;
    for (int pass = 0; pass <= t.level; ++pass)
      for (std::size_t i = 0; i < t.exceptions[pass].size / sizeof(exception); ++i) {
        exception e;
        std::memcpy(&e, s.frame.data() + t.exceptions[pass].at + i * sizeof e, sizeof e);
        corrections.push_back(
            {e.row, e.coefficient, float(e.correction) * float(sluice::detail::power_of_3(t.level - pass))});
      }
    std::vector<float> mean(std::size_t(g.width)), x(std::size_t(t.rows()) * std::size_t(g.ld));
    for (int i = 0; i < g.width; ++i) {
      f16 h{};
      if (q.mean.empty())
        std::memcpy(&h, s.frame.data() + t.transform.at + 2 * std::size_t(i), 2);
      else
        h.bits = q.mean[std::size_t((t.group - first_group) * q.group_width + i)];
      mean[std::size_t(i)] = to_float(h);
    }
    const auto* values = reinterpret_cast<const std::int16_t*>(s.workspace.data() + t.values_at);
    const float scale = q.scale * t.scale;
    if (const std::uint16_t* matrix = q.matrix_of(t.group - first_group)) {
      std::vector<float> workspace(sluice::detail::dense_workspace(t.rows(), g.width, g.width));
      sluice::detail::inverse_transform(on,
                                        {.c = values,
                                         .ldc = g.ld,
                                         .matrix = matrix,
                                         .mean = mean.data(),
                                         .scale = scale,
                                         .x = x.data(),
                                         .ldx = g.ld,
                                         .rows = t.rows(),
                                         .k = t.live,
                                         .n = g.width,
                                         .matrix_rows = g.width,
                                         .corrections = corrections.data(),
                                         .num_corrections = corrections.size()},
                                        workspace.data());
    } else {
      sluice::detail::dequantize_rows(on, values, g.ld, t.rows(), t.live, scale, mean.data(), g.width, x.data(), g.ld);
      for (const auto& e : corrections) x[std::size_t(e.row * g.ld + e.coefficient)] += scale * e.value;
    }
    int row = 0;
    for (int i = 0, e = 0; i < t.count; ++i) {
      std::uint16_t exact = 0xffff;
      if (e < t.exact) std::memcpy(&exact, s.frame.data() + t.exact_index.at + 2 * std::size_t(e), 2);
      const std::int64_t token = s.request.position + t.first + i - view.position;
      const bool inside = token >= 0 && token < view.tokens;
      const std::int64_t offset = inside ? view.token_offset(p, token) : 0;
      sluice::detail::row_layout at{&offset, p.head_stride, p.element_stride, g.first_head,
                                    g.heads, p.head_dim,    p.type,           true};
      std::byte* base = view.layer_base(p, t.slot);
      if (exact == i) {
        std::vector<float> stored(std::size_t(g.width));
        for (int c = 0; c < g.width; ++c)
          stored[std::size_t(c)] =
              load_element(s.frame.data() + t.exact_rows.at + 2 * std::size_t(e * g.width + c), dtype::f16);
        if (inside) sluice::detail::store_rows(on, stored.data(), g.width, 1, base, at);
        ++e;
        continue;
      }
      float* values_of_row = x.data() + std::size_t(row) * std::size_t(g.ld);
      if (which == plane::key) ropes.rotate(on, g.layer, values_of_row, g.ld, 1, g.heads, t.first + i);
      if (inside) sluice::detail::store_rows(on, values_of_row, g.ld, 1, base, at);
      ++row;
    }
  }
}

/// Made-up strands into a view of one layer.
inline void against_host(const noise& n, const kv_view& view, bytes& memory, std::mt19937& random,
                         std::size_t limit = cuda::max_shared) {
  const noisy made(n, random);
  const bytes got = stored(made.s, view, memory, limit);
  store_on_host(made.s, view);
  check(view, memory, got);
}

inline constexpr dtype types[] = {dtype::f16, dtype::bf16, dtype::f32, dtype::e4m3, dtype::e5m2};

/// A made-up layer in an engine's memory, some tokens of it: the view begins in the middle of the frame.
inline void in_engine(const noise& n, caches::engine how, dtype type, std::mt19937& random,
                      std::size_t limit = cuda::max_shared, std::int64_t before = 0) {
  layer_shape shape{n.heads, n.dim_k, n.dim_v, 0, 0};
  caches::cache c(shape, {0}, n.tokens - before, type, how, 100 + before, random());
  CAPTURE(n.heads);
  CAPTURE(n.dim_k);
  CAPTURE(n.dim_v);
  CAPTURE(int(n.embedding.pairing));
  CAPTURE(n.embedding.rotary_dims);
  CAPTURE(int(how));
  CAPTURE(int(type));
  against_host(n, c.view(), c.bytes(), random, limit);
}

/// Heads of many sizes, rotations of many kinds; types and engines take turns.
inline void head_sizes(unsigned seed) {
  std::mt19937 random(seed);
  struct {
    int heads, dim, rotary;
    rope_pairing pairing;
  } const cases[] = {{3, 64, 0, rope_pairing::half},         {1, 80, 0, rope_pairing::half},
                     {2, 96, 64, rope_pairing::half},        {1, 128, 0, rope_pairing::half},
                     {1, 192, 0, rope_pairing::interleaved}, {1, 256, 64, rope_pairing::interleaved},
                     {4, 32, 24, rope_pairing::interleaved}, {1, 576, 64, rope_pairing::half},
                     {2, 72, 0, rope_pairing::half},         {5, 10, 6, rope_pairing::half},
                     {3, 18, 10, rope_pairing::interleaved}, {2, 64, 0, rope_pairing::none},
                     {1, 32, 0, rope_pairing::half},         {7, 24, 0, rope_pairing::interleaved}};
  int turn = 0;
  for (const auto& c : cases) {
    noise n;
    n.heads = c.heads, n.dim_k = n.dim_v = c.dim;
    n.embedding.pairing = c.pairing, n.embedding.rotary_dims = c.rotary;
    n.embedding.attention_factor = turn % 2 ? 1.25 : 1;
    in_engine(n, caches::engines[std::size_t(turn) % std::size(caches::engines)], types[turn % 5], random);
    ++turn;
  }
}

/// Every layout by every type, with tokens that the view lacks.
inline void layouts_and_types(unsigned seed) {
  std::mt19937 random(seed);
  for (caches::engine how : caches::engines)
    for (dtype type : types) {
      noise n;
      n.heads = 2, n.dim_k = 16, n.dim_v = how == caches::engine::vllm_nhd ? 24 : 16;
      n.tokens = 37;
      in_engine(n, how, type, random, cuda::max_shared, 5);
    }
  // One buffer for all layers in vLLM's orders, and its buffer across layers.
  constexpr std::int32_t table[] = {2, 0, 3};
  for (int order = 0; order < 8; ++order) {
    noise n;
    n.heads = 3, n.dim_k = n.dim_v = 32, n.tokens = 44;
    bytes memory(3 * 4 * 16 * 3 * 64 * 2, std::byte{0xa5});
    const layouts::paged shape{3, 32, 32, 16, 4, dtype::bf16};
    kv_view v = order < 6
                    ? layouts::vllm_packed(memory.data(), 3, static_cast<layouts::vllm_order>(order), shape, table, 44)
                    : layouts::vllm_cross_layer(memory.data(), 3, shape, table, 44,
                                                order == 6 ? layouts::kv_layout::nhd : layouts::kv_layout::hnd);
    REQUIRE(validate(v) == status::ok);
    v.position = 100;
    v.num_layers = 1;  // of three that are there; the model has one
    against_host(n, v, memory, random);
  }
}

/// Widths from a block to the most that share a basis, in slabs that fit and that do not.
inline void widths(unsigned seed) {
  std::mt19937 random(seed);
  struct {
    int heads, dim;
    std::size_t limit;
  } const cases[] = {{1, 32, cuda::max_shared},       {1, 48, cuda::max_shared},      {3, 112, cuda::max_shared},
                     {4, 128, cuda::max_shared_sm80}, {4, 128, cuda::max_shared},     {1, 576, cuda::max_shared_sm80},
                     {6, 123, cuda::max_shared},      {8, 128, cuda::max_shared_sm80}};
  for (const auto& c : cases) {
    noise n;
    n.heads = c.heads, n.dim_k = c.dim, n.dim_v = c.dim == 128 ? 0 : 16;
    n.embedding.rotary_dims = c.dim & ~1;
    n.tokens = 20;
    n.largest = 32767;
    in_engine(n, caches::engine::vllm_nhd, dtype::bf16, random, c.limit);
  }
}

/// Integers that a half does not hold, coefficients that nobody sent, exceptions by the thousand.
inline void coefficients(unsigned seed) {
  std::mt19937 random(seed);
  for (bool calibrated : {true, false})
    for (int live : {0, 1, 33, 96})
      for (int exceptions : {0, 3, 2000}) {
        noise n;
        n.heads = 2, n.dim_k = 64, n.dim_v = 48, n.group_heads = calibrated ? 0 : 1;
        n.tokens = 150;
        n.largest = live == 96 ? 32767 : 3000;
        n.live = live;
        n.exceptions = exceptions;
        if (exceptions == 2000 && live < 96) continue;
        n.calibrated = calibrated;
        CAPTURE(calibrated);
        CAPTURE(live);
        CAPTURE(exceptions);
        in_engine(n, caches::engine::vllm_hnd, live == 1 ? dtype::f32 : dtype::f16, random);
      }
}

/// The real capture at every level, some layers of it; `all` of them at one.
inline void real_capture(bool all) {
  const real_cache real;
  const bytes frame = encoded(real.model, real.view);
  const std::vector<std::int32_t> some = {0, 14, 29};
  for (int level = 0; level < (all ? 1 : 4); ++level)
    for (std::int64_t position : {std::int64_t{-1}, std::int64_t{5000}}) {
      if (position >= 0 && level != 1) continue;
      const layer_shape& shape = real.model.shape.layers[0];
      caches::cache c(shape, all ? caches::all_layers(real.model.shape) : some, real.view.tokens,
                      level % 2 ? dtype::bf16 : dtype::f16, level % 2 ? caches::engine::sglang : caches::engine::packed,
                      position < 0 ? 0 : position);
      against_decoder(real.model, frame, c.view(), c.bytes(), level, position);
    }
}

/// Frames without calibration into views of every type: exact tokens are kept, converted, and turned on. One is no number.
inline void exact_tokens(unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  for (rope_pairing pairing : {rope_pairing::half, rope_pairing::interleaved}) {
    rope r;
    r.pairing = pairing, r.rotary_dims = 24, r.attention_factor = 1.5;
    const profile p = profile::uncalibrated(model_shape::uniform(2, 3, 40, r), 4, 3);
    for (dtype from : types) {
      caches::cache source = caches::make_cache(p.shape, 70, from, caches::engine::vllm_nhd, 10, random());
      caches::for_each_element(source.view(), [&](plane, int, std::int64_t t, int, int d, std::byte* at) {
        float x = normal(random) * (d % 7 == 0 ? 20.f : 1.f);
        if (t == 30) x *= from == dtype::bf16 || from == dtype::f32 ? 1e6f : 200.f;  // beyond most types
        if (t == 50 && d == 3) x = HUGE_VALF;
        store_element(at, from, x);
      });
      const bytes frame = encoded(p, source.view());
      for (dtype to : types)
        for (std::int64_t position : {std::int64_t{-1}, std::int64_t{777}}) {
          if (position >= 0 && (int(from) + int(to)) % 2) continue;
          CAPTURE(int(from));
          CAPTURE(int(to));
          CAPTURE(position);
          caches::cache c =
              caches::make_cache(p.shape, 70, to, position < 0 ? caches::engine::llama_cpp : caches::engine::hf,
                                 position < 0 ? 10 : position, random());
          against_decoder(p, frame, c.view(), c.bytes(), int(random() % 4), position);
        }
    }
  }
}

/// Rows of elements as they are, of any size, from the workspace and from the frame.
inline void elements(unsigned seed) {
  std::mt19937 random(seed);
  int turn = 0;
  for (dtype type : {dtype::bytes, dtype::f16, dtype::f32, dtype::e4m3})
    for (int dim : {34, 16, 64})
      for (caches::engine how : {caches::engine::vllm_nhd, caches::engine::llama_cpp, caches::engine::vllm_hnd}) {
        noise n;
        n.heads = 3, n.dim_k = n.dim_v = dim, n.tokens = 50, n.sinks = 0;
        n.embedding.pairing = rope_pairing::none;
        n.calibrated = false;
        noisy made(n, random);
        made.s.domain = value_domain::stored;
        caches::cache c({3, dim, dim, 0, 0}, {0}, n.tokens, type, how, 100, random());
        bytes& memory = c.bytes();
        bytes want = memory;
        const bool from_frame = turn++ % 2;
        for (cuda::strand& t : made.s.strands) {
          const plane which = plane(&t - made.s.strands.data());
          bytes rows;
          for (int row = 0; row < t.rows(); ++row)
            for (int h = 0; h < 3; ++h)
              for (int d = 0; d < dim; ++d)
                for (int b = 0; b < size_of(type); ++b) {
                  rows.push_back(std::byte(random() & 0xffu));
                  want[std::size_t(c.view().at(which, 0, row, h, d) - memory.data() + b)] = rows.back();
                }
          t.type[0] = std::uint8_t(type);
          t.values_at = append(made.s.workspace, rows.data(), rows.size(), 16);
          t.entropy[0] = made.s.put(rows.data(), rows.size());
        }
        const bytes got =
            stored(made.s, c.view(), memory, [from_frame](const cuda::decode_state& d, const cuda::store_plan&) {
              return from_frame ? cuda::store_elements<cuda::element_source::frame>(d, nullptr)
                                : cuda::store_elements<cuda::element_source::workspace>(d, nullptr);
            });
        CHECK(got == want);
      }
}

template <int = 0>
__global__ void open_transforms(const cuda::decode_state d, int* sound) {
  const cuda::strand& s = d.strands[blockIdx.x];
  const cuda::group_model& g = cuda::group_of(d.image, s.group);
  const auto* frame = reinterpret_cast<const std::uint8_t*>(d.requests[0].asked.frame);
  const bool good = cuda::transform_stage<profile_basis>::open(
      {&cuda::head_of(d.image), &cuda::plane_of(d.image, g.layer, g.plane), &g, frame, &s, threadIdx.x % 32});
  if (threadIdx.x == 0) sound[blockIdx.x] = good;
}

/// Sections of profile_basis that must be refused.
inline void transforms(unsigned seed) {
  std::mt19937 random(seed);
  for (bool calibrated : {false, true}) {
    noise n;
    n.calibrated = calibrated;
    n.dim_k = 80;
    noisy made(n, random);
    std::vector<std::uint16_t> mean(80, 0x3c00);
    std::vector<cuda::strand> all(6, made.s.strands[0]);
    all[0].transform = made.s.put(mean.data(), 160);
    all[1].transform = made.s.put(mean.data(), 158);
    all[2].transform = {};
    mean[79] = 0x7c00;
    all[3].transform = made.s.put(mean.data(), 160);
    all[4].exact = all[4].count;  // no rows
    all[4].transform = all[0].transform;
    all[5].exact = all[5].count;
    all[5].transform = {};
    made.s.strands = all;
    const device_buffer<int> sound(6);
    caches::cache c({1, 80, 64, 0, 0}, {0}, n.tokens, dtype::f16, caches::engine::dense, 100);
    stored(made.s, c.view(), c.bytes(), [&](const cuda::decode_state& d, const cuda::store_plan&) {
      return cuda::launch(open_transforms<>, 6, 32, 0, nullptr, d, sound.data());
    });
    CHECK(sound.download() == (calibrated ? std::vector<int>{0, 0, 1, 0, 0, 1} : std::vector<int>{1, 0, 0, 0, 0, 1}));
  }
}

/// What is not to be stored leaves all memory alone.
inline void nothing_to_store(unsigned seed) {
  std::mt19937 random(seed);
  noise n;
  noisy made(n, random);
  made.s.strands[0].state = status::corrupt_tile;
  made.s.strands[1].slot = -1;
  caches::cache c({1, 64, 64, 0, 0}, {0}, n.tokens, dtype::f16, caches::engine::dense, 100);
  CHECK(stored(made.s, c.view(), c.bytes()) == c.bytes());
}

/// Every channel of a group stands in one column, and the basis has its numbers there.
inline void columns() {
  for (int heads : {1, 3, 8})
    for (int dim : {1, 7, 8, 10, 16, 64, 72, 80, 576})
      for (int pairs = 0; pairs <= dim / 2; pairs += dim > 64 ? 9 : 1)
        for (rope_pairing pairing : {rope_pairing::none, rope_pairing::half, rope_pairing::interleaved}) {
          if ((pairing == rope_pairing::none) != (pairs == 0)) continue;
          const cuda::column_plan plan{heads, dim, pairs, pairing};
          std::vector<int> seen(std::size_t(plan.width()), 0);
          int wrong = 0;
          for (int i = 0; i < plan.size(); ++i) {
            const cuda::column_pair p = plan[i];
            for (const cuda::column_run& r : p.run)
              for (int e = 0; e < r.count; ++e) {
                ++seen[std::size_t(r.head * dim + r.dim + e)];
                wrong += r.dim + e >= dim;
                wrong += (r.dim + e < (pairing == rope_pairing::none ? 0 : 2 * pairs)) !=
                         (r.turn != cuda::column_turn::none);
                if (r.turn == cuda::column_turn::adjoining) wrong += (r.dim + e) / 2 != r.pair + e / 2;
              }
            if (p.run[0].turn == cuda::column_turn::halves)
              wrong += p.run[0].count != p.run[1].count || p.run[1].dim != p.run[0].dim + pairs ||
                       p.run[0].pair != p.run[0].dim || p.run[0].head != p.run[1].head;
          }
          for (int s : seen) wrong += s != 1;
          for (const cuda::column_run& r : plan[plan.size()].run) wrong += r.count != 0;
          CHECK(wrong == 0);
        }
  const cuda::column_plan plan{2, 20, 6, rope_pairing::half};
  std::vector<std::uint16_t> matrix, mean;
  for (int i = 0; i < 40; ++i) {
    mean.push_back(from_float<f16>(float(i)).bits);
    for (int k = 0; k < 40; ++k) matrix.push_back(std::uint16_t(i * 40 + k + 1));
  }
  bytes basis(cuda::basis_size(plan, 64));
  cuda::pack_basis(plan, matrix.data(), mean.data(), 64, basis.data());
  int found = 0, wrong = 0;
  for (int i = 0; i < plan.chunks() * cuda::chunk_pairs; ++i)
    for (int part = 0; part < 2; ++part)
      for (int e = 0; e < 8; ++e) {
        const cuda::column_run r = plan[i].run[part];
        const std::byte* chunk = basis.data() + std::size_t(i / 4) * cuda::chunk_bytes(64);
        float m;
        std::memcpy(&m, chunk + 64 * 128 + 4 * cuda::packed_mean(i % 4, part, e), 4);
        for (int k = 0; k < 64; ++k) {
          std::uint16_t h;
          std::memcpy(&h, chunk + 128 * k + 2 * cuda::packed_column(i % 4, part, e), 2);
          const int channel = r.head * 20 + r.dim + e;
          const bool here = e < r.count && k < 40;
          wrong += h != (here ? matrix[std::size_t(k * 40 + channel)] : 0);
          found += here;
          if (here) wrong += m != float(channel);
        }
      }
  CHECK(wrong == 0);
  CHECK(found == 40 * 40);
}

}  // namespace cuda_store_checks
