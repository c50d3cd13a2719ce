// SPDX-License-Identifier: Apache-2.0
#include <ideal.hpp>
#include <sluice/sluice.hpp>

std::vector<double> ideal_bytes(slc_file& file, const sluice::profile& profile) {
  using namespace sluice::detail;
  using codec = sluice::codec::standard;
  std::vector<double> bits(std::size_t(profile.passes), 0.0);
  tile_decoder<codec> decoder(profile, sluice::isa::best);
  for (slc_file::frame& f : file.frames()) {
    const sluice::frame_header& h = f.index.header();
    if (!(h.codec == codec::id) || h.fingerprint != profile.fingerprint() || h.levels_present != profile.passes ||
        f.bytes.size() != f.index.size())
      return {};
    for (int layer = 0; layer < h.layers; ++layer)
      for (sluice::plane which : {sluice::plane::key, sluice::plane::value})
        for (int tile = 0; tile < f.index.token_tiles(); ++tile)
          for (int g = 0; g < profile.of(layer, which).groups(); ++g) {
            tile_task t;
            t.place = place_of(profile.shape, profile.of(layer, which).group_width, layer, which, g);
            t.source = &profile.of(layer, which);
            const int width = t.place.width();
            const auto at = [&](int pass) {
              const sluice::byte_range r = f.index.range(f.index.ordinal(pass, {layer, which, tile, g}));
              return std::span(reinterpret_cast<const std::uint8_t*>(f.bytes.data()) + r.begin, std::size_t(r.size()));
            };
            const std::size_t row = std::size_t(width) * std::size_t(sluice::size_of(f.index.type(layer, which)));
            if (at(0).empty()) continue;
            if (parse_tile(at(0), f.index.tokens_of(tile), width, row, t.base) != sluice::status::ok) return {};
            for (int pass = 1; pass < profile.passes; ++pass)
              if (parse_refinement(at(pass), t.base.rows(), width, t.refinement[pass - 1]) != sluice::status::ok)
                return {};
            std::vector<std::int16_t> parent;
            double sum = 8 * double(t.base.exact_rows.size() + t.base.exact_index.size() + t.base.deltas.size() +
                                    (t.base.delta_blocks ? 4 : 0) + t.base.classes.size() + t.base.mean.size());
            for (int level = 0; level < profile.passes; ++level) {
              t.level = level;
              t.state = sluice::status::ok;
              decoder.decode({&t, 1});
              if (t.state != sluice::status::ok) return {};
              const int back = profile.passes - 1 - level;
              sum += 64.0 * (level ? t.refinement[level - 1].count : t.base.head.exceptions);
              for (int r = 0; r < t.base.rows(); ++r)
                for (int i = 0; i < width; ++i) {
                  const std::uint8_t cls = t.tables->classes[std::size_t(i)];
                  const int v = t.values[r * t.stride + i];
                  if (level == 0) {
                    sum += double(bits_base(cls, back, v));
                  } else {
                    const int p = parent[std::size_t(r * t.stride + i)];
                    sum += double(bits_ternary(cls, back, p, v - 3 * p));
                  }
                }
              parent.assign(t.values, t.values + std::size_t(t.base.rows()) * std::size_t(t.stride));
              bits[std::size_t(level)] += sum;
            }
          }
  }
  for (double& b : bits) b /= 8;
  return bits;
}
