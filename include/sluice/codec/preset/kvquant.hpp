// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/bit_string.hpp>
#include <sluice/codec/group/tile_tokens.hpp>
#include <sluice/codec/stages.hpp>
#include <sluice/codec/tile_codec.hpp>
#include <sluice/numeric.hpp>
#include <sluice/tensor/half.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

// KVQuant (arXiv 2401.18079): keys before their rotary embedding in units of each channel, values in units of each
// token, levels that are no uniform grid, outliers apart. FORMAT.md section 6.10.

namespace sluice {
namespace detail::kvquant {

inline constexpr std::uint8_t section_id = 7;
inline constexpr int sinks = 1;       // the paper's: the first token
inline constexpr int most_bits = 6;   // of a code
inline constexpr float most = 65504;  // what an f16 holds

/// What the section says of a group of heads: levels within -1 and 1, and of K where each channel lies.
struct table {
  std::vector<float> levels;        // [2^bits], ascending
  std::vector<float> center, span;  // [width] of K: values within center +- span are coded, others are outliers

  /// The level nearest to x, of those the lower.
  std::uint32_t code(float x) const noexcept {
    const auto next = std::lower_bound(levels.begin(), levels.end(), x);
    if (next == levels.begin()) return 0;
    if (next == levels.end()) return std::uint32_t(levels.size() - 1);
    return std::uint32_t(next - levels.begin()) - (x - next[-1] <= *next - x);
  }
};

/// Tables of a model for one width of codes.
struct model {
  std::vector<table> tables;
  per_group<int> where;  // only for its index
  status state = status::ok;

  model(const profile& p, int bits) : where(p, [](const plane_profile&, int) { return 0; }) {
    const profile_section* const s = p.find(profile_stage::entropy, section_id);
    state = s ? read(s->bytes, p, bits) : status::missing_section;
    if (state != status::ok) tables.clear();
  }
  const table& of(const group_place& g) const noexcept { return tables[where.index(g)]; }

 private:
  // Untrusted. u8 n, u8 bits[n]; for every group of K f16 center[width], f16 span[width]; for every group and each of
  // the widths f16 levels[2^bits].
  status read(std::span<const std::byte> bytes, const profile& p, int bits) {
    byte_reader r(bytes);
    std::vector<std::uint8_t> widths;
    const std::size_t n = r.get<std::uint8_t>();
    r.get_vector(widths, n);
    if (!r.ok()) return status::corrupt_profile;
    std::size_t mine = widths.size();
    for (std::size_t i = 0; i < widths.size(); ++i) {
      if (widths[i] < 1 || widths[i] > most_bits || (i && widths[i] <= widths[i - 1])) return status::corrupt_profile;
      if (widths[i] == bits) mine = i;
    }
    if (mine == widths.size()) return status::missing_section;
    for (std::size_t at = 0; at < p.planes.size(); ++at)
      for (int g = 0; g < p.planes[at].groups(); ++g) {
        table& t = tables.emplace_back();
        if (at % 2 == 0) {
          const std::size_t width = std::size_t(p.planes[at].width_of(g));
          if (!floats(r, width, t.center) || !floats(r, width, t.span)) return status::corrupt_profile;
          for (const float s : t.span)
            if (s < 0) return status::corrupt_profile;
        }
        for (std::size_t i = 0; i < widths.size(); ++i) {
          std::vector<float> levels;
          if (!floats(r, std::size_t{1} << widths[i], levels)) return status::corrupt_profile;
          if (!std::is_sorted(levels.begin(), levels.end()) || levels.front() < -1 || levels.back() > 1)
            return status::corrupt_profile;
          if (i == mine) t.levels = std::move(levels);
        }
      }
    return r.ok() && r.left() == 0 ? status::ok : status::corrupt_profile;
  }

  static bool floats(byte_reader& r, std::size_t n, std::vector<float>& to) {
    std::vector<std::uint16_t> bits;
    r.get_vector(bits, n);
    if (!r.ok() || !finite_f16(bits)) return false;
    to.resize(n);
    for (std::size_t i = 0; i < n; ++i) to[i] = to_float(f16{bits[i]});
    return true;
  }
};

/// Of V's values in one token, how many stand apart: one in a hundred.
constexpr int outliers_of(int width) noexcept { return (width + 50) / 100; }

/// Center and span of a token's V without its outliers: those farthest out, half of them on either side, and an odd one
/// on the side that leaves less. `order` is memory.
inline void range_of_token(const float* x, int n, std::vector<float>& order, f16& center, f16& span) {
  order.assign(x, x + n);
  std::sort(order.begin(), order.end());
  const int apart = outliers_of(n), each = apart / 2;
  auto low = order.begin() + each, high = order.end() - 1 - each;
  if (apart % 2 && low < high) {
    if (high[0] - low[1] < high[-1] - low[0])
      ++low;
    else
      --high;
  }
  center = from_float<f16>((*low + *high) / 2);
  // Up to the next f16, so that what is meant to be inside is.
  const float c = to_float(center), reach = max(*high - c, c - *low);
  span = from_float<f16>(reach);
  if (to_float(span) < reach) ++span.bits;
}

}  // namespace detail::kvquant

class kvquant_calibrator;

namespace codec {
inline namespace SLUICE_HOST_ABI {

/// KVQuant: `Bits` bits a value on levels that k-means found, weighted by what errors of a channel cost; un-rotated
/// keys in units of their channel, which are in the profile, values in units of their token (f16 center and span); one
/// value in a hundred apart, an index and an f16; the first token as it is. Levels and channels: calibrate/kvquant.hpp,
/// `sluice calibrate --for kvquant4`. Source: arXiv 2401.18079 section 3.
template <int Bits, grouping_policy Grouping = tile_tokens<>>
struct kvquant {
  static_assert(Bits >= 1 && Bits <= detail::kvquant::most_bits,
                "sluice::codec::kvquant<Bits>: Bits must be from 1 to 6");
  /// The same codec with tiles of another size.
  template <class G>
  using with_grouping = kvquant<Bits, G>;
  using calibrator = kvquant_calibrator;                                   ///< makes its section; calibrate/kvquant.hpp
  static constexpr std::uint8_t section_id = detail::kvquant::section_id;  ///< of the profile, stage entropy

  static constexpr codec_id id{stage_id::of(5, Grouping::tokens),        {}, {}, stage_id::of(0, Bits), {},
                               stage_id::of(detail::kvquant::section_id)};
  static constexpr int tile_tokens = Grouping::tokens;
  static constexpr value_domain domain = value_domain::unrotated;
  static constexpr int span = 0;
  static int passes(const profile&) noexcept { return 1; }
  static bool keeps_exact(const profile&, std::int64_t position, std::int64_t) noexcept {
    return position < detail::kvquant::sinks;
  }
  static bool uses(const profile&) noexcept { return true; }
  static std::uint64_t fingerprint(const profile& p) { return p.fingerprint(profile_stage::entropy, section_id); }

  class encoder {
   public:
    encoder(const profile& p, isa) : model_(p, Bits) {}
    status state() const noexcept { return model_.state; }

    status encode(tile_rows& in, const side_info&, int /*passes*/, tile_writer& w) {
      using namespace detail::kvquant;
      const table& t = model_.of(in.place);
      const int n = in.place.width();
      // A row with a value that no f16 holds, or with more outliers than a byte counts, becomes exact.
      beyond_.resize(in.rows.size());
      for (int r = 0; r < in.count(); ++r) {
        const float* const x = in.x + r * in.ld;
        bool fits = true;
        for (int c = 0; c < n; ++c) fits &= detail::abs(x[c]) <= most / 2;
        if (fits) scale(t, x, in.place);
        beyond_[std::size_t(r)] = !fits || apart_.size() > 255;
      }
      in.make_exact(beyond_);
      if (in.count() == 0) return status::ok;
      std::vector<std::uint8_t>&side = w.at(0, section::quantizer), &codes = w.at(0, section::entropy);
      std::vector<std::uint8_t> counts, index, values;
      detail::bit_writer bits(codes);
      const auto put = [](std::vector<std::uint8_t>& to, std::uint16_t v, int bytes) {
        for (int i = 0; i < bytes; ++i) to.push_back(std::uint8_t(v >> 8 * i));
      };
      for (int r = 0; r < in.count(); ++r) {
        const float* const x = in.x + r * in.ld;
        scale(t, x, in.place);
        if (in.place.plane == plane::value) put(side, center_.bits, 2), put(side, span_.bits, 2);
        for (const std::uint32_t c : code_) bits.put(c, Bits);
        counts.push_back(std::uint8_t(apart_.size()));
        for (const int c : apart_) {
          put(index, std::uint16_t(c), n > 256 ? 2 : 1);
          put(values, from_float<f16>(x[c]).bits, 2);
        }
      }
      bits.finish();
      for (const auto* part : {&counts, &index, &values}) side.insert(side.end(), part->begin(), part->end());
      return status::ok;
    }

   private:
    // Codes of one row, and the channels that stand apart; of V its center and span.
    void scale(const detail::kvquant::table& t, const float* x, const group_place& g) {
      using namespace detail::kvquant;
      const std::size_t n = std::size_t(g.width());
      const bool key = g.plane == plane::key;
      if (!key) range_of_token(x, int(n), order_, center_, span_);
      code_.resize(n);
      apart_.clear();
      for (std::size_t c = 0; c < n; ++c) {
        const float center = key ? t.center[c] : to_float(center_), extent = key ? t.span[c] : to_float(span_);
        const float d = x[c] - center;
        const bool inside = detail::abs(d) <= extent;
        if (!inside) apart_.push_back(int(c));
        code_[c] = inside && extent > 0 ? t.code(d / extent) : 0;
      }
    }

    detail::kvquant::model model_;
    std::vector<std::uint8_t> beyond_;
    std::vector<float> order_;
    std::vector<std::uint32_t> code_;
    std::vector<int> apart_;
    f16 center_, span_;
  };

  class decoder {
   public:
    decoder(const profile& p, isa) : model_(p, Bits) {}
    status state() const noexcept { return model_.state; }

    void decode(std::span<tile> tiles, const side_info&) {
      for (std::size_t i = 0; i < tiles.size(); ++i) {
        tiles[i].slot = int(i);
        if (!open(tiles[i], x_[i])) tiles[i].state = status::corrupt_tile;
      }
    }

    int rows(const tile& t, int first, int n, float* out, std::ptrdiff_t ld) {
      const std::size_t width = std::size_t(t.place.width());
      for (int r = 0; r < n; ++r, out += ld) {
        const float* const x = x_[t.slot].data() + std::size_t(first + r) * width;
        detail::copy(x, x + width, out);
      }
      return n;
    }

   private:
    // Values of one tile, [rows][width].
    bool open(const tile& t, std::vector<float>& x) const {
      using namespace detail::kvquant;
      const auto codes = t.section(0, section::entropy), side = t.section(0, section::quantizer);
      const std::size_t rows = std::size_t(t.rows()), n = std::size_t(t.place.width());
      if (rows == 0) return codes.empty() && side.empty();
      const bool key = t.place.plane == plane::key;
      section_reader r(side);
      const auto ranges = r.take(key ? 0 : 4 * rows), counts = r.take(rows);
      std::size_t all = 0;
      for (const std::uint8_t c : counts) all += c;
      const std::size_t index_bytes = n > 256 ? 2 : 1;
      const auto index = r.take(all * index_bytes), values = r.take(2 * all);
      if (!r.finished() || codes.size() != detail::bytes_of_bits(rows * n * std::size_t(Bits))) return false;
      const table& of = model_.of(t.place);
      const auto half = [](std::span<const std::uint8_t> b, std::size_t i) {
        return f16{std::uint16_t(b[2 * i] | b[2 * i + 1] << 8)};
      };
      detail::bit_reader bits(codes);
      x.resize(rows * n);
      for (std::size_t row = 0, next = 0; row < rows; ++row) {
        float center = 0, extent = 0;
        if (!key) {
          center = to_float(half(ranges, 2 * row));
          extent = to_float(half(ranges, 2 * row + 1));
          if (!detail::isfinite(center) || !detail::isfinite(extent)) return false;
        }
        float* const to = &x[row * n];
        for (std::size_t c = 0; c < n; ++c)
          to[c] = of.levels[bits.get(Bits)] * (key ? of.span[c] : extent) + (key ? of.center[c] : center);
        for (std::size_t i = 0, before = 0; i < counts[row]; ++i, ++next) {
          const std::size_t c = index_bytes == 1 ? index[next] : half(index, next).bits;
          const f16 v = half(values, next);
          if (c >= n || (i && c <= before) || !detail::finite_f16(v.bits)) return false;
          before = c;
          to[c] = to_float(v);
        }
      }
      return true;
    }

    detail::kvquant::model model_;
    std::vector<float> x_[tiles_at_once];
  };
};

static_assert(tile_codec<kvquant<4>>);

}  // namespace SLUICE_HOST_ABI
}  // namespace codec
}  // namespace sluice
