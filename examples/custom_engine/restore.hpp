// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "pages.hpp"

#include <sluice/codec/codec.hpp>
#include <sluice/model/profile.hpp>
#include <sluice/status.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>
#if CUSTOM_ENGINE_GPU
#include <sluice/cuda/decode.cuh>
#include <sluice/cuda/image.hpp>

#include <deque>
#else
#include <sluice/codec/instances.hpp>
#endif

// What the engine calls of sluice: frames into the pages of a sequence.

namespace custom_engine {

using frame_bytes = std::span<const std::byte>;

/// What became of the pages of a sequence. A page that a frame has no tokens of is absent for it; one that several share is
/// as good as the worst of them.
class page_states {
 public:
  explicit page_states(std::size_t pages) : all_(pages, sluice::status::absent) {}
  void note(std::size_t page, sluice::status s) {
    sluice::status& now = all_[page];
    if (s != sluice::status::absent && (now == sluice::status::absent || now == sluice::status::ok)) now = s;
  }
  const std::vector<sluice::status>& all() const noexcept { return all_; }

 private:
  std::vector<sluice::status> all_;
};

#if CUSTOM_ENGINE_GPU

/// All frames in one go, on the engine's stream; the host waits only to read what became of them.
inline std::vector<sluice::status> restore(const sluice::profile& profile, std::span<const frame_bytes> frames,
                                           page_pool& pool, std::span<const std::int32_t> table, std::int64_t position,
                                           std::int64_t tokens, int level, const stream& work) {
  namespace cuda = sluice::cuda;
  const auto failed = [&](sluice::status s) { return std::vector<sluice::status>(table.size(), s); };

  // Once for a model and a device: what kernels look up.
  const cuda::model<sluice::codec::standard> model(profile);
  if (model.state() != sluice::status::ok) return failed(model.state());
  const memory<std::byte> image(model.image(), work);
  const auto limits = cuda::limits_of_device();
  if (!limits) return failed(limits.status());
  const auto on_device = model.at(image.data(), *limits);
  if (const auto s = cuda::init(on_device); s != sluice::status::ok) return failed(s);

  // Once for a context: frames, block table and words for the answers on the device, a request for each frame.
  const memory<std::int32_t> indices(table, work);
  const sluice::kv_view view =
      view_of(pool.shape(), pool.data(), pool.pages(), {indices.data(), indices.size()}, position, tokens);
  std::deque<memory<std::byte>> bytes;
  std::deque<memory<std::uint64_t>> words;
  std::vector<cuda::request> requests;
  sluice::frame_index index;
  for (const frame_bytes frame : frames) {
    if (const auto s = index.parse(frame); s != sluice::status::ok) return failed(s);
    cuda::request r;
    r.frame = bytes.emplace_back(frame, work).data();
    r.size = frame.size();
    r.tokens = index.header().tokens;
    r.tile_tokens = index.header().tile_tokens;
    r.cache = view;
    r.level = level;
    r.pages = words.emplace_back(table.size()).data();
    r.num_pages = table.size();
    requests.push_back(r);
  }
  const auto size = cuda::decode_workspace_bytes(on_device, std::span<const cuda::request>(requests));
  if (!size) return failed(size.status());
  const memory<std::byte> workspace(*size);
  if (const auto s =
          cuda::decode_async(on_device, std::span<const cuda::request>(requests), workspace.data(), *size, work);
      s != sluice::status::ok)
    return failed(s);

  page_states states(table.size());
  for (const auto& w : words) {
    const std::vector<std::uint64_t> now = w.read(work);
    for (std::size_t i = 0; i < now.size(); ++i) states.note(i, cuda::status_of(now[i]));
  }
  return states.all();
}

#else

/// One frame after the other.
inline std::vector<sluice::status> restore(const sluice::profile& profile, std::span<const frame_bytes> frames,
                                           page_pool& pool, std::span<const std::int32_t> table, std::int64_t position,
                                           std::int64_t tokens, int level, const stream&) {
  const sluice::kv_view view = view_of(pool.shape(), pool.data(), pool.pages(), table, position, tokens);
  sluice::decoder<sluice::codec::standard> decoder(profile);
  page_states states(table.size());
  std::vector<sluice::status> now(table.size());
  for (const frame_bytes frame : frames) {
    decoder.decode(frame, view, {.level = level, .pages = now});
    for (std::size_t i = 0; i < now.size(); ++i) states.note(i, now[i]);
  }
  return states.all();
}

#endif

}  // namespace custom_engine
