// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/bit_string.hpp>
#include <sluice/codec/entropy/adaptive_bytes.hpp>
#include <sluice/codec/group/tile_tokens.hpp>
#include <sluice/codec/residual_window.hpp>
#include <sluice/codec/stages.hpp>
#include <sluice/codec/tile_codec.hpp>
#include <sluice/numeric.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

// KV Cache Transform Coding (arXiv 2511.01815): PCA of un-rotated keys and of values, components in runs whose widths a
// dynamic program chose, a general coder behind. A tile holds one layer, so the basis is of the heads of a layer and
// not of all layers as the paper has it: every layer decodes alone, and pays for it. FORMAT.md section 6.9.

namespace sluice {
namespace detail::kvtc {

inline constexpr std::uint8_t section_id = 6;
inline constexpr int sinks = 4;              // first tokens that the paper keeps
inline constexpr float widest_scale = 1e6f;  // so that no value of a hostile section is infinite

/// Components of a run; the last of a plane may be shorter.
inline constexpr int run_length[] = {1, 16, 64, 256, 1024};
/// Bits of a component, from the finest on; 8 is e4m3 without a scale, the others have a zero and a step a token and
/// run.
inline constexpr int type_bits[] = {8, 4, 2};
inline constexpr int num_lengths = 5, num_types = 3;

/// Neighbouring components of one width.
struct run {
  int first = 0, length = 0, bits = 0;
  bool scaled() const noexcept { return bits < 8; }
  std::size_t code_bytes() const noexcept { return bytes_of_bits(std::size_t(length) * std::size_t(bits)); }
};

/// What the section says of a group of heads for one ratio.
struct basis {
  int width = 0, live = 0;
  float scale = 1;             // of e4m3
  std::vector<float> mean;     // [width]
  std::vector<float> vectors;  // [live][width]
  std::vector<run> runs;

  /// Sizes of the regions of `rows` tokens, in their order: for each run the low bytes of all zeros, their high bytes,
  /// the same of steps, then codes.
  void regions(std::size_t rows, std::vector<std::size_t>& out) const {
    out.clear();
    for (const run& r : runs) {
      if (r.scaled()) out.insert(out.end(), 4, rows);
      out.push_back(rows * r.code_bytes());
    }
  }
  /// Components that are coded.
  int coded() const noexcept { return runs.empty() ? 0 : runs.back().first + runs.back().length; }
};

/// Bases of a model for one ratio.
struct model {
  std::vector<basis> bases;
  per_group<int> where;  // only for its index
  status state = status::ok;

  model(const profile& p, int ratio) : where(p, [](const plane_profile&, int) { return 0; }) {
    const profile_section* const s = p.find(profile_stage::entropy, section_id);
    state = s ? read(s->bytes, p, ratio) : status::missing_section;
    if (state != status::ok) bases.clear();
  }
  const basis& of(const group_place& g) const noexcept { return bases[where.index(g)]; }

 private:
  // Untrusted. u16 n, u16 reserved, u16 ratio[n]; for every group u16 live, f32 scale, f16 mean[width],
  // f16 vectors[live][width], and for every ratio u16 runs, u8 each.
  status read(std::span<const std::byte> bytes, const profile& p, int ratio) {
    byte_reader r(bytes);
    const int n = r.get<std::uint16_t>();
    if (r.get<std::uint16_t>() != 0) return status::corrupt_profile;
    int mine = -1;
    for (int i = 0, before = 0, x; i < n; ++i, before = x) {
      x = r.get<std::uint16_t>();
      if (!r.ok() || x <= before) return status::corrupt_profile;
      if (x == ratio) mine = i;
    }
    if (!r.ok()) return status::corrupt_profile;
    if (mine < 0) return status::missing_section;
    for (const plane_profile& q : p.planes)
      for (int g = 0; g < q.groups(); ++g)
        if (!read(r, q.width_of(g), n, mine)) return status::corrupt_profile;
    return r.ok() && r.left() == 0 ? status::ok : status::corrupt_profile;
  }

  bool read(byte_reader& r, int width, int n, int mine) {
    basis& b = bases.emplace_back();
    b.width = width;
    b.live = r.get<std::uint16_t>();
    b.scale = r.get<float>();
    if (!r.ok() || b.live > width || !(b.scale > 0) || !(b.scale <= widest_scale)) return false;
    if (!floats(r, std::size_t(width), b.mean) || !floats(r, std::size_t(b.live) * std::size_t(width), b.vectors))
      return false;
    for (int i = 0; i < n; ++i) {
      const int runs = r.get<std::uint16_t>();
      int next = 0, widest = 8;
      for (int k = 0; k < runs; ++k) {
        const int x = r.get<std::uint8_t>(), length = x & 7, type = x >> 3;
        if (!r.ok() || length >= num_lengths || type >= num_types || type_bits[type] > widest || next >= b.live)
          return false;
        widest = type_bits[type];
        const run made{next, min(run_length[length], b.live - next), widest};
        next += made.length;
        if (i == mine) b.runs.push_back(made);
      }
    }
    return r.ok();
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

/// Zero and step of a run of one token: the lowest component, and up to the highest.
struct range {
  f16 zero{}, step{};
  range() = default;
  range(const float* c, int n, int bits) noexcept {
    float low = c[0], high = c[0];
    for (int i = 1; i < n; ++i) low = min(low, c[i]), high = max(high, c[i]);
    zero = from_float<f16>(low);
    step = from_float<f16>((high - to_float(zero)) / float((1 << bits) - 1));
  }
  bool finite() const noexcept { return finite_f16(zero.bits) && finite_f16(step.bits); }
  std::uint32_t code(float c, int bits) const noexcept {
    const float s = to_float(step);
    return s > 0 ? std::uint32_t(clamp(lrint((c - to_float(zero)) / s), 0l, long{(1 << bits) - 1})) : 0;
  }
  float value(std::uint32_t code) const noexcept { return float(code) * to_float(step) + to_float(zero); }
};

}  // namespace detail::kvtc

class kvtc_calibrator;

namespace codec {
inline namespace SLUICE_HOST_ABI {

/// KVTC without the tokens that it keeps; see kvtc.
template <int Ratio, byte_coder Coder, grouping_policy Grouping>
struct kvtc_tiles {
  static_assert(Ratio >= 2 && Ratio <= 256, "sluice::codec::kvtc<Ratio>: a ratio from 2 to 256");
  /// The same codec with tiles of another size.
  template <class G>
  using with_grouping = kvtc_tiles<Ratio, Coder, G>;
  using calibrator = kvtc_calibrator;                                   ///< makes its section; calibrate/kvtc.hpp
  static constexpr std::uint8_t section_id = detail::kvtc::section_id;  ///< of the profile, stage entropy

  static constexpr codec_id id{stage_id::of(4, Grouping::tokens), {}, {}, stage_id::of(0, Ratio), {}, Coder::id};
  static constexpr int tile_tokens = Grouping::tokens;
  static constexpr value_domain domain = value_domain::unrotated;
  static constexpr int span = 0;
  static int passes(const profile&) noexcept { return 1; }
  static bool keeps_exact(const profile&, std::int64_t, std::int64_t) noexcept { return false; }
  static bool uses(const profile&) noexcept { return true; }
  static std::uint64_t fingerprint(const profile& p) {
    return p.fingerprint(profile_stage::entropy, detail::kvtc::section_id);
  }

  class encoder {
   public:
    encoder(const profile& p, isa) : model_(p, Ratio) {}
    status state() const noexcept { return model_.state; }

    status encode(tile_rows& in, const side_info&, int /*passes*/, tile_writer& w) {
      using namespace detail::kvtc;
      const basis& b = model_.of(in.place);
      project(b, in);
      if (in.count() == 0) return status::ok;
      const std::size_t rows = std::size_t(in.count()), n = std::size_t(b.coded());
      b.regions(rows, regions_);
      bytes_.clear();
      for (const run& r : b.runs) {
        std::vector<range> ranges;
        for (std::size_t t = 0; r.scaled() && t < rows; ++t)
          ranges.emplace_back(&c_[t * n + std::size_t(r.first)], r.length, r.bits);
        for (int part = 0; r.scaled() && part < 4; ++part)
          for (const range& x : ranges)
            bytes_.push_back(std::uint8_t((part < 2 ? x.zero : x.step).bits >> part % 2 * 8));
        for (std::size_t t = 0; t < rows; ++t) {
          detail::bit_writer bits(bytes_);
          for (int i = 0; i < r.length; ++i) {
            const float c = c_[t * n + std::size_t(r.first + i)];
            bits.put(r.scaled() ? ranges[t].code(c, r.bits) : from_float<e4m3>(c / b.scale).bits, r.bits);
          }
          bits.finish();
        }
      }
      if (!bytes_.empty()) Coder::encode(bytes_, regions_, w.at(0, section::entropy));
      return status::ok;
    }

   private:
    // Components of all rows; a row with one that has no code becomes exact.
    void project(const detail::kvtc::basis& b, tile_rows& in) {
      using namespace detail::kvtc;
      const int n = b.coded();
      do {
        c_.assign(in.rows.size() * std::size_t(n), 0.f);
        beyond_.assign(in.rows.size(), 0);
        for (std::size_t t = 0; t < in.rows.size(); ++t) {
          float* const c = c_.data() + t * std::size_t(n);
          const float* const x = in.x + std::ptrdiff_t(t) * in.ld;
          for (int k = 0; k < n; ++k) {
            const float* const v = &b.vectors[std::size_t(k) * std::size_t(b.width)];
            for (int i = 0; i < b.width; ++i) c[k] += (x[i] - b.mean[std::size_t(i)]) * v[i];
          }
          for (const run& r : b.runs) {
            if (r.scaled()) {
              beyond_[t] |= !range(c + r.first, r.length, r.bits).finite();
              continue;
            }
            for (int k = 0; k < r.length; ++k) beyond_[t] |= !(detail::abs(c[r.first + k]) <= 448 * b.scale);
          }
        }
      } while (in.make_exact(beyond_));
    }

    detail::kvtc::model model_;
    std::vector<float> c_;
    std::vector<std::uint8_t> beyond_, bytes_;
    std::vector<std::size_t> regions_;
  };

  class decoder {
   public:
    decoder(const profile& p, isa) : model_(p, Ratio) {}
    status state() const noexcept { return model_.state; }

    void decode(std::span<tile> tiles, const side_info&) {
      for (std::size_t i = 0; i < tiles.size(); ++i) {
        tiles[i].slot = int(i);
        if (!open(tiles[i], c_[i])) tiles[i].state = status::corrupt_tile;
      }
    }

    int rows(const tile& t, int first, int n, float* out, std::ptrdiff_t ld) {
      const detail::kvtc::basis& b = model_.of(t.place);
      const std::size_t coded = std::size_t(b.coded()), width = std::size_t(b.width);
      for (int r = 0; r < n; ++r, out += ld) {
        detail::copy(b.mean.begin(), b.mean.end(), out);
        const float* const c = c_[t.slot].data() + std::size_t(first + r) * coded;
        for (std::size_t k = 0; k < coded; ++k) {
          const float* const v = &b.vectors[k * width];
          for (std::size_t i = 0; i < width; ++i) out[i] += c[k] * v[i];
        }
      }
      return n;
    }

   private:
    // Components of one tile, [rows][coded].
    bool open(const tile& t, std::vector<float>& c) {
      using namespace detail::kvtc;
      const auto code = t.section(0, section::entropy);
      const basis& b = model_.of(t.place);
      const std::size_t rows = std::size_t(t.rows()), n = std::size_t(b.coded());
      if (rows == 0 || n == 0) return code.empty();
      b.regions(rows, regions_);
      std::size_t size = 0;
      for (const std::size_t r : regions_) size += r;
      bytes_.assign(size, 0);
      if (!Coder::decode(code, regions_, bytes_)) return false;
      c.resize(rows * n);
      const std::uint8_t* at = bytes_.data();
      for (const run& r : b.runs) {
        const std::uint8_t* const scales = at;
        if (r.scaled()) at += 4 * rows;
        for (std::size_t row = 0; row < rows; ++row, at += r.code_bytes()) {
          range x;
          if (r.scaled()) {
            const auto half = [&](std::size_t part) {
              return f16{std::uint16_t(scales[part * rows + row] | scales[(part + 1) * rows + row] << 8)};
            };
            x.zero = half(0);
            x.step = half(2);
            if (!x.finite()) return false;
          }
          detail::bit_reader bits({at, r.code_bytes()});
          for (int i = 0; i < r.length; ++i) {
            const std::uint32_t q = bits.get(r.bits);
            if (!r.scaled() && (q & 0x7f) == 0x7f) return false;
            c[row * n + std::size_t(r.first + i)] = r.scaled() ? x.value(q) : to_float(e4m3{std::uint8_t(q)}) * b.scale;
          }
        }
      }
      return true;
    }

    detail::kvtc::model model_;
    std::vector<float> c_[tiles_at_once];
    std::vector<std::uint8_t> bytes_;
    std::vector<std::size_t> regions_;
  };
};

/// KVTC at a nominal ratio: 16 / Ratio bits a value before the coder of bytes, spread over layers and components of K,
/// and of V, so that the squared error is least; the first 4 tokens and the last `Residual` as they are. The paper's
/// coder is DEFLATE (entropy/deflate.hpp, which needs zlib); the default needs nothing and takes fewer bytes. Bases and
/// widths are in the profile: calibrate/kvtc.hpp, `sluice calibrate --for kvtc16`. Source: arXiv 2511.01815 section 3.
template <int Ratio, int Residual = 128, byte_coder Coder = adaptive_bytes,
          grouping_policy Grouping = tile_tokens<1024>>
using kvtc = residual_window<kvtc_tiles<Ratio, Coder, Grouping>, Residual, detail::kvtc::sinks>;

static_assert(tile_codec<kvtc<16>>);

}  // namespace SLUICE_HOST_ABI
}  // namespace codec
}  // namespace sluice
