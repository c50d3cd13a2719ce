// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/cuda/encode_strand.hpp>
#include <sluice/cuda/launch.cuh>
#include <sluice/cuda/open/open_view.cuh>
#include <sluice/cuda/rope_angles.cuh>

#include <cstddef>
#include <cstdint>
#include <span>

// First kernels of an encode: what the host cannot look at of a view, since its tables lie on the device; which layer
// stands where; the tokens of each strand; the tables that undo rotations.

namespace sluice::cuda {

/// Requests on their way to the device, in a kernel's parameters; with what the host knows of them.
struct encode_batch {
  static constexpr int most = 8;
  open_encode requests[most];
  std::int32_t first, count;
};
static_assert(sizeof(encode_batch) + sizeof(encode_state) <= 4000);  // of the 4 KB of parameters

/// Requests of a batch: a block each.
template <int Threads = open_threads>
__global__ void __launch_bounds__(Threads, 4) open_encode_kernel(encode_state d, encode_batch batch) {
  open_encode& r = d.requests[batch.first + static_cast<int>(blockIdx.x)];
  const model_head& h = head_of(d.image);
  if (threadIdx.x == 0) r = batch.requests[blockIdx.x];
  __syncthreads();
  std::int32_t* const slots = reinterpret_cast<std::int32_t*>(d.workspace + r.slots_at);
  for (std::int32_t l = static_cast<std::int32_t>(threadIdx.x); l < h.layers; l += Threads) slots[l] = -1;
  status state = r.state;
  __syncthreads();
  const kv_view& v = r.asked.cache;
  if (state == status::ok) {
    state = map_view(v, d.image, [slots](std::int32_t l) -> std::int32_t& { return slots[l]; });
    if (threadIdx.x == 0) r.state = state;
  }
  const std::int64_t end = r.asked.position + r.asked.tokens;
  for (std::int32_t k = static_cast<std::int32_t>(threadIdx.x); k < r.strands; k += Threads) {
    encode_strand s{};
    s.request = batch.first + static_cast<std::int32_t>(blockIdx.x);
    s.group = k % h.strands;
    s.tile = k / h.strands;
    s.step = 1;
    const group_model& g = group_of(d.image, s.group);
    const plane_view& p = g.plane ? v.v : v.k;
    s.type = p.type;
    s.slot = slots[g.layer];
    s.state = state != status::ok ? state : status::absent;
    if (state == status::ok && s.slot >= 0) {
      const std::int64_t start = r.asked.position + std::int64_t{s.tile} * d.tile_tokens;
      const std::int64_t stop = start + d.tile_tokens < end ? start + d.tile_tokens : end;
      const std::int64_t seen = v.position + v.tokens;
      const std::int64_t from = v.position < start ? start : v.position < stop ? v.position : stop;
      const std::int64_t to = seen < from ? from : seen < stop ? seen : stop;
      s.first = static_cast<std::uint16_t>(from - start);
      s.count = static_cast<std::uint16_t>(to - from);
      if (s.count > 0) s.state = status::ok;
    }
    const auto i = static_cast<std::uint64_t>(r.first_strand + k), tokens = static_cast<std::uint64_t>(d.tile_tokens),
               width = static_cast<std::uint64_t>(h.max_width);
    s.coded_at = d.lists_at + 2 * i * round_16(2 * tokens);
    s.exact_at = s.coded_at + round_16(2 * tokens);
    s.mean_at = d.means_at + 2 * i * width;
    s.values_at = d.values_at + i * tokens * width * static_cast<std::uint64_t>(d.value_bytes);
    d.strands[i] = s;
  }
}

inline constexpr int rope_angles = 1024;  ///< that a block of 256 threads makes

/// cos and sin that undo rotations: blocks of rope_angles angles, `each` for a request.
template <int Threads = 256>
__global__ void __launch_bounds__(Threads) undo_ropes_kernel(encode_state d, std::int32_t each) {
  const open_encode& r = d.requests[blockIdx.x / static_cast<unsigned>(each)];
  if (r.state != status::ok) return;
  const model_head& h = head_of(d.image);
  const std::int64_t begin = std::int64_t{blockIdx.x % static_cast<unsigned>(each)} * rope_angles;
  for (std::int64_t i = begin + threadIdx.x; i < begin + rope_angles; i += Threads) {
    if (i >= r.asked.tokens * h.rope_pairs) break;
    const rope_model* rope = in_image<rope_model>(d.image, h.ropes_at);
    while (i >= r.asked.tokens * (rope->pairs_before + rope->pairs)) ++rope;
    const std::int64_t at = i - r.asked.tokens * rope->pairs_before;
    const rope_entry e =
        rope_at(static_cast<double>(r.asked.position + at / rope->pairs),
                in_image<double>(d.image, rope->frequency_at)[at % rope->pairs], 1 / rope->attention_factor);
    float* const to = reinterpret_cast<float*>(d.workspace + r.ropes_at) + 2 * i;
    to[0] = e.cosine;
    to[1] = -e.sine;
  }
}

/// What the host can say of a request before its tables were looked at. Errors: those of encoder::encode.
inline status check_request(const encode_request& r, bool elements) noexcept {
  if (r.levels < 1) return status::invalid_argument;
  if (const status s = validate_shape(r.cache); s != status::ok) return s;
  if (r.size() <= 0 || r.begin() < 0) return status::invalid_argument;
  if (r.size() > max_frame_tokens || r.begin() > INT64_MAX - max_frame_tokens) return status::too_large;
  for (const plane_view* p : {&r.cache.k, &r.cache.v})
    if (!elements && p->present() && p->type == dtype::bytes) return status::unsupported_type;
  return status::ok;
}

/// Strands of a request.
inline std::int64_t strands_of(const encode_request& r, const model_head& head, int tile_tokens) noexcept {
  const std::int64_t tokens = r.size() > 0 && r.size() <= max_frame_tokens ? r.size() : 0;
  return (tokens + tile_tokens - 1) / tile_tokens * head.strands;
}

/// Room for requests of a model in a workspace that begins with the open and forward stages; `elements`: see
/// room_for_encode().
inline encode_room room_for(const model_head& head, std::span<const encode_request> requests, int tile_tokens,
                            bool elements) noexcept {
  std::int64_t tokens = 0, strands = 0;
  for (const encode_request& r : requests) {
    const std::int64_t n = strands_of(r, head, tile_tokens);
    strands += n;
    if (n > 0) tokens += r.size();
  }
  return room_for_encode(head, static_cast<std::int64_t>(requests.size()), tokens, strands, tile_tokens, elements);
}

/// Where everything of these stages lies in it, at a multiple of 16.
inline encode_state place_encode(const model_head& head, std::span<const encode_request> requests, int tile_tokens,
                                 int passes, bool elements, const std::byte* image, std::byte* workspace) noexcept {
  encode_state d{};
  d.image = image;
  d.workspace = workspace;
  d.num_requests = static_cast<std::int32_t>(requests.size());
  d.tile_tokens = tile_tokens;
  d.passes = passes;
  d.value_bytes = elements ? 4 : 2;
  const encode_room room = room_for(head, requests, tile_tokens, elements);
  d.num_strands = static_cast<std::int32_t>(room.strands / sizeof(encode_strand));
  d.requests = reinterpret_cast<open_encode*>(workspace);
  std::uint64_t at = room.requests;
  d.strands = reinterpret_cast<encode_strand*>(workspace + at);
  d.slots_at = at += room.strands;
  d.ropes_at = at += room.slots;
  d.flags_at = at += room.ropes;
  d.lists_at = at += room.flags;
  d.means_at = at += room.lists;
  d.values_at = at += room.means;
  return d;
}

/// Puts requests and their strands into the workspace, on the device. The first `sinks` tokens of a sequence are kept exact,
/// whatever a request says. Errors: cuda_error; what is wrong with a request is said in its open_encode.
inline status open_encodes(const encode_state& d, const model_head& head, std::span<const encode_request> requests,
                           bool elements, cudaStream_t stream, std::int64_t sinks = 0) {
  encode_batch batch{};
  std::int64_t tokens = 0, strands = 0, most = 0;
  for (std::size_t i = 0; i < requests.size(); ++i) {
    const encode_request& r = requests[i];
    open_encode& o = batch.requests[batch.count++];
    const std::int64_t n = strands_of(r, head, d.tile_tokens);
    o = {};
    o.asked = r;
    o.asked.position = r.begin();
    o.asked.tokens = n > 0 ? r.size() : 0;
    o.state = check_request(r, elements);
    if (o.state != status::ok) o.asked.position = 0;
    o.asked.exact_before = r.exact_before > sinks ? r.exact_before : sinks;
    o.passes = r.levels < d.passes ? r.levels : d.passes;
    o.token_tiles = static_cast<std::int32_t>(n / (head.strands > 0 ? head.strands : 1));
    o.first_strand = static_cast<std::int32_t>(strands);
    o.strands = static_cast<std::int32_t>(n);
    o.slots_at = d.slots_at + i * round_16(static_cast<std::uint64_t>(head.layers) * sizeof(std::int32_t));
    o.ropes_at = d.ropes_at + static_cast<std::uint64_t>(tokens) * static_cast<std::uint64_t>(head.rope_pairs) * 8;
    strands += n;
    tokens += o.asked.tokens;
    most = o.asked.tokens > most ? o.asked.tokens : most;
    if (batch.count < encode_batch::most && i + 1 < requests.size()) continue;
    if (const status s = launch(open_encode_kernel<>, batch.count, open_threads, 0, stream, d, batch); s != status::ok)
      return s;
    batch.first += batch.count;
    batch.count = 0;
  }
  const std::int64_t each = (most * head.rope_pairs + rope_angles - 1) / rope_angles;
  return launch(undo_ropes_kernel<>, each * d.num_requests, 256, 0, stream, d, static_cast<std::int32_t>(each));
}

}  // namespace sluice::cuda
