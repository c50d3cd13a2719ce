// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/format/limits.hpp>
#include <sluice/model/profile.hpp>
#include <sluice/numeric.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace sluice::detail {

/// What calibration knows of how much a layer's tokens will be looked at: log weight = direction . K + slope * log(tokens
/// to the end of the tile), K un-rotated, all heads. Steps fall with weight^(-exponent / 2).
struct layer_weights {
  std::int8_t offset[2] = {};      ///< quarter octaves by which the steps of K and V are coarser than the profile's
  std::uint8_t exponent[2] = {};   ///< of K and V, in sixty-fourths; 0 = all tokens alike
  float slope = 0;                 ///< nats per nat
  std::vector<float> direction{};  ///< [width of K]; empty = nothing is known
};

/// The profile's section of token_steps, which encoders read: (bit_widths, 3). Per layer i8 offset[2], u8 exponent[2], f32
/// slope, f32 direction[width of K]; FORMAT.md section 7.
struct token_weight_model {
  static constexpr std::uint8_t id = 3;  ///< of token_steps: the stage's, and its section's
  std::vector<layer_weights> layers;

  std::vector<std::byte> serialize() const {
    std::vector<std::byte> out;
    byte_writer w(out);
    for (const layer_weights& l : layers) {
      for (int p : {0, 1}) w.put(l.offset[p]);
      for (int p : {0, 1}) w.put(l.exponent[p]);
      w.put(l.slope);
      w.put_bytes(l.direction.data(), l.direction.size() * sizeof(float));
    }
    return out;
  }

  /// Makes it the section of a profile, in the place of the one that is there.
  void put_into(profile& p) const { p.set_section({std::uint8_t(profile_stage::bit_widths), id, true, serialize()}); }

  /// Null where the profile has no such section, or one that is not sound.
  static std::shared_ptr<const token_weight_model> of(const profile& p) {
    const profile_section* s = p.find(profile_stage::bit_widths, id);
    if (!s) return {};
    return p.memo.get<token_weight_model>(p.fingerprint() ^ checksum64(s->bytes),
                                          [&]() -> std::shared_ptr<const token_weight_model> {
                                            auto m = std::make_shared<token_weight_model>();
                                            byte_reader r(s->bytes);
                                            for (int layer = 0; layer < p.shape.num_layers(); ++layer) {
                                              layer_weights l;
                                              for (int i : {0, 1}) l.offset[i] = r.get<std::int8_t>();
                                              for (int i : {0, 1}) l.exponent[i] = r.get<std::uint8_t>();
                                              l.slope = r.get<float>();
                                              r.get_vector(l.direction, std::size_t(p.of(layer, plane::key).width));
                                              bool sound = r.ok() && isfinite(l.slope);
                                              for (int i : {0, 1})
                                                sound = sound && abs(int{l.offset[i]}) <= max_row_step;
                                              for (float f : l.direction) sound = sound && isfinite(f);
                                              if (!sound) return nullptr;
                                              m->layers.push_back(std::move(l));
                                            }
                                            return r.left() == 0 ? m : nullptr;
                                          });
  }
};

}  // namespace sluice::detail
