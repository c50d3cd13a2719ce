// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/group/tile_tokens.hpp>
#include <sluice/codec/rans/one_state.hpp>
#include <sluice/codec/stages.hpp>
#include <sluice/codec/tile_codec.hpp>
#include <sluice/numeric.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

// CacheGen as its paper describes it (arXiv 2310.07240 sections 5.2 and C.2), which differs from its released code: groups
// of ten tokens, an anchor each and differences to it, static tables for every channel. What the paper leaves open is
// decided in its favour: the widths of bins are in the units of the cache, which on three models loses less at equal bytes
// than units of each row's absolute maximum (bench/cachegen_paper.py --readings); only anchors are scaled, by an f16; the
// arithmetic coder is a rANS of one state a tile. FORMAT.md section 6.5.

namespace sluice {
namespace detail::cachegen {

inline constexpr int group_tokens = 10;
inline constexpr int most = 127;           // largest value that has a symbol of its own, either side of 0
inline constexpr int alphabet_size = 256;  // values from -most on, and the last one: sixteen raw bits follow
using one_state_rans::coder;
using one_state_rans::place;
using one_state_rans::slots;
using one_state_rans::uncoder;
inline constexpr float largest = 32000;  // differences of two such elements have a finite f16
inline constexpr std::uint8_t section_id = 5;

/// Width of the bins of differences: by thirds of the model's layers.
constexpr float bin_width(int layer, int num_layers, int percent) noexcept {
  return 0.5f * float(1 + 3 * layer / max(num_layers, 1)) * (float(percent) / 100);
}

/// Distributions of all channels of a model for anchors or for one width of bins. Symbols outside of a table's window
/// have one slot each, so that nothing is ever uncodable.
class tables {
 public:
  struct window {
    std::uint32_t at = 0;  // of its first symbol among starts_
    std::uint8_t first = 0, last = 0;
  };

  /// Reads one block of the section, untrusted: for every channel u8 first, u8 last, u16 slots of each symbol between.
  bool read(std::span<const std::byte> bytes, std::size_t channels) {
    byte_reader r(bytes);
    windows_.clear();
    starts_.clear();
    for (std::size_t c = 0; c < channels; ++c) {
      window w;
      w.at = std::uint32_t(starts_.size());
      w.first = r.get<std::uint8_t>();
      w.last = r.get<std::uint8_t>();
      if (!r.ok() || w.last < w.first) return false;
      std::uint32_t next = w.first;
      for (int s = w.first; s <= w.last; ++s) {
        const auto size = r.get<std::uint16_t>();
        if (size == 0 || next >= slots) return false;
        starts_.push_back(std::uint16_t(next));
        next += size;
      }
      if (next != slots - std::uint32_t(alphabet_size - 1 - w.last)) return false;
      windows_.push_back(w);
    }
    return r.ok() && r.left() == 0;
  }

  place of(std::size_t channel, int symbol) const noexcept {
    const window& w = windows_[channel];
    if (symbol < w.first) return {std::uint32_t(symbol), 1};
    if (symbol > w.last) return {slots - std::uint32_t(alphabet_size - symbol), 1};
    const std::uint16_t* const start = &starts_[w.at + std::size_t(symbol - w.first)];
    const std::uint32_t next = symbol < w.last ? start[1] : slots - std::uint32_t(alphabet_size - 1 - w.last);
    return {*start, next - *start};
  }

  int symbol_at(std::size_t channel, std::uint32_t slot) const noexcept {
    const window& w = windows_[channel];
    if (slot < w.first) return int(slot);
    if (slot >= slots - std::uint32_t(alphabet_size - 1 - w.last)) return alphabet_size - int(slots - slot);
    const std::uint16_t *low = &starts_[w.at], *first = low;
    for (int n = w.last - w.first + 1; n > 1;) {
      const int half = n / 2;
      low += low[half] <= slot ? half : 0;
      n -= half;
    }
    return w.first + int(low - first);
  }

 private:
  std::vector<window> windows_;
  std::vector<std::uint16_t> starts_;
};

/// The channels of a model in the order of the tables: layer by layer, K before V.
struct channel_index {
  std::size_t count = 0;
  std::vector<std::size_t> first;  // [2 * layer + plane]

  explicit channel_index(const profile& p) {
    for (const plane_profile& q : p.planes) {
      first.push_back(count);
      count += std::size_t(q.width);
    }
  }
  /// The first one of a group.
  std::size_t of(const group_place& g) const noexcept {
    return first[2 * std::size_t(g.layer) + std::size_t(g.plane)] + std::size_t(g.first_head * g.head_dim);
  }
};

/// The tables of one setting, and where the channels of a plane stand in them.
struct model {
  tables anchors, differences;
  channel_index where;
  status state = status::ok;

  model(const profile& p, int percent) : where(p) {
    const profile_section* s = p.find(profile_stage::entropy, section_id);
    state = s ? read(s->bytes, where.count, percent) : status::missing_section;
  }

 private:
  // Blocks of u16 percent (0 = anchors), u16 reserved, u32 size and so many bytes.
  status read(std::span<const std::byte> bytes, std::size_t channels, int percent) {
    bool known[2] = {};
    while (!bytes.empty()) {
      byte_reader head(bytes);
      const auto of = head.get<std::uint16_t>();
      const auto reserved = head.get<std::uint16_t>();
      const auto size = head.get<std::uint32_t>();
      if (!head.ok() || reserved || size > head.left()) return status::corrupt_profile;
      const auto block = bytes.subspan(8, size);
      bytes = bytes.subspan(8 + std::size_t{size});
      if (of != 0 && of != percent) continue;
      if (known[of != 0] || !(of ? differences : anchors).read(block, channels)) return status::corrupt_profile;
      known[of != 0] = true;
    }
    return known[0] && known[1] ? status::ok : status::missing_section;
  }
};

/// Rows of one group of tokens as integers and back; the only arithmetic that encoder, decoder and calibration share.
struct rounding {
  float width;  // of the bins of differences

  static f16 scale_of(const float* x, int n) noexcept {
    float high = 0;
    for (int i = 0; i < n; ++i) high = max(high, abs(x[i]));
    return from_float<f16>(high);
  }
  static float anchor_step(f16 scale) noexcept { return to_float(scale) / float(most); }
  static void anchor(const float* x, int n, f16 scale, std::int16_t* q) noexcept {
    const float step = anchor_step(scale), inverse = step > 0 ? 1 / step : 0;
    for (int i = 0; i < n; ++i) q[i] = std::int16_t(clamp(lrint(x[i] * inverse), long{-most}, long{most}));
  }
  static void restore_anchor(const std::int16_t* q, int n, f16 scale, float* x) noexcept {
    const float step = anchor_step(scale);
    for (int i = 0; i < n; ++i) x[i] = float(q[i]) * step;
  }
  void difference(const float* x, const float* anchor, int n, std::int16_t* q) const noexcept {
    const float inverse = 1 / width;
    for (int i = 0; i < n; ++i) q[i] = std::int16_t(lrint((x[i] - anchor[i]) * inverse));
  }
  void restore_difference(const std::int16_t* q, const float* anchor, int n, float* x) const noexcept {
    for (int i = 0; i < n; ++i) x[i] = float(q[i]) * width + anchor[i];
  }
  /// Whether every difference to another such row has an integer.
  bool holds(const float* x, int n) const noexcept {
    const float bound = min(largest, 16000 * width);
    for (int i = 0; i < n; ++i)
      if (!(abs(x[i]) <= bound)) return false;
    return true;
  }
};

}  // namespace detail::cachegen

class cachegen_calibrator;

namespace codec {
inline namespace SLUICE_HOST_ABI {

/// CacheGen's paper: the first of every ten tokens to 8 bits, the others as differences to it in bins that widen by thirds
/// of the layers, and an arithmetic coder with tables for every channel that calibrate_cachegen() puts into the profile.
/// `Percent` scales the bins: the paper's levels are frames of their own. Tiles are the paper's chunks of 1.5K tokens.
template <int Percent = 100, grouping_policy Grouping = tile_tokens<1520>>
struct cachegen_paper {
  static_assert(Percent >= 1 && Percent <= 1000, "sluice::codec::cachegen_paper<Percent>: bins of 1 to 1000 percent");
  /// The same codec with tiles of another size.
  template <class G>
  using with_grouping = cachegen_paper<Percent, G>;
  using calibrator = cachegen_calibrator;  ///< makes its section; calibrate/cachegen.hpp

  static constexpr codec_id id{stage_id::of(2, Grouping::tokens), {}, {},
                               stage_id::of(0, Percent),          {}, stage_id::of(detail::cachegen::section_id)};
  static constexpr int tile_tokens = Grouping::tokens;
  static constexpr value_domain domain = value_domain::rotated;
  static constexpr int span = 0;
  static int passes(const profile&) noexcept { return 1; }
  static bool keeps_exact(const profile&, std::int64_t, std::int64_t) noexcept { return false; }
  static bool uses(const profile&) noexcept { return true; }
  static std::uint64_t fingerprint(const profile& p) {
    return p.fingerprint(profile_stage::entropy, detail::cachegen::section_id);
  }

  class encoder {
   public:
    encoder(const profile& p, isa) : model_(p, Percent) {}
    status state() const noexcept { return model_.state; }

    status encode(tile_rows& in, const side_info&, int /*passes*/, tile_writer& w) {
      using namespace detail::cachegen;
      const int n = in.place.width();
      const rounding round{bin_width(in.place.layer, in.place.num_layers, Percent)};
      beyond_.resize(in.rows.size());
      for (int r = 0; r < in.count(); ++r) beyond_[std::size_t(r)] = !round.holds(in.x + r * in.ld, n);
      in.make_exact(beyond_);
      if (in.count() == 0) return status::ok;
      values_.resize(in.rows.size() * std::size_t(n));
      anchor_.resize(std::size_t(n));
      for (int r = 0; r < in.count(); ++r) {
        const float* const x = in.x + r * in.ld;
        std::int16_t* const q = &values_[std::size_t(r) * std::size_t(n)];
        if (r % group_tokens) {
          round.difference(x, anchor_.data(), n, q);
          continue;
        }
        const f16 scale = round.scale_of(x, n);
        w.put(0, section::transform, scale);
        round.anchor(x, n, scale, q);
        round.restore_anchor(q, n, scale, anchor_.data());
      }
      const std::size_t channel = model_.where.of(in.place);
      for (std::size_t i = values_.size(); i-- > 0;) {
        const std::size_t row = i / std::size_t(n), c = channel + i % std::size_t(n);
        const tables& t = row % group_tokens ? model_.differences : model_.anchors;
        const int q = values_[i];
        const bool raw = q < -most || q > most;
        if (raw) coder_.put({std::uint32_t(q + 32768), 1});
        coder_.put(t.of(c, raw ? alphabet_size - 1 : q + most));
      }
      coder_.finish(w.at(0, section::entropy));
      return status::ok;
    }

   private:
    detail::cachegen::model model_;
    detail::cachegen::coder coder_;
    std::vector<std::uint8_t> beyond_;
    std::vector<std::int16_t> values_;
    std::vector<float> anchor_;
  };

  class decoder {
   public:
    decoder(const profile& p, isa) : model_(p, Percent) {}
    status state() const noexcept { return model_.state; }

    void decode(std::span<tile> tiles, const side_info&) {
      for (std::size_t i = 0; i < tiles.size(); ++i) {
        tiles[i].slot = int(i);
        if (!open(tiles[i], open_[i])) tiles[i].state = status::corrupt_tile;
      }
    }

    int rows(const tile& t, int first, int n, float* out, std::ptrdiff_t ld) {
      using namespace detail::cachegen;
      const opened& o = open_[t.slot];
      const int width = t.place.width();
      const rounding round{bin_width(t.place.layer, t.place.num_layers, Percent)};
      anchor_.resize(std::size_t(width));
      for (int r = 0, known = -1; r < n; ++r, out += ld) {
        const int group = (first + r) / group_tokens;
        if (group != known)
          round.restore_anchor(o.row(group * group_tokens, width), width, o.scales[std::size_t(group)], anchor_.data());
        known = group;
        if ((first + r) % group_tokens)
          round.restore_difference(o.row(first + r, width), anchor_.data(), width, out);
        else
          detail::copy(anchor_.begin(), anchor_.end(), out);
      }
      return n;
    }

   private:
    // One tile as integers.
    struct opened {
      std::vector<f16> scales;           // [groups]
      std::vector<std::int16_t> values;  // [rows][width]
      const std::int16_t* row(int r, int width) const noexcept { return &values[std::size_t(r) * std::size_t(width)]; }
    };

    bool open(const tile& t, opened& o) const {
      using namespace detail::cachegen;
      const auto scales = t.section(0, section::transform), bytes = t.section(0, section::entropy);
      const std::size_t rows = std::size_t(t.rows()), n = std::size_t(t.place.width());
      if (rows == 0) return scales.empty() && bytes.empty();
      o.scales.resize((rows + group_tokens - 1) / group_tokens);
      if (scales.size() != 2 * o.scales.size()) return false;
      std::memcpy(o.scales.data(), scales.data(), scales.size());
      for (const f16 s : o.scales)
        if (s.bits >= 0x7c00) return false;
      o.values.resize(rows * n);
      uncoder u(bytes);
      const std::size_t channel = model_.where.of(t.place);
      for (std::size_t row = 0; row < rows && u.ok(); ++row) {
        const tables& of = row % group_tokens ? model_.differences : model_.anchors;
        for (std::size_t c = 0; c < n; ++c) {
          const int s = of.symbol_at(channel + c, u.slot());
          u.drop(of.of(channel + c, s));
          int q = s - most;
          if (s == alphabet_size - 1) {
            q = int(u.slot()) - 32768;
            u.drop({u.slot(), 1});
          }
          o.values[row * n + c] = std::int16_t(q);
        }
      }
      return u.finished();
    }

    detail::cachegen::model model_;
    opened open_[tiles_at_once];
    std::vector<float> anchor_;
  };
};

static_assert(tile_codec<cachegen_paper<>>);

}  // namespace SLUICE_HOST_ABI
}  // namespace codec
}  // namespace sluice
