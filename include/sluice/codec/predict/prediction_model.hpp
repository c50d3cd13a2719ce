// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/model/profile.hpp>
#include <sluice/numeric.hpp>
#include <sluice/tensor/half.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

// What predicted_from keeps in a profile: section (predictor, id of the policy), little endian. It is optional, so that
// codecs without a predictor need not know it; frames of those with one carry profile::fingerprint(predictor, id).
//   u8 1, u8 sources, u16 rank, u32 vocab, u32 span (0 = all lower layers)
//   for every plane of the profile that is present, in its order:
//     u32 features; 0 = this plane is not predicted, and nothing follows
//     f32 scale, u16 mean[width], u16 matrix[..], u8 classes[width]: a plane_profile of what prediction leaves
//     f32 scale, f16 [features][width]: expected row = scale * features * this
//   where rank > 0: f32 scale[rank], i8 [vocab][rank]: a token's latent, dimension by dimension times scale
// Features are those of the sources, one after the other: latent, K and V of the layer below, K of the layer, all as
// deviations from the profile's means.

namespace sluice {

/// What a section of predicted_from is made for: its policies have it as `kind`.
struct prediction_kind {
  int sources = 0;  ///< ids of the sources, or-ed; 0 = nothing is predicted
  int rank = 0;     ///< 0 = no latents
  int span = 0;     ///< 0 = all lower layers
};

}  // namespace sluice

namespace sluice::detail {

inline constexpr std::uint8_t prediction_version = 1;
inline constexpr int max_prediction_rank = 4095;
inline constexpr std::uint32_t max_prediction_vocab = 1u << 24;

/// How K or V of a layer is predicted.
struct plane_prediction {
  int features = 0;                   ///< 0 = it is not
  float scale = 1;                    ///< of the matrix
  std::vector<std::uint16_t> matrix;  ///< f16 bits, [features][width]
};

/// The section of a profile, read.
struct prediction_model {
  std::vector<plane_prediction> planes;     ///< [2 * layer + plane]
  std::shared_ptr<const profile> residual;  ///< planes as they are when the prediction is taken off
  std::vector<std::vector<float>> means;    ///< [2 * layer + plane][width] of the profile
  int rank = 0;                             ///< of the latents
  std::uint32_t vocab = 0;                  ///< tokens that have one
  std::vector<float> latent_scale;          ///< [rank]
  std::vector<std::int8_t> latents;         ///< [vocab][rank]
};

/// The nearest layer below that holds K or V, of those that a span reaches; -1 where there is none.
inline int layer_below(const model_shape& s, int layer, int span) noexcept {
  const int first = span ? layer - layer % (span + 1) : 0;
  for (int l = layer - 1; l >= first; --l)
    if (!s.layers[std::size_t(l)].absent()) return l;
  return -1;
}

/// A section's bytes, which are untrusted, for this profile; `features(layer, plane)` says how many the policy has.
/// False where they are not what they must be.
template <class Features>
bool parse_prediction(const profile& p, std::span<const std::byte> bytes, const prediction_kind& kind,
                      const Features& features, prediction_model& out) {
  if (!p.calibrated()) return false;
  byte_reader r(bytes);
  const auto version = r.get<std::uint8_t>(), sources = r.get<std::uint8_t>();
  const auto rank = r.get<std::uint16_t>();
  out.vocab = r.get<std::uint32_t>();
  const auto span = r.get<std::uint32_t>();
  if (!r.ok() || version != prediction_version || sources != kind.sources || rank != kind.rank ||
      span != std::uint32_t(kind.span) || out.vocab > max_prediction_vocab)
    return false;
  out.rank = rank;
  auto residual = std::make_shared<profile>();
  residual->shape = p.shape;
  residual->passes = p.passes;
  residual->sinks = p.sinks;
  residual->planes.reserve(p.planes.size());
  out.planes.resize(p.planes.size());
  for (std::size_t i = 0; i < p.planes.size(); ++i) {
    const plane_profile& own = p.planes[i];
    const std::size_t width = std::size_t(own.width);
    auto& mean = out.means.emplace_back(width);
    for (std::size_t c = 0; c < width; ++c) mean[c] = to_float(f16{own.mean[c]});
    plane_prediction& of = out.planes[i];
    const auto n = width ? r.get<std::uint32_t>() : 0;
    if (n == 0) {
      residual->planes.push_back(own);
      continue;
    }
    of.features = features(int(i / 2), plane(i % 2));
    if (n != std::uint32_t(of.features)) return false;
    plane_profile& q = residual->planes.emplace_back();
    q.width = own.width;
    q.group_width = own.group_width;
    q.step = own.step;
    q.loss = own.loss;
    q.scale = r.get<float>();
    r.get_vector(q.mean, width);
    r.get_vector(q.matrix, q.matrix_size());
    r.get_vector(q.classes, width);
    of.scale = r.get<float>();
    r.get_vector(of.matrix, n * width);
    if (!r.ok() || !isfinite(of.scale) || !finite_f16(of.matrix)) return false;
  }
  if (rank) {
    r.get_vector(out.latent_scale, rank);
    r.get_vector(out.latents, std::size_t{out.vocab} * rank);
    for (const float s : out.latent_scale)
      if (!isfinite(s)) return false;
  }
  if (!r.ok() || r.left() || validate(*residual) != status::ok) return false;
  out.residual = std::move(residual);
  return true;
}

/// Writes a section; `residual` has the planes of what is left. Planes without features are not predicted.
inline profile_section write_prediction(const prediction_model& m, const prediction_kind& kind) {
  profile_section s;
  s.stage = std::uint8_t(profile_stage::predictor);
  s.id = std::uint8_t(kind.sources);
  byte_writer w(s.bytes);
  w.put(prediction_version);
  w.put(std::uint8_t(kind.sources));
  w.put(std::uint16_t(kind.rank));
  w.put(m.vocab);
  w.put(std::uint32_t(kind.span));
  for (std::size_t i = 0; i < m.planes.size(); ++i) {
    const plane_profile& q = m.residual->planes[i];
    const plane_prediction& of = m.planes[i];
    if (!q.width) continue;
    w.put(std::uint32_t(of.features));
    if (!of.features) continue;
    w.put(q.scale);
    w.put_bytes(q.mean.data(), 2 * q.mean.size());
    w.put_bytes(q.matrix.data(), 2 * q.matrix.size());
    w.put_bytes(q.classes.data(), q.classes.size());
    w.put(of.scale);
    w.put_bytes(of.matrix.data(), 2 * of.matrix.size());
  }
  w.put_bytes(m.latent_scale.data(), 4 * m.latent_scale.size());
  w.put_bytes(m.latents.data(), m.latents.size());
  return s;
}

}  // namespace sluice::detail
