// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/bit_string.hpp>
#include <sluice/codec/group/tile_tokens.hpp>
#include <sluice/codec/residual_window.hpp>
#include <sluice/codec/stages.hpp>
#include <sluice/codec/tile_codec.hpp>
#include <sluice/codec/transform/inverse_bases.hpp>
#include <sluice/numeric.hpp>
#include <sluice/tensor/half.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

// Attention-aware transform coding (arXiv 2608.14191): a transform that is weighted by what attention makes of errors,
// whole bits for every coefficient by reverse water-filling over all layers, and uniform quantisers with one scale a
// token and group of heads, no entropy coder. The transform is the profile's basis. FORMAT.md section 6.11.

namespace sluice {
namespace detail::aatc {

inline constexpr std::uint8_t section_id = 8;
inline constexpr int sinks = 4;  // first tokens that the paper keeps
inline constexpr int most_bits = 12;
inline constexpr float widest = 1e9f;  // so that no value of a hostile section is infinite

/// What the section says of a group of heads for one rate.
struct allocation {
  std::vector<float> deviation;    // [width] of coefficients
  std::vector<std::uint8_t> bits;  // [width]
  int row_bits = 0;                // their sum
};

/// Allocations of a model for one rate, which is in hundredths of a bit.
struct model {
  std::vector<allocation> allocations;
  per_group<int> where;  // only for its index
  status state = status::ok;

  model(const profile& p, int rate) : where(p, [](const plane_profile&, int) { return 0; }) {
    const profile_section* const s = p.find(profile_stage::entropy, section_id);
    state = s ? read(s->bytes, p, rate) : status::missing_section;
    if (state != status::ok) allocations.clear();
  }
  const allocation& of(const group_place& g) const noexcept { return allocations[where.index(g)]; }

 private:
  // Untrusted. u16 n, u16 reserved, u16 rate[n]; for every group f32 deviation[width], then for each rate u8
  // bits[width].
  status read(std::span<const std::byte> bytes, const profile& p, int rate) {
    byte_reader r(bytes);
    const int n = r.get<std::uint16_t>();
    if (r.get<std::uint16_t>() != 0) return status::corrupt_profile;
    int mine = -1;
    for (int i = 0, before = 0, x; i < n; ++i, before = x) {
      x = r.get<std::uint16_t>();
      if (!r.ok() || x <= before) return status::corrupt_profile;
      if (x == rate) mine = i;
    }
    if (!r.ok()) return status::corrupt_profile;
    if (mine < 0) return status::missing_section;
    for (const plane_profile& q : p.planes)
      for (int g = 0; g < q.groups(); ++g) {
        allocation& a = allocations.emplace_back();
        r.get_vector(a.deviation, std::size_t(q.width_of(g)));
        for (int i = 0; i < n && r.ok(); ++i) {
          std::vector<std::uint8_t> b;
          r.get_vector(b, std::size_t(q.width_of(g)));
          for (const std::uint8_t x : b)
            if (x > most_bits) return status::corrupt_profile;
          if (i == mine) a.bits = std::move(b);
        }
        if (!r.ok()) return status::corrupt_profile;
        for (std::size_t k = 0; k < a.bits.size(); ++k) {
          if (!(a.deviation[k] >= 0) || !(a.deviation[k] <= widest) || (a.bits[k] && !(a.deviation[k] > 0)))
            return status::corrupt_profile;
          a.row_bits += a.bits[k];
        }
      }
    return r.ok() && r.left() == 0 ? status::ok : status::corrupt_profile;
  }
};

/// Rows to coefficients: of the profile's basis, or as they are where it has none.
class forward_basis {
 public:
  explicit forward_basis(const profile& p)
      : profile_(&p), inverse_(inverse_bases_of(p)), where_(p, [](const plane_profile&, int) { return 0; }) {}
  status state() const noexcept { return inverse_ ? status::ok : status::corrupt_profile; }
  void operator()(const group_place& g, const float* x, float* y) const noexcept {
    const plane_profile& q = profile_->of(g.layer, g.plane);
    const std::size_t n = std::size_t(g.width()), first = std::size_t(g.group * q.group_width);
    const std::vector<float>& a = (*inverse_)[where_.index(g)];
    for (std::size_t k = 0; k < n; ++k) y[k] = a.empty() ? x[k] : 0;
    for (std::size_t i = 0; i < n && !a.empty(); ++i) {
      const float d = x[i] - to_float(f16{q.mean[first + i]});
      for (std::size_t k = 0; k < n; ++k) y[k] += d * a[i * n + k];
    }
  }

 private:
  const profile* profile_;
  std::shared_ptr<const inverse_bases> inverse_;
  per_group<int> where_;
};

}  // namespace detail::aatc

class aatc_calibrator;

namespace codec {
inline namespace SLUICE_HOST_ABI {

/// AATC without the tokens that it keeps; see aatc.
template <int Rate, grouping_policy Grouping>
struct aatc_tiles {
  static_assert(Rate >= 10 && Rate <= 1200, "sluice::codec::aatc<Rate>: a rate from 10 to 1200 hundredths of a bit");
  /// The same codec with tiles of another size.
  template <class G>
  using with_grouping = aatc_tiles<Rate, G>;
  using calibrator = aatc_calibrator;                                   ///< makes its section; calibrate/aatc.hpp
  static constexpr std::uint8_t section_id = detail::aatc::section_id;  ///< of the profile, stage entropy

  static constexpr codec_id id{stage_id::of(6, Grouping::tokens),     {}, {}, stage_id::of(0, Rate), {},
                               stage_id::of(detail::aatc::section_id)};
  static constexpr int tile_tokens = Grouping::tokens;
  static constexpr value_domain domain = value_domain::unrotated;
  static constexpr int span = 0;
  static int passes(const profile&) noexcept { return 1; }
  static bool keeps_exact(const profile&, std::int64_t, std::int64_t) noexcept { return false; }
  static bool uses(const profile&) noexcept { return true; }
  static std::uint64_t fingerprint(const profile& p) { return p.fingerprint(profile_stage::entropy, section_id); }

  class encoder {
   public:
    encoder(const profile& p, isa) : model_(p, Rate), forward_(p) {}
    status state() const noexcept { return model_.state != status::ok ? model_.state : forward_.state(); }

    status encode(tile_rows& in, const side_info&, int /*passes*/, tile_writer& w) {
      const detail::aatc::allocation& a = model_.of(in.place);
      const std::size_t n = std::size_t(in.place.width());
      y_.resize(n);
      // A row without a scale becomes exact.
      beyond_.resize(in.rows.size());
      for (int r = 0; r < in.count(); ++r)
        beyond_[std::size_t(r)] = !detail::isfinite(to_float(scale_of(in.place, a, in.x + r * in.ld)));
      in.make_exact(beyond_);
      if (in.count() == 0) return status::ok;
      detail::bit_writer bits(w.at(0, section::entropy));
      for (int r = 0; r < in.count(); ++r) {
        const f16 scale = scale_of(in.place, a, in.x + r * in.ld);
        w.put(0, section::quantizer, scale);
        for (std::size_t k = 0; k < n; ++k) {
          if (!a.bits[k]) continue;
          const float reach = a.deviation[k] * to_float(scale);
          const long levels = 1l << a.bits[k];
          const float u = reach > 0 ? (y_[k] / reach + 1) * (float(levels) / 2) : 0;
          bits.put(std::uint32_t(detail::clamp(long(u), 0l, levels - 1)), a.bits[k]);
        }
      }
      bits.finish();
      return status::ok;
    }

   private:
    // The largest coefficient in units of its deviation, up to the next f16; leaves the coefficients in y_.
    f16 scale_of(const group_place& g, const detail::aatc::allocation& a, const float* x) {
      forward_(g, x, y_.data());
      float most = 0;
      for (std::size_t k = 0; k < y_.size(); ++k) {
        if (!detail::isfinite(y_[k])) return f16{0x7c00};
        if (a.bits[k]) most = detail::max(most, detail::abs(y_[k]) / a.deviation[k]);
      }
      f16 scale = from_float<f16>(most);
      if (to_float(scale) < most) ++scale.bits;
      return scale;
    }

    detail::aatc::model model_;
    detail::aatc::forward_basis forward_;
    std::vector<std::uint8_t> beyond_;
    std::vector<float> y_;
  };

  class decoder {
   public:
    decoder(const profile& p, isa) : model_(p, Rate), profile_(&p) {}
    status state() const noexcept { return model_.state; }

    void decode(std::span<tile> tiles, const side_info&) {
      for (std::size_t i = 0; i < tiles.size(); ++i) {
        tiles[i].slot = int(i);
        if (!open(tiles[i], y_[i])) tiles[i].state = status::corrupt_tile;
      }
    }

    int rows(const tile& t, int first, int n, float* out, std::ptrdiff_t ld) {
      const plane_profile& q = profile_->of(t.place.layer, t.place.plane);
      const std::size_t width = std::size_t(t.place.width()), at = std::size_t(t.place.group * q.group_width);
      const std::uint16_t* const m = q.matrix_of(t.place.group);
      matrix_.resize(m ? width * width : 0);
      for (std::size_t i = 0; i < matrix_.size(); ++i) matrix_[i] = q.scale * to_float(f16{m[i]});
      for (int r = 0; r < n; ++r, out += ld) {
        const float* const y = y_[t.slot].data() + std::size_t(first + r) * width;
        for (std::size_t i = 0; i < width; ++i) out[i] = m ? to_float(f16{q.mean[at + i]}) : y[i];
        for (std::size_t k = 0; m && k < width; ++k)
          for (std::size_t i = 0; i < width && y[k] != 0; ++i) out[i] += y[k] * matrix_[k * width + i];
      }
      return n;
    }

   private:
    // Coefficients of one tile, [rows][width].
    bool open(const tile& t, std::vector<float>& y) const {
      const auto scales = t.section(0, section::quantizer), codes = t.section(0, section::entropy);
      const detail::aatc::allocation& a = model_.of(t.place);
      const std::size_t rows = std::size_t(t.rows()), n = std::size_t(t.place.width());
      if (scales.size() != 2 * rows || codes.size() != detail::bytes_of_bits(rows * std::size_t(a.row_bits)))
        return false;
      y.assign(rows * n, 0.f);
      detail::bit_reader bits(codes);
      for (std::size_t r = 0; r < rows; ++r) {
        const float scale = to_float(f16{std::uint16_t(scales[2 * r] | scales[2 * r + 1] << 8)});
        if (!detail::isfinite(scale)) return false;
        for (std::size_t k = 0; k < n; ++k) {
          if (!a.bits[k]) continue;
          const auto levels = float(1 << a.bits[k]);
          y[r * n + k] = ((float(bits.get(a.bits[k])) + 0.5f) * (2 / levels) - 1) * (a.deviation[k] * scale);
        }
      }
      return true;
    }

    detail::aatc::model model_;
    const profile* profile_;
    std::vector<float> y_[tiles_at_once], matrix_;
  };
};

/// AATC at `Rate` hundredths of a bit a value: coefficients of the profile's weighted basis, each with bits of its own;
/// the first 4 tokens and the last `Residual` as they are. How many bits is in the profile: calibrate/aatc.hpp, `sluice
/// calibrate --for aatc3`. Source: arXiv 2608.14191; its weights come from the error of attention's output, the
/// profile's as well, times measured sensitivities where it has them.
template <int Rate, int Residual = 128, grouping_policy Grouping = tile_tokens<>>
using aatc = residual_window<aatc_tiles<Rate, Grouping>, Residual, detail::aatc::sinks>;

static_assert(tile_codec<aatc<300>>);

}  // namespace SLUICE_HOST_ABI
}  // namespace codec
}  // namespace sluice
