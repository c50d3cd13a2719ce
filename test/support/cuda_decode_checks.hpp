// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/decoder.hpp>
#include <sluice/cuda/decode.cuh>
#include <sluice/cuda/image.hpp>

#include <doctest/doctest.h>
#include <support/caches.hpp>
#include <support/device.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

/// Decodes of a device against those of sluice::decoder: the same statuses, the same counts, and what section 1 of
/// FORMAT.md allows of values. For a GPU, and for the emulator.
namespace cuda_checks {

using namespace sluice;

/// What a view shows, in memory of the device that ends where the view's elements do.
class device_cache {
 public:
  /// Begins with what the host's cache holds; where the view is not valid there are its tables only.
  explicit device_cache(const kv_view& host) : view_(host) {
    if (host.layer_ids) {
      ids_ = device_buffer<std::int32_t>(std::span(host.layer_ids, std::size_t(std::max(host.num_layers, 0))));
      view_.layer_ids = ids_.data();
    }
    if (host.indices) {
      indices_ = device_buffer<std::int32_t>(
          std::span(host.indices, std::size_t(std::max<std::int64_t>(0, host.num_indices))));
      view_.indices = indices_.data();
    }
    const bool valid = validate(host) == status::ok;
    for (plane which : caches::planes) {
      plane_view& p = which == plane::key ? view_.k : view_.v;
      if (!p.present()) continue;
      if (valid)
        place(host, which, p);
      else if (p.layer_bases)
        give_bases(which, p, std::vector<std::byte*>(p.layer_bases, p.layer_bases + std::max(host.num_layers, 0)));
    }
  }

  /// With addresses of the device.
  const kv_view& view() const { return view_; }

  /// What the device holds now, with addresses of the host; nothing but elements has changed.
  kv_view download() {
    kv_view v = view_;
    v.layer_ids = host_ids();
    v.indices = host_indices();
    for (plane which : caches::planes) {
      plane_view& p = which == plane::key ? v.k : v.v;
      if (!p.present()) continue;
      auto& bases = host_bases_[int(which)];
      bases.clear();
      for (const piece& x : pieces_)
        if (x.which == which) bases.push_back(nullptr);
      for (piece& x : pieces_) {
        if (x.which != which) continue;
        x.after = x.memory.download();
        for (std::size_t i = 0; i < x.bases.size(); ++i) {
          if (x.bases.size() > 1) bases.resize(x.bases.size());
          bases[x.bases.size() > 1 ? i : std::size_t(x.layer)] = x.after.data() + x.bases[i];
        }
      }
      p.layer_bases = bases.data();
      p.layer_offset = 0;
    }
    check_gaps(v);
    return v;
  }

 private:
  struct piece {
    plane which;
    int layer;  // its first
    device_buffer<std::byte> memory;
    std::vector<std::byte> before, after;
    std::vector<std::ptrdiff_t> bases;  // where each layer begins, from the first byte
  };

  // Bytes of a layer that the view's tokens touch, from its base.
  static std::pair<std::int64_t, std::int64_t> extent(const kv_view& v, const plane_view& p) {
    std::int64_t low = INT64_MAX, high = INT64_MIN;
    for (std::int64_t t = 0; t < v.tokens; ++t)
      for (std::int64_t h : {0, v.num_kv_heads - 1})
        for (std::int64_t d : {0, p.head_dim - 1}) {
          const std::int64_t at = v.token_offset(p, t) + h * p.head_stride + d * p.element_stride;
          low = std::min(low, at);
          high = std::max(high, at + size_of(p.type));
        }
    return v.tokens ? std::pair{low, high} : std::pair{std::int64_t{0}, std::int64_t{1}};
  }

  void place(const kv_view& host, plane which, plane_view& p) {
    const auto [low, high] = extent(host, p);
    if (!p.layer_bases) {  // one piece of memory for all layers, as the engine has it
      const std::int64_t last = (host.num_layers - 1) * p.layer_stride, first = std::min<std::int64_t>(0, last);
      add(which, 0, p.base + p.layer_offset + first + low, high - low + std::abs(last));
      for (int l = 0; l < host.num_layers; ++l) pieces_.back().bases.push_back(l * p.layer_stride - first - low);
      p.base = pieces_.back().memory.data() + (pieces_.back().bases[0] - p.layer_offset);
      return;
    }
    std::vector<std::byte*> bases;
    for (int l = 0; l < host.num_layers; ++l) {
      add(which, l, host.layer_base(p, l) + low, high - low);
      pieces_.back().bases.push_back(-low);
      bases.push_back(pieces_.back().memory.data() + (-low - p.layer_offset));
    }
    give_bases(which, p, bases);
  }
  void add(plane which, int layer, const std::byte* from, std::int64_t size) {
    std::vector<std::byte> bytes(from, from + size);
    device_buffer<std::byte> memory(bytes);
    pieces_.push_back({which, layer, std::move(memory), std::move(bytes), {}, {}});
  }
  void give_bases(plane which, plane_view& p, const std::vector<std::byte*>& bases) {
    bases_[int(which)] = device_buffer<std::byte*>(bases);
    p.layer_bases = bases_[int(which)].data();
  }
  const std::int32_t* host_ids() {
    ids_again_ = ids_.download();
    return view_.layer_ids ? ids_again_.data() : nullptr;
  }
  const std::int32_t* host_indices() {
    indices_again_ = indices_.download();
    return view_.indices ? indices_again_.data() : nullptr;
  }

  // What lies between elements is as it was.
  void check_gaps(const kv_view& v) {
    std::vector<std::vector<char>> element;
    for (const piece& x : pieces_) element.emplace_back(x.after.size(), char(0));
    caches::for_each_element(v, [&](plane which, auto, auto, auto, auto, const std::byte* at) {
      for (std::size_t i = 0; i < pieces_.size(); ++i)
        if (const piece& x = pieces_[i];
            x.which == which && at >= x.after.data() && at < x.after.data() + x.after.size())
          std::fill_n(element[i].begin() + (at - x.after.data()), size_of(v[which].type), char(1));
    });
    bool same = true;
    for (std::size_t i = 0; i < pieces_.size(); ++i)
      for (std::size_t b = 0; b < pieces_[i].after.size(); ++b)
        same = same && (element[i][b] || pieces_[i].after[b] == pieces_[i].before[b]);
    CHECK(same);
  }

  kv_view view_;
  device_buffer<std::int32_t> ids_, indices_;
  device_buffer<std::byte*> bases_[2];
  std::vector<piece> pieces_;
  std::vector<std::int32_t> ids_again_, indices_again_;
  std::vector<std::byte*> host_bases_[2];
};

/// One frame into one view, as both sides are asked for it.
struct job {
  std::span<const std::byte> frame;
  kv_view view{};  ///< of a host's cache, whose tables and memory both sides begin with
  int level = max_passes - 1;
  decode_options::layer_range layers{};
  std::int64_t position = -1, sequence_end = -1;
  std::uint32_t tokens = 0, tile_tokens = 256;  ///< that a request says; tokens 0 = what the header does
  std::size_t shift = 0;                        ///< alignment of the frame in device memory
};

/// What became of one.
struct outcome {
  page_status all;
  std::vector<status> pages;
};

/// Entries that the words of a view take, and two more.
inline std::size_t pages_of(const kv_view& v) {
  if (validate_shape(v) != status::ok) return 3;
  const std::int64_t unit = v.mode == addressing::pages ? v.page_size : 1;
  return v.tokens > 0 ? std::size_t((v.first + v.tokens - 1) / unit - v.first / unit + 3) : 2;
}

/// What a request says of the frame's size: what a caller knows who read the header, unless that says more than a test has
/// memory for.
inline void read_sizes(job& j) {
  if (j.tokens != 0 || j.frame.size() < sizeof(frame_header)) return;
  std::memcpy(&j.tokens, j.frame.data() + offsetof(frame_header, tokens), 4);
  std::memcpy(&j.tile_tokens, j.frame.data() + offsetof(frame_header, tile_tokens), 4);
  if (j.tokens > 4096 && j.tokens <= max_frame_tokens) j.tokens = 1;
}

/// Whether a device must say of a frame that its shape is another: it was asked for another size, or for groups of other
/// heads than the profile's, which a host takes where the codec does not use the profile.
template <class Codec>
bool is_other_shape(const profile& p, const job& j) {
  frame_index index;
  if (index.parse(j.frame) != status::ok) return false;
  const frame_header& h = index.header();
  if (!Codec::id.decodes(h.codec) || h.fingerprint != fingerprint_of<Codec>(p)) return false;
  if (h.tokens != j.tokens || h.tile_tokens != j.tile_tokens) return true;
  for (int l = 0; h.layers == p.shape.num_layers() && l < h.layers; ++l)
    for (plane which : caches::planes)
      if (index.shape_of(l).group_width[int(which)] != p.of(l, which).group_width) return true;
  return false;
}

/// A model on the device.
template <class Codec>
class device_codec {
 public:
  explicit device_codec(const profile& p)
      : profile_(&p), model_(p), image_(std::vector<std::byte>(model_.image().begin(), model_.image().end())) {
    REQUIRE(model_.state() == status::ok);
    REQUIRE(cuda::init(on_device()) == status::ok);
  }
  cuda::device_model<Codec> on_device() const { return model_.at(image_.data(), *cuda::limits_of_device()); }

  const sluice::profile& profile() const { return *profile_; }

  /// All in one call; `caches[i]` is where frame i goes.
  std::vector<outcome> decode(std::span<const job> jobs, std::vector<device_cache>& caches) {
    std::vector<device_buffer<std::byte>> frames;
    std::vector<device_buffer<std::uint64_t>> words;
    std::vector<device_buffer<cuda::report>> reports;
    std::vector<cuda::request> requests;
    for (std::size_t i = 0; i < jobs.size(); ++i) {
      const job& j = jobs[i];
      std::vector<std::byte> bytes(j.shift);
      bytes.insert(bytes.end(), j.frame.begin(), j.frame.end());
      frames.emplace_back(bytes);
      words.emplace_back(pages_of(j.view));
      reports.emplace_back(1);
      cuda::request r;
      r.frame = j.frame.empty() ? nullptr : frames.back().data() + j.shift;
      r.size = j.frame.size();
      r.tokens = j.tokens;
      r.tile_tokens = j.tile_tokens;
      r.cache = caches[i].view();
      r.level = j.level;
      r.layer_begin = j.layers.begin;
      r.layer_end = j.layers.end;
      r.position = j.position;
      r.sequence_end = j.sequence_end;
      r.pages = words.back().data();
      r.num_pages = words.back().size();
      r.out = reports.back().data();
      requests.push_back(r);
    }
    const auto bytes = cuda::decode_workspace_bytes(on_device(), std::span<const cuda::request>(requests));
    REQUIRE(bytes.status() == status::ok);
    device_buffer<std::byte> workspace(*bytes + 128);
    auto* const aligned =
        reinterpret_cast<std::byte*>((reinterpret_cast<std::uintptr_t>(workspace.data()) + 127) / 128 * 128);
    REQUIRE(cuda::decode_async(on_device(), std::span<const cuda::request>(requests), aligned, *bytes, nullptr) ==
            status::ok);
    REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
    std::vector<outcome> out(jobs.size());
    for (std::size_t i = 0; i < jobs.size(); ++i) {
      const cuda::report r = reports[i].download()[0];
      out[i].all = {cuda::status_of(r.worst), r.tiles, r.damaged, r.degraded, r.outside, r.coarser};
      for (const std::uint64_t w : words[i].download()) out[i].pages.push_back(cuda::status_of(w));
    }
    return out;
  }

 private:
  const sluice::profile* profile_;
  cuda::model<Codec> model_;
  device_buffer<std::byte> image_;
};

/// The same on the host, into the job's own view.
template <class Codec>
outcome decode_on_host(decoder<Codec>& d, const job& j) {
  outcome out;
  out.pages.assign(pages_of(j.view), status::ok);
  out.all = d.decode(j.frame, j.view,
                     {.level = j.level,
                      .layers = j.layers,
                      .position = j.position,
                      .sequence_end = j.sequence_end,
                      .pages = out.pages});
  return out;
}

inline bool same(const outcome& a, const outcome& b) {
  return a.all.worst == b.all.worst && a.all.tiles == b.all.tiles && a.all.damaged == b.all.damaged &&
         a.all.degraded == b.all.degraded && a.all.outside == b.all.outside && a.all.coarser == b.all.coarser &&
         a.pages == b.pages;
}
inline void check_same(const outcome& device, const outcome& host) {
  CHECK(doctest::String(to_string(device.all.worst)) == doctest::String(to_string(host.all.worst)));
  CHECK(device.all.tiles == host.all.tiles);
  CHECK(device.all.damaged == host.all.damaged);
  CHECK(device.all.degraded == host.all.degraded);
  CHECK(device.all.outside == host.all.outside);
  CHECK(device.all.coarser == host.all.coarser);
  REQUIRE(device.pages.size() == host.pages.size());
  for (std::size_t i = 0; i < host.pages.size(); ++i) {
    CAPTURE(i);
    CHECK(doctest::String(to_string(device.pages[i])) == doctest::String(to_string(host.pages[i])));
  }
}

/// Units of f16 in which one unit of a type is counted: what a value between two of its numbers may make of a rounding.
inline double units_of(dtype t) { return t == dtype::bf16 ? 8 : t == dtype::e4m3 ? 128 : t == dtype::e5m2 ? 256 : 1; }

/// What both sides wrote, plane by plane: bit for bit for a codec of elements.
inline void check_values(const kv_view& device, const kv_view& host, bool exact) {
  if (exact) {
    CHECK(caches::elements(device) == caches::elements(host));
    return;
  }
  for (plane which : caches::planes) {
    kv_view a = device, b = host;
    (which == plane::key ? a.v : a.k) = (which == plane::key ? b.v : b.k) = {};
    if (b[which].present() && b[which].type != dtype::bytes) CHECK(caches::worst_ulps(b, a) <= units_of(b[which].type));
  }
}

/// Whether both sides wrote the same rows of heads, whatever they wrote there.
inline void check_written(const kv_view& device, const kv_view& host) {
  bool same = true;
  for (plane which : caches::planes)
    for (std::int32_t l = 0; l < host.num_layers && host[which].present(); ++l)
      for (std::int64_t t = 0; t < host.tokens; ++t)
        for (std::int32_t h = 0; h < host.num_kv_heads; ++h) {
          bool written[2] = {};
          for (int d = 0; d < host[which].head_dim; ++d)
            for (int side = 0; side < 2; ++side) {
              const std::byte* at = (side ? device : host).at(which, l, t, h, d);
              for (int b = 0; b < size_of(host[which].type); ++b) written[side] |= at[b] != caches::cache::untouched;
            }
          same = same && written[0] == written[1];
        }
  CHECK(same);
}

/// How much is compared: of hostile numbers that overflow, only where they are.
enum class values { none, places, all };

/// All jobs in one call of the device, then one after the other on the host.
template <class Codec, class HostCodec = Codec>
std::vector<outcome> check(device_codec<Codec>& device, decoder<HostCodec>& host, std::vector<job> jobs,
                           values compared = values::all) {
  std::vector<device_cache> there;
  for (job& j : jobs) {
    read_sizes(j);
    there.emplace_back(j.view);
  }
  const std::vector<outcome> got = device.decode(jobs, there);
  std::vector<outcome> wanted;
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    CAPTURE(i);
    if (is_other_shape<HostCodec>(device.profile(), jobs[i])) {
      wanted.push_back({{status::wrong_shape}, std::vector<status>(pages_of(jobs[i].view), status::wrong_shape)});
    } else {
      wanted.push_back(decode_on_host(host, jobs[i]));
    }
    check_same(got[i], wanted[i]);
    if (validate(jobs[i].view) != status::ok) continue;
    const kv_view after = there[i].download();
    if (compared == values::all) check_values(after, jobs[i].view, HostCodec::domain == value_domain::stored);
    if (compared != values::none) check_written(after, jobs[i].view);
  }
  return wanted;
}

}  // namespace cuda_checks
