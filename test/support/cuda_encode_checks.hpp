// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/codec.hpp>
#include <sluice/codec/decoder.hpp>
#include <sluice/codec/encoder.hpp>
#include <sluice/cuda/encode/encode_tables.hpp>
#include <sluice/cuda/encode/make_frames.cuh>
#include <sluice/format/cut.hpp>

#include <doctest/doctest.h>
#include <support/caches.hpp>
#include <support/cuda_decode_checks.hpp>
#include <support/device.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <vector>

// Kernels that make frames of integers, against the encoder of a CPU that was given the same integers. The same for the
// emulator and for a GPU.

namespace cuda_encode_checks {

using namespace sluice;

/// What class_rans was given for a tile.
struct seen_tile {
  group_place place;
  int rows = 0;
  bool calibrated = false;
  std::vector<std::int16_t> finest;
  std::vector<std::uint8_t> transform, quantizer;
};
inline std::vector<seen_tile> seen;

/// class_rans that remembers in `seen` what it is given. Its frames are those of class_rans.
struct watched_class_rans : class_rans {
  class encoder {
   public:
    encoder(const profile& p, isa i) : real_(p, i) {}
    status encode(symbols& s, tile_writer& w) {
      seen.push_back(
          {s.place, s.rows, s.calibrated, s.finest, w.at(0, section::transform), w.at(0, section::quantizer)});
      return real_.encode(s, w);
    }

   private:
    class_rans::encoder real_;
  };
};
using watched = codec::standard::with_entropy<watched_class_rans>;

/// Bytes one behind the other, each piece at a multiple of 16.
struct pile {
  std::vector<std::byte> bytes = std::vector<std::byte>(16);
  template <class T>
  std::uint64_t put(std::span<const T> from) {
    const std::size_t at = bytes.size();
    bytes.resize((at + from.size_bytes() + 15) / 16 * 16);
    if (!from.empty()) std::memcpy(&bytes[at], from.data(), from.size_bytes());
    return at;
  }
  template <class T>
  std::uint64_t put(const std::vector<T>& from) {
    return put(std::span<const T>(from));
  }
};

/// What the kernels look up of a model.
template <class Codec>
std::vector<std::byte> image_of(const profile& p) {
  pile out;
  out.bytes.resize((sizeof(cuda::model_head) + 15) / 16 * 16);
  cuda::model_head head{};
  head.codec = Codec::id;
  head.fingerprint = fingerprint_of<Codec>(p);
  head.layers = p.shape.num_layers();
  head.passes = Codec::passes(p);
  head.depth = Codec::quantizer::depth(p);
  std::vector<cuda::plane_model> planes;
  std::vector<cuda::group_model> groups;
  for (int l = 0; l < head.layers; ++l)
    for (const plane which : caches::planes) {
      const plane_profile& q = p.of(l, which);
      const layer_shape& s = p.shape.layers[std::size_t(l)];
      const int dim = s.head_dim(which);
      planes.push_back({dim ? s.num_kv_heads : 0, dim, q.group_width, q.groups(), int(groups.size()), -1, 0, q.scale});
      for (int g = 0; g < q.groups(); ++g) {
        const group_place at = place_of(p.shape, q.group_width, l, which, g);
        cuda::group_model m{};
        m.layer = l, m.plane = int(which), m.first_head = at.first_head, m.heads = at.heads;
        m.width = at.width(), m.ld = (m.width + 31) / 32 * 32;
        head.max_width = std::max(head.max_width, m.ld);
        if (!q.mean.empty()) m.mean_at = out.put(std::vector<float>(std::size_t(m.ld)));
        std::vector<std::uint8_t> classes(std::size_t(m.ld));
        if (!q.classes.empty()) {
          std::copy_n(q.classes.begin() + g * q.group_width, m.width, classes.begin());
          m.classes_at = out.put(classes);
        }
        groups.push_back(m);
      }
    }
  head.strands = int(groups.size());
  head.planes_at = out.put(planes);
  head.groups_at = out.put(groups);
  std::vector<cuda::encode_tables> tables(1);
  cuda::pack_encode_tables(tables.data());
  head.encode_tables_at = out.put(tables);
  head.size = out.bytes.size();
  std::memcpy(out.bytes.data(), &head, sizeof head);
  return out.bytes;
}

/// A frame of a CPU's encoder, and the integers that it was made from.
struct made_frame {
  std::vector<std::byte> bytes;
  std::vector<seen_tile> tiles;
};
template <class Codec = watched>
made_frame on_cpu(const profile& p, const kv_view& v, int levels = max_passes) {
  made_frame f;
  encoder<Codec> e(p);
  f.bytes.resize(e.max_size(v));
  seen.clear();
  const result<std::size_t> size = e.encode(v, f.bytes, {.levels = levels});
  REQUIRE(size.has_value());
  f.bytes.resize(*size);
  f.tiles = std::move(seen);
  return f;
}

/// Memory of the host for what a view shows, dense.
struct dense_copy {
  explicit dense_copy(const kv_view& v) : view(v) {
    view.mode = addressing::contiguous;
    view.indices = nullptr;
    view.num_indices = 0, view.page_size = 1, view.first = 0, view.capacity = v.tokens;
    for (const plane which : caches::planes) {
      plane_view& p = which == plane::key ? view.k : view.v;
      if (!p.present()) continue;
      p.element_stride = size_of(p.type);
      p.head_stride = p.element_stride * p.head_dim;
      p.token_stride = p.head_stride * v.num_kv_heads;
      p.layer_stride = p.token_stride * v.tokens;
      p.layer_offset = p.page_stride = 0;
      p.layer_bases = nullptr;
      bytes[int(which)].resize(std::size_t(p.layer_stride * v.num_layers));
      p.base = bytes[int(which)].data();
    }
  }
  dense_copy(const dense_copy&) = delete;
  kv_view view;
  std::vector<std::byte> bytes[2];
};

/// One request of a run.
struct asked_frame {
  const made_frame* made;  ///< by a CPU, of all levels asked for
  kv_view view;            ///< on the host
  int levels = max_passes;
  std::size_t capacity = SIZE_MAX;  ///< SIZE_MAX = what the frame of the CPU takes and a bit
  std::uint64_t max_bytes = UINT64_MAX;
};
/// What became of it.
struct got_frame {
  cuda::encoded what;
  std::vector<std::byte> bytes;
};
struct run_result {
  std::vector<got_frame> frames;
  std::vector<std::int32_t> overflow;
};

/// Makes frames on the device of the integers that a CPU had. `change` may spoil what forward stages say.
template <class Codec = watched, class Change = void (*)(cuda::open_encode*, cuda::encode_strand*)>
run_result on_device(
    const profile& p, std::span<const asked_frame> asked, Change change = [](auto*, auto*) {}) {
  const std::vector<std::byte> image = image_of<Codec>(p);
  cuda::model_head head;
  std::memcpy(&head, image.data(), sizeof head);
  pile work;
  std::vector<cuda::open_encode> requests;
  std::vector<cuda::encode_strand> strands;
  std::vector<std::unique_ptr<cuda_checks::device_cache>> memory;
  std::vector<device_buffer<std::byte>> frames;
  device_buffer<cuda::encoded> said(asked.size());
  for (std::size_t i = 0; i < asked.size(); ++i) {
    const asked_frame& a = asked[i];
    frame_index index;
    REQUIRE(index.parse(a.made->bytes) == status::ok);
    memory.push_back(std::make_unique<cuda_checks::device_cache>(a.view));
    frames.emplace_back(a.capacity == SIZE_MAX ? a.made->bytes.size() + a.made->bytes.size() / 100 + 64 : a.capacity);
    cuda::open_encode r{};
    r.asked.cache = memory.back()->view();
    r.asked.position = index.header().position;
    r.asked.tokens = index.header().tokens;
    r.asked.frame = frames.back().data();
    r.asked.capacity = frames.back().size();
    r.asked.out = said.data() + i;
    r.asked.levels = a.levels;
    r.asked.max_bytes = a.max_bytes;
    r.state = status::ok;
    r.passes = std::min(a.levels, Codec::passes(p));
    r.token_tiles = index.token_tiles();
    r.first_strand = int(strands.size());
    r.strands = r.token_tiles * head.strands;
    std::size_t next = 0;
    for (int tile = 0; tile < r.token_tiles; ++tile)
      for (int l = 0, group = 0; l < head.layers; ++l)
        for (const plane which : caches::planes)
          for (int g = 0; g < p.of(l, which).groups(); ++g, ++group) {
            cuda::encode_strand s{};
            s.state = status::absent;
            s.request = int(i), s.group = group, s.tile = tile;
            const tile_key key{l, which, tile, g};
            const auto bytes = tile_bytes(index, a.made->bytes, index.ordinal(0, key));
            REQUIRE(bytes.has_value());
            if (!bytes->empty()) {
              tile_envelope e;
              REQUIRE(parse_tile(*bytes, index.tokens_of(tile), index.row_bytes(key), e) == status::ok);
              s.state = status::ok;
              while (a.view.layer_id(s.slot) != l) ++s.slot;
              s.type = a.view[which].type;
              s.first = std::uint16_t(e.first), s.count = std::uint16_t(e.count);
              s.step = 1;
              std::vector<std::uint16_t> exact;
              for (int k = 0; k < e.exact; ++k) exact.push_back(std::uint16_t(e.exact_token(k)));
              const auto here = [&](const seen_tile& t) {
                return t.place.layer == l && t.place.plane == which && t.place.group == g;
              };
              if (next < a.made->tiles.size() && here(a.made->tiles[next])) {
                const seen_tile& t = a.made->tiles[next++];
                if (t.rows != e.rows()) {  // a tile that was kept as it was stored
                  REQUIRE(e.rows() == 0);
                  exact.clear();
                  for (int k = 0; k < e.count - t.rows; ++k) exact.push_back(std::uint16_t(k));
                }
                s.calibrated = t.calibrated;
                s.values_at = work.put(t.finest);
                if (!t.transform.empty()) s.mean_at = work.put(t.transform);
                if (!t.quantizer.empty()) std::memcpy(&s.step, t.quantizer.data(), 4);
              }
              s.exact = std::uint16_t(exact.size());
              s.rows = std::uint16_t(s.count - s.exact);
              s.exact_at = work.put(exact);
            }
            strands.push_back(s);
          }
    CHECK(next == a.made->tiles.size());
    requests.push_back(r);
  }
  change(requests.data(), strands.data());
  const std::uint64_t requests_at = work.put(requests), strands_at = work.put(strands);
  const device_buffer<std::byte> image_there(image), work_there(work.bytes);
  device_buffer<std::int32_t> listed(asked.size()), count(std::vector<std::int32_t>{0});
  cuda::code_job j{};
  j.in.image = image_there.data();
  j.in.workspace = work_there.data();
  j.in.requests = reinterpret_cast<cuda::open_encode*>(work_there.data() + requests_at);
  j.in.strands = reinterpret_cast<cuda::encode_strand*>(work_there.data() + strands_at);
  j.in.num_requests = int(requests.size()), j.in.num_strands = int(strands.size());
  j.in.tile_tokens = Codec::tile_tokens, j.in.passes = Codec::passes(p);
  j.codec = Codec::id, j.fingerprint = fingerprint_of<Codec>(p);
  j.overflow = {listed.data(), count.data()};
  const device_buffer<std::byte> room(cuda::place_encode_job(j, head, nullptr));
  cuda::place_encode_job(j, head, room.data());
  REQUIRE(cuda::prepare_encode() == status::ok);
  REQUIRE(cuda::make_frames_async(j, nullptr) == status::ok);
  REQUIRE(cudaDeviceSynchronize() == cudaSuccess);

  run_result out;
  const auto what = said.download();
  for (std::size_t i = 0; i < asked.size(); ++i) {
    out.frames.push_back({what[i], frames[i].download()});
    if (what[i].state == status::ok) {
      REQUIRE(what[i].size <= out.frames.back().bytes.size());
      out.frames.back().bytes.resize(what[i].size);
    }
  }
  out.overflow = listed.download();
  out.overflow.resize(std::size_t(count.download()[0]));
  std::sort(out.overflow.begin(), out.overflow.end());
  return out;
}

/// Whether memory of the device is as it was given.
inline bool untouched(std::span<const std::byte> bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](std::byte b) { return b == std::byte{0x7f}; });
}

/// How two frames of the same integers compare.
struct comparison {
  int tiles = 0, equal = 0;  // of all passes
  std::size_t bytes[2] = {};
  // Tiles that were kept as they were stored, with deltas, with classes, with exceptions in the base and after, of parts.
  int kept = 0, deltas = 0, classes = 0, exceptions[2] = {}, parts = 0;

  void operator+=(const comparison& c) {
    tiles += c.tiles, equal += c.equal, kept += c.kept, deltas += c.deltas, classes += c.classes, parts += c.parts;
    for (int i = 0; i < 2; ++i) bytes[i] += c.bytes[i], exceptions[i] += c.exceptions[i];
  }
  /// Looks into a pass of a tile that is sound.
  void look_into(std::span<const std::uint8_t> tile, int pass, int tokens, std::size_t row_bytes, int width) {
    tile_envelope e;
    tile_sections later;
    if (tile.empty()) return;
    REQUIRE((pass ? parse_refinement(tile, later) : parse_tile(tile, tokens, row_bytes, e)) == status::ok);
    class_section s;
    REQUIRE(s.parse((pass ? later : e.base)[section::entropy], pass, 4096, width));
    kept += pass == 0 && e.rows() == 0;
    deltas += s.delta_blocks != 0;
    classes += !s.classes.empty();
    exceptions[pass > 0] += s.num_exceptions() > 0;
    parts += width > 256 && !s.code.empty();
  }
};

/// A frame of the device: sound, and with the values of the other one at all levels.
template <class Codec = watched>
comparison compare(const profile& p, const kv_view& v, std::span<const std::byte> cpu, std::span<const std::byte> gpu) {
  comparison c;
  frame_index a, b;
  REQUIRE(a.parse(cpu) == status::ok);
  REQUIRE(b.parse(gpu) == status::ok);
  CHECK(b.size() == gpu.size());
  CHECK(a.runs().size() == b.runs().size());
  CHECK(std::equal(a.runs().begin(), a.runs().end(), b.runs().begin(), b.runs().end()));
  REQUIRE(a.tiles_per_pass() == b.tiles_per_pass());
  REQUIRE(a.header().passes >= b.header().passes);
  const int passes = b.header().passes;
  CHECK(sound_level(b, gpu, passes - 1) == passes - 1);
  for (std::size_t i = 0; i < a.tiles_per_pass() * std::size_t(passes); ++i) {
    const auto x = tile_bytes(a, cpu, i), y = tile_bytes(b, gpu, i);
    REQUIRE((x.has_value() && y.has_value()));
    ++c.tiles;
    c.equal += std::equal(x->begin(), x->end(), y->begin(), y->end());
  }
  for (int pass = 0; pass < passes; ++pass)
    for (int l = 0; l < p.shape.num_layers(); ++l)
      for (const plane which : caches::planes)
        for (int tile = 0; tile < b.token_tiles(); ++tile)
          for (int g = 0; g < p.of(l, which).groups(); ++g) {
            const tile_key k{l, which, tile, g};
            c.look_into(*tile_bytes(b, gpu, b.ordinal(pass, k)), pass, b.tokens_of(tile), b.row_bytes(k),
                        p.of(l, which).width_of(g));
          }
  c.bytes[0] = a.size_at(passes - 1), c.bytes[1] = gpu.size();
  decoder<Codec> d(p);
  for (int level = 0; level < passes; ++level) {
    const dense_copy x(v), y(v);
    CHECK(d.decode(cpu, x.view, {.level = level}).worst == status::ok);
    CHECK(d.decode(gpu, y.view, {.level = level}).worst == status::ok);
    CHECK(x.bytes[0] == y.bytes[0]);
    CHECK(x.bytes[1] == y.bytes[1]);
  }
  return c;
}

/// One frame, made on both sides and compared.
template <class Codec = watched>
comparison both(const profile& p, const kv_view& v, int levels = max_passes) {
  const made_frame cpu = on_cpu<Codec>(p, v, levels);
  const asked_frame asked{&cpu, v, levels};
  const run_result got = on_device<Codec>(p, {&asked, 1});
  REQUIRE(got.frames[0].what.state == status::ok);
  CHECK(got.overflow.empty());
  return compare<Codec>(p, v, cpu.bytes, got.frames[0].bytes);
}

/// A cache whose elements are integers, and a profile that takes them as coefficients: what the kernels get is up to the
/// test.
struct integers {
  integers(std::mt19937_64& random, int passes, int most_tokens) {
    constexpr int dims[] = {32, 40, 64, 80, 96, 128, 192, 256, 320, 576, 1000, 1024};
    const auto upto = [&](int n) { return int(random() % std::uint64_t(n)); };
    shape.layers.resize(std::size_t(1 + upto(2)));
    const int dim = dims[upto(12)], heads = dim > 256 ? 1 : 1 + upto(3);
    for (layer_shape& l : shape.layers) l = {heads, dim, upto(3) ? dims[upto(4)] : 0, 0, 0};
    for (layer_shape& l : shape.layers) l.head_dim_v = shape.layers[0].head_dim_v;
    const int tokens = 1 + upto(most_tokens);
    memory = std::make_unique<caches::cache>(
        caches::make_cache(shape, tokens, dtype::f32, caches::engine::dense, upto(2) ? 0 : 1000));
    model = profile::uncalibrated(shape, passes, upto(5));
    std::normal_distribution<float> normal;
    for (int l = 0; l < shape.num_layers(); ++l)
      for (const plane which : caches::planes) {
        plane_profile& q = model.of(l, which);
        if (q.width == 0) continue;
        const int of_layer = shape.layers[std::size_t(l)].head_dim(which);
        q.group_width = basis_heads(0, heads, of_layer) * of_layer;
        q.scale = 1;
        const bool explicit_classes = upto(4) == 0;
        const float wrong = upto(5) ? 1.f : 100.f;  // how far the profile is from the truth
        // Wide coefficients first, as calibration sorts them; some are dead in all passes.
        const int widest = 1 + upto(50), narrowest = upto(widest + 1);
        std::vector<float> deviation;
        for (int c = 0; c < q.width; ++c) {
          const int at = c % q.group_width, w = widest - at * (widest - narrowest) / q.group_width;
          q.classes.push_back(std::uint8_t(64 * upto(4) + w));
          deviation.push_back(wrong * std::exp2(float(w - 16) / 4) * std::exp(0.2f * normal(random)));
        }
        if (explicit_classes) {
          q.classes.clear();
        } else {
          q.mean.assign(std::size_t(q.width), 0);
          for (int g = 0; g < q.groups(); ++g)
            for (int k = 0; k < q.width_of(g); ++k)
              for (int i = 0; i < q.width_of(g); ++i) q.matrix.push_back(k == i ? 0x3c00 : 0);
        }
        const float outliers = upto(3) ? 0.f : upto(3) ? 0.001f : 0.3f;
        float size = 1;
        for (int t = 0; t < tokens; ++t) {
          if (t % 64 == 0) size = upto(2) ? 1.f : std::exp(normal(random));
          for (int c = 0; c < q.width; ++c) {
            float x = size * deviation[std::size_t(c)] * normal(random);
            if (float(random() % 1000) < 1000 * outliers) x *= 30;
            x = std::clamp(std::nearbyint(x), -32000.f, 32000.f);
            caches::set(memory->view(), which, l, t, c / of_layer, c % of_layer, x);
          }
        }
      }
    if (upto(3) == 0) caches::set(memory->view(), plane::key, 0, tokens / 2, 0, 3, INFINITY);
  }
  model_shape shape;
  std::unique_ptr<caches::cache> memory;
  profile model;
};

/// Frames of any integers.
template <class Codec>
comparison any_integers(std::uint64_t seed, int trials, int most_tokens) {
  comparison all;
  for (int i = 0; i < trials; ++i) {
    std::mt19937_64 random(seed + std::uint64_t(i));
    CAPTURE(seed + std::uint64_t(i));
    const int passes = 1 + int(random() % 6), levels = 1 + int(random() % 6);
    const integers given(random, passes, most_tokens);
    const comparison c = both<Codec>(given.model, given.memory->view(), levels);
    CHECK(c.equal == c.tiles);
    all += c;
  }
  return all;
}

/// Requests side by side whose frames may be of any size: the finest levels leave until a frame fits; one whose base does
/// not fit is listed. Memory behind frames is guarded.
inline void limits(std::uint64_t seed) {
  std::mt19937_64 random(seed);
  const integers given(random, 4, 100);
  const kv_view& v = given.memory->view();
  const made_frame whole = on_cpu(given.model, v);
  std::vector<std::vector<std::byte>> levels;  // frames with an index of so many passes
  for (int n = 1; n <= 4; ++n) {
    levels.push_back(whole.bytes);
    frame_index index;
    REQUIRE(index.parse(whole.bytes) == status::ok);
    const result<std::size_t> size =
        cut_tiles(levels.back(), std::vector<std::uint8_t>(index.tiles_per_pass(), std::uint8_t(n)));
    REQUIRE(size.has_value());
    levels.back().resize(*size);
  }
  std::vector<asked_frame> asked;
  std::vector<int> expected;  // levels; 0 = none
  const auto ask = [&](std::size_t capacity, std::uint64_t most, int level) {
    asked.push_back({&whole, v, max_passes, capacity, most});
    expected.push_back(level);
  };
  for (int n = 1; n <= 4; ++n) {
    const std::size_t size = levels[std::size_t(n - 1)].size();
    REQUIRE((n == 1 || size > levels[std::size_t(n - 2)].size()));
    ask(size, size, n);
    ask(size - 1, size - 1, n - 1);
    ask(size + 100, size + 1, n == 4 ? 4 : n);
  }
  ask(whole.bytes.size(), UINT64_MAX, 4);
  ask(whole.bytes.size() - 1, UINT64_MAX, 0);  // without a limit nothing is left out
  ask(0, 0, 0);
  ask(1, UINT64_MAX, 0);
  const run_result got = on_device(given.model, asked);
  std::vector<std::int32_t> listed;
  for (std::size_t i = 0; i < asked.size(); ++i) {
    CAPTURE(i);
    if (expected[i] == 0) {
      CHECK(got.frames[i].what.state == status::output_too_small);
      CHECK(got.frames[i].what.size == 0);
      CHECK(untouched(got.frames[i].bytes));
      listed.push_back(std::int32_t(i));
      continue;
    }
    REQUIRE(got.frames[i].what.state == status::ok);
    CHECK(got.frames[i].bytes == levels[std::size_t(expected[i] - 1)]);
  }
  CHECK(got.overflow == listed);
}

/// Requests that earlier stages refuse, beside others.
inline void refusals(std::uint64_t seed) {
  std::mt19937_64 random(seed + 1);
  const integers given(random, 3, 100);
  const kv_view& v = given.memory->view();
  const made_frame whole = on_cpu(given.model, v);
  const std::vector<asked_frame> asked(4, asked_frame{&whole, v});
  const run_result got = on_device(given.model, asked, [](cuda::open_encode* requests, cuda::encode_strand* strands) {
    requests[0].state = status::page_out_of_range;
    for (int i = 0; i < requests[0].strands; ++i) strands[i] = {};
    strands[requests[1].first_strand + requests[1].strands - 1].state = status::too_large;
    requests[3].asked.frame += 1;
  });
  const status said[] = {status::page_out_of_range, status::too_large, status::ok, status::invalid_argument};
  for (std::size_t i = 0; i < 4; ++i) {
    CAPTURE(i);
    CHECK(got.frames[i].what.state == said[i]);
    if (i == 2) {
      CHECK(got.frames[i].bytes == whole.bytes);
      continue;
    }
    CHECK(got.frames[i].what.size == 0);
    CHECK(untouched(got.frames[i].bytes));
  }
  CHECK(got.overflow.empty());
}

/// What the tests of the emulator and of a GPU say of a comparison.
inline std::string to_string(const comparison& c) {
  return std::to_string(c.equal) + " of " + std::to_string(c.tiles) + " tiles are equal, " +
         std::to_string(c.bytes[1]) + " bytes instead of " + std::to_string(c.bytes[0]) + "; kept " +
         std::to_string(c.kept) + ", deltas " + std::to_string(c.deltas) + ", classes " + std::to_string(c.classes) +
         ", exceptions " + std::to_string(c.exceptions[0]) + " and " + std::to_string(c.exceptions[1]) + ", parts " +
         std::to_string(c.parts);
}

}  // namespace cuda_encode_checks
