// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/preset/cachegen_paper.hpp>
#include <sluice/cuda/entropy/rans_steps.cuh>
#include <sluice/cuda/image.hpp>
#include <sluice/cuda/stages.cuh>
#include <sluice/cuda/store/store.cuh>

#include <cstddef>
#include <cstdint>
#include <vector>

// CacheGen's paper on a device (FORMAT.md section 6.5). Its coder has one state a tile, so a warp takes a tile and all lanes
// look for one symbol; many tiles are under way.

namespace sluice::cuda {

/// What the tables of a codec are in an image, at model_head::own_at.
struct cachegen_tables {
  float bins[3];             ///< widths of bins of differences, by thirds of the layers
  std::uint32_t channels;    ///< of the model
  std::uint64_t windows_at;  ///< cachegen_window[2][channels]: of anchors, of differences
  std::uint64_t starts_at;   ///< u16: the first slots of the symbols of all windows, each window's end behind them
  std::uint64_t groups_at;   ///< u32[strands]: the first channel of each group
};

/// The symbols of a channel that have more than one slot.
struct cachegen_window {
  std::uint32_t at;          ///< of the first one's start
  std::uint16_t first, end;  ///< that symbol; the one behind the last
};

/// Appends the tables that calibration put into the profile.
template <int Percent, class Grouping>
struct image_part<codec::cachegen_paper<Percent, Grouping>> {
  static status put(const profile& p, image_writer& w, model_head& h) {
    namespace paper = sluice::detail::cachegen;
    const profile_section* const section = p.find(profile_stage::entropy, paper::section_id);
    if (!section) return status::missing_section;
    cachegen_tables t{};
    for (int i = 0; i < 3; ++i) t.bins[i] = paper::bin_width(i, 3, Percent);
    t.channels = std::uint32_t(paper::channel_index(p).count);
    std::vector<cachegen_window> windows(2 * std::size_t{t.channels});
    std::vector<std::uint16_t> starts;
    // Blocks were checked by whoever made sure that the profile serves.
    for (std::span<const std::byte> bytes = section->bytes; !bytes.empty();) {
      sluice::detail::byte_reader r(bytes);
      const auto percent = r.get<std::uint16_t>();
      r.get<std::uint16_t>();
      const auto size = r.get<std::uint32_t>();
      if (!r.ok() || size > r.left()) return status::corrupt_profile;
      bytes = bytes.subspan(8 + std::size_t{size});
      if (percent != 0 && percent != Percent) continue;
      for (std::uint32_t c = 0; c < t.channels; ++c) {
        const int first = r.get<std::uint8_t>(), last = r.get<std::uint8_t>();
        windows[(percent ? std::size_t{t.channels} : 0) + c] = {std::uint32_t(starts.size()), std::uint16_t(first),
                                                                std::uint16_t(last + 1)};
        unsigned next = unsigned(first);
        for (int s = first; s <= last; ++s) {
          starts.push_back(std::uint16_t(next));
          next += r.get<std::uint16_t>();
        }
        starts.push_back(std::uint16_t(next));
      }
      if (!r.ok()) return status::corrupt_profile;
    }
    std::vector<std::uint32_t> groups;
    std::uint32_t before = 0;
    for (const plane_profile& q : p.planes) {
      for (int g = 0; g < q.groups(); ++g) groups.push_back(before + std::uint32_t(g * q.group_width));
      before += std::uint32_t(q.width);
    }
    t.windows_at = w.put(windows);
    t.starts_at = w.put(starts);
    t.groups_at = w.put(groups);
    h.own_at = w.put(std::span<const cachegen_tables>(&t, 1));
    return status::ok;
  }
};

/// The state of a coder with 16-bit frequencies and words, the same in all lanes.
struct word_coder {
  std::uint64_t x;
  const std::uint8_t *next, *end;
  std::uint32_t word = 0;  // the next one
  bool ok;

  __device__ __forceinline__ word_coder(const std::uint8_t* bytes, std::uint32_t size)
      : x(0), next(bytes + 8), end(bytes + size), ok(size >= 8) {
    if (!ok) return;
    x = sluice::detail::load_u32(bytes) | std::uint64_t{sluice::detail::load_u32(bytes + 4)} << 32;
    ok = x >= sluice::detail::cachegen::coder::home && x >> 63 == 0;
    fetch();
  }
  __device__ __forceinline__ void fetch() {
    if (end - next >= 4) word = sluice::detail::load_u32(next);
  }
  __device__ __forceinline__ std::uint32_t slot() const { return static_cast<std::uint32_t>(x) & 0xffff; }
  __device__ __forceinline__ void drop(std::uint32_t start, std::uint32_t size) {
    x = size * (x >> 16) + (slot() - start);
    if (x >= sluice::detail::cachegen::coder::home) return;
    ok = ok && end - next >= 4;
    x = x << 32 | word;
    next += 4;
    fetch();
  }
  __device__ __forceinline__ bool finished() const {
    return ok && x == sluice::detail::cachegen::coder::home && next == end;
  }
};

inline constexpr int cachegen_warps = 4;  ///< of a block

/// Integers of all strands into the workspace; a warp a strand. A template only so that the header may be included
/// anywhere.
template <int = 0>
__global__ void __launch_bounds__(32 * cachegen_warps, 8) cachegen_kernel(const decode_state d) {
  const int index = static_cast<int>(blockIdx.x * cachegen_warps + threadIdx.x / 32);
  if (index >= d.num_strands) return;
  strand& s = d.strands[index];
  const int rows = s.rows();
  if (s.state != status::ok || rows == 0) return;
  const int lane = static_cast<int>(threadIdx.x % 32);
  const group_model& g = group_of(d.image, s.group);
  const cachegen_tables& t = *in_image<cachegen_tables>(d.image, head_of(d.image).own_at);
  const auto* const starts = in_image<std::uint16_t>(d.image, t.starts_at);
  const cachegen_window* const anchors =
      in_image<cachegen_window>(d.image, t.windows_at) + in_image<std::uint32_t>(d.image, t.groups_at)[s.group];
  auto* to = reinterpret_cast<std::int16_t*>(d.workspace + s.values_at);
  word_coder code(reinterpret_cast<const std::uint8_t*>(d.requests[s.request].asked.frame + s.entropy[0].at),
                  s.entropy[0].size);
  for (int row = 0; row < rows && code.ok; ++row, to += g.ld) {
    const cachegen_window* const windows =
        anchors + (row % sluice::detail::cachegen::group_tokens != 0 ? t.channels : 0);
    for (int first = 0; first < g.width && code.ok; first += 32) {
      const int here = g.width - first < 32 ? g.width - first : 32;
      const cachegen_window mine = lane < here ? windows[first + lane] : cachegen_window{};
      const auto load = [&](std::uint32_t at, int n) {  // beyond the window: no slot is there
        return lane < n ? starts[at + static_cast<unsigned>(lane)] : std::uint32_t{0x10000};
      };
      const auto symbols = [](std::uint32_t range) {
        return static_cast<int>(range >> 16) - static_cast<int>(range & 0xffff);
      };
      const std::uint32_t my_range = mine.first | std::uint32_t{mine.end} << 16;
      std::uint32_t at = __shfl_sync(whole_warp, mine.at, 0), range = __shfl_sync(whole_warp, my_range, 0);
      std::uint32_t front = load(at, symbols(range));
      int value = 0;
      for (int c = 0; c < here; ++c) {
        const int next = c + 1 < here ? c + 1 : c;
        const std::uint32_t next_at = __shfl_sync(whole_warp, mine.at, next);
        const std::uint32_t next_range = __shfl_sync(whole_warp, my_range, next);
        const std::uint32_t next_front = load(next_at, symbols(next_range));
        const std::uint32_t slot = code.slot(), low = range & 0xffff, high = 65536 - 256 + (range >> 16);
        std::uint32_t symbol, start = slot, size = 1;
        if (slot < low) {
          symbol = slot;
        } else if (slot >= high) {
          symbol = 256 - (65536 - slot);
        } else {
          int before = __popc(__ballot_sync(whole_warp, front <= slot));
          for (int k = 32; k < symbols(range); k += 32)
            before += __popc(__ballot_sync(
                whole_warp, k + lane < symbols(range) && starts[at + static_cast<unsigned>(k + lane)] <= slot));
          const std::uint16_t* const found = starts + at + before - 1;
          start = found[0];
          size = static_cast<std::uint16_t>(found[1] - found[0]);
          symbol = low + static_cast<unsigned>(before) - 1;
        }
        code.drop(start, size);
        int q = static_cast<int>(symbol) - sluice::detail::cachegen::most;
        if (symbol == sluice::detail::cachegen::alphabet_size - 1) {
          q = static_cast<int>(code.slot()) - 32768;
          code.drop(code.slot(), 1);
        }
        if (lane == c) value = q;
        at = next_at;
        range = next_range;
        front = next_front;
      }
      if (lane < here) to[first + lane] = static_cast<std::int16_t>(value);
    }
  }
  __syncwarp();
  if (!code.finished() && lane == 0) s.state = status::corrupt_tile;
}

/// Values of anchors and of differences to them, for store_float_rows.
class cachegen_source {
 public:
  __device__ __forceinline__ cachegen_source(const decode_state& d, const open_request& r, const strand& s,
                                             const group_model& g, float*)
      : values_(reinterpret_cast<const std::int16_t*>(d.workspace + s.values_at)),
        scales_(reinterpret_cast<const std::uint8_t*>(r.asked.frame + s.transform.at)),
        ld_(g.ld) {
    const model_head& head = head_of(d.image);
    bin_ = in_image<cachegen_tables>(d.image, head.own_at)->bins[3 * g.layer / head.layers];
  }
  /// Values of `count` channels of a row; others are anything.
  __device__ __forceinline__ void operator()(int row, int channel, int count, float (&v)[8]) const {
    constexpr int tokens = sluice::detail::cachegen::group_tokens;
    const int group = row / tokens, anchor_row = group * tokens;
    const float scale = float_of_half(sluice::detail::load_u16(scales_ + 2 * group));
    const float step = __fdiv_rn(scale, static_cast<float>(sluice::detail::cachegen::most));
    const std::int16_t* const anchors = values_ + std::ptrdiff_t{anchor_row} * ld_ + channel;
    const std::int16_t* const own = values_ + std::ptrdiff_t{row} * ld_ + channel;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (i >= count) break;
      v[i] = __fmul_rn(static_cast<float>(anchors[i]), step);
      if (row != anchor_row) v[i] = __fadd_rn(__fmul_rn(static_cast<float>(own[i]), bin_), v[i]);
    }
  }
  __device__ __forceinline__ float scale(int) const { return 1; }

 private:
  const std::int16_t* values_;
  const std::uint8_t* scales_;
  std::ptrdiff_t ld_;
  float bin_;
};

template <int Percent, class Grouping>
struct codec_stages<codec::cachegen_paper<Percent, Grouping>> {
  static status init(const model_sizes&, const device_limits&) { return status::ok; }
  static constexpr std::uint64_t bytes(const model_sizes&, std::int32_t) noexcept { return 0; }
  static status decode(const decode_state& d, const model_sizes&, const device_limits&, cudaStream_t stream) {
    const std::int64_t blocks = (std::int64_t{d.num_strands} + cachegen_warps - 1) / cachegen_warps;
    if (const status s = launch(&cachegen_kernel<>, blocks, 32 * cachegen_warps, 0, stream, d); s != status::ok)
      return s;
    if (const status s = store_floats<cachegen_source>(d, stream); s != status::ok) return s;
    return store_exact(d, stream);
  }

  /// Sections: f16 scales of the groups of tokens; the code, which the kernel checks.
  static __device__ bool open(const opened_tile& t, opened_quantizer&) {
    const piece section = t.s->transform;
    const int rows = t.s->rows(), tokens = sluice::detail::cachegen::group_tokens;
    if (rows == 0) return section.size == 0 && t.s->entropy[0].size == 0;
    const int groups = (rows + tokens - 1) / tokens;
    if (section.size != 2 * static_cast<std::uint32_t>(groups)) return false;
    bool sound = true;
    for (int i = static_cast<int>(t.lane); i < groups; i += 32)
      sound = sound && sluice::detail::load_u16(t.frame + section.at + 2 * i) < 0x7c00;
    return __all_sync(0xffffffffu, sound) != 0;
  }
};

}  // namespace sluice::cuda
