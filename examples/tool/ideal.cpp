// SPDX-License-Identifier: Apache-2.0
#include <ideal.hpp>

#include <sluice/codec/codec.hpp>
#include <sluice/codec/entropy/class_rans/classes.hpp>
#include <sluice/codec/entropy/class_rans/decode.hpp>

#include <cstdint>
#include <span>

namespace {

using codec = sluice::codec::standard;

// Bits of the symbols and of what else the entropy sections of one tile hold, level by level.
class tile_cost {
 public:
  explicit tile_cost(const sluice::profile& p)
      : profile_(p),
        transform_(p, sluice::isa::best),
        quantizer_(sluice::isa::best),
        tables_(p),
        coder_(p, sluice::isa::best) {}

  /// Adds to bits[level]; false where the tile is not sound.
  bool add(sluice::tile& t, std::vector<double>& bits) {
    using namespace sluice::detail;
    const int passes = profile_.passes, width = t.place.width();
    sluice::decoded_symbols s;
    s.tile = &t;
    s.calibrated = transform_.calibrated(t.place);
    s.passes = passes;
    s.ld = padded(width);
    if (!transform_.open(t, 0) || !quantizer_.open(t, 0, s)) return false;
    const sluice::tile_envelope& e = t.envelope;
    double sum =
        8.0 * double(e.exact_rows.size() + e.exact_index.size() + t.section(0, sluice::section::transform).size() +
                     t.section(0, sluice::section::quantizer).size());
    std::vector<std::int16_t> parent, values(std::size_t(t.rows()) * std::size_t(s.ld));
    for (int level = 0; level < passes; ++level) {
      sluice::class_section c;
      if (!c.parse(t.section(level, sluice::section::entropy), level, t.rows(), width)) return false;
      if (level == 0 && t.rows()) find_classes(c, tables_.of(t.place));
      sum += 8.0 * double(c.deltas.size() + (c.delta_blocks ? 4 : 0) + c.classes.size() + c.exceptions.size());
      t.level = level;
      s.state = sluice::status::ok;
      s.live = width;
      s.corrections.clear();
      std::fill(values.begin(), values.end(), std::int16_t(0));
      s.values = values.data();
      if (t.rows()) coder_.decode({&s, 1});
      if (s.state != sluice::status::ok) return false;
      for (int r = 0; r < t.rows(); ++r)
        for (int i = 0; i < width; ++i) {
          const std::size_t at = std::size_t(r * s.ld + i);
          const int back = passes - 1 - level, v = values[at];
          const std::uint8_t cls = classes_[std::size_t(i)];
          sum += double(level ? bits_ternary(cls, back, parent[at], v - 3 * parent[at]) : bits_base(cls, back, v));
        }
      parent = values;
      bits[std::size_t(level)] += sum;
    }
    return true;
  }

 private:
  // The classes that a tile was coded with: its own, or the profile's with what it moves.
  void find_classes(const sluice::class_section& c, const sluice::detail::group_tables& known) {
    if (!c.classes.empty()) return classes_.assign(c.classes.begin(), c.classes.end());
    classes_ = known.classes;
    const std::uint8_t* nibbles = c.deltas.data();
    for (std::size_t b = 0; 32 * b < classes_.size(); ++b)
      if (b < 32 && c.delta_blocks >> b & 1) {
        sluice::detail::apply_deltas(&known.classes[32 * b], nibbles, &classes_[32 * b]);
        nibbles += 16;
      }
  }

  const sluice::profile& profile_;
  codec::transform::decoder transform_;
  codec::quantizer::decoder quantizer_;
  sluice::detail::profile_tables tables_;
  sluice::detail::class_rans_decoder coder_;
  std::vector<std::uint8_t> classes_;
};

}  // namespace

std::vector<double> ideal_bytes(slc_file& file, const sluice::profile& profile) {
  std::vector<double> bits(std::size_t(profile.passes), 0.0);
  const std::uint64_t fingerprint = sluice::fingerprint_of<codec>(profile);
  tile_cost cost(profile);
  for (slc_file::frame& f : file.frames()) {
    const sluice::frame_header& h = f.index.header();
    if (!codec::id.decodes(h.codec) || h.fingerprint != fingerprint || h.levels_present != profile.passes ||
        f.index.any_cut() || f.bytes.size() != f.index.size())
      return {};
    for (int layer = 0; layer < h.layers; ++layer)
      for (sluice::plane which : {sluice::plane::key, sluice::plane::value})
        for (int token_tile = 0; token_tile < f.index.token_tiles(); ++token_tile)
          for (int g = 0; g < profile.of(layer, which).groups(); ++g) {
            const sluice::tile_key key{layer, which, token_tile, g};
            sluice::tile t;
            t.place = place_of(profile.shape, profile.of(layer, which).group_width, layer, which, g);
            t.type = f.index.type(layer, which);
            bool absent = false;
            for (int pass = 0; pass < profile.passes && !absent; ++pass) {
              const auto bytes = tile_bytes(f.index, f.bytes, f.index.ordinal(pass, key));
              if (!bytes) return {};
              absent = pass == 0 && bytes->empty();
              if (absent) continue;
              const sluice::status s =
                  pass ? parse_refinement(*bytes, t.refinements[pass - 1])
                       : parse_tile(*bytes, f.index.tokens_of(token_tile), f.index.row_bytes(key), t.envelope);
              if (s != sluice::status::ok) return {};
            }
            if (!absent && !cost.add(t, bits)) return {};
          }
  }
  for (double& b : bits) b /= 8;
  return bits;
}
