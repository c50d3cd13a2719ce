// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/predict/decoded_layers.hpp>
#include <sluice/codec/predict/prediction_model.hpp>
#include <sluice/codec/predict/token_embedding.hpp>
#include <sluice/codec/stages.hpp>
#include <sluice/codec/transform/product.hpp>
#include <sluice/warp/targets.hpp>

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <tuple>
#include <vector>

namespace sluice {

/// What gives features of tokens to predicted_from: numbers that both sides know before the tile.
/// - `id`: one bit, 128 for your own; `span`: as a predictor's; optional `rank`, of latents that it needs of the section,
///   `lower`, how many layers it lets follow one that stands alone, and `reads_tokens`, as a predictor's.
/// - constructed from a detail::prediction_model, which it may borrow; `width(shape, layer, plane)`: features, 0 = none.
/// - `gather(place, range, rows, side, out, ld)`: [rows.size()][ld], width() of each written, zeros where nothing is
///   known; returns whether anything is.
/// - where span > 0, `learn` and `forget` as a predictor's.
template <class S>
concept feature_source = requires(const S s, const model_shape& shape, const group_place& place,
                                  const tile_tokens_range& range, std::span<const std::uint16_t> rows,
                                  const side_info& side, float* out, std::ptrdiff_t ld) {
  requires std::constructible_from<S, const detail::prediction_model&>;
  { S::id } -> std::convertible_to<int>;
  { S::span } -> std::convertible_to<int>;
  { S::width(shape, 0, plane::key) } -> std::same_as<int>;
  { s.gather(place, range, rows, side, out, ld) } -> std::same_as<bool>;
};

namespace detail {

template <class S>
constexpr int rank_of() noexcept {
  if constexpr (requires { S::rank; })
    return S::rank;
  else
    return 0;
}
template <class S>
constexpr int lower_of() noexcept {
  if constexpr (requires { S::lower; })
    return S::lower;
  else
    return 0;
}
// Each source has one bit, and they stand in ascending order, so that a set of them has one name.
template <class... S>
constexpr bool ascending_sources() noexcept {
  int last = 0;
  return ((S::id > last && (S::id & (S::id - 1)) == 0 ? (last = S::id, true) : false) && ...);
}

}  // namespace detail

inline namespace SLUICE_HOST_ABI {

/// Predictor policy: the deviation of a token's row from the mean is a matrix of the profile times the features of the
/// sources, which calibration fitted (calibration_options::prediction). Without the profile's section the codec does not
/// serve. Features that are missing are taken as zero, their mean; where all are, nothing is predicted.
/// Sources in the order token_embedding, previous_layer, same_layer_k_for_v. In the id, the policy is the set of sources;
/// the parameter is rank + 4096 * span of the layers.
template <feature_source... Sources>
class predicted_from {
  static_assert(sizeof...(Sources) > 0 && detail::ascending_sources<Sources...>(),
                "sluice::predicted_from: sources stand in ascending order of their ids, each once");

 public:
  /// What the section must be made for.
  static constexpr prediction_kind kind{(Sources::id | ...), (detail::rank_of<Sources>() + ...),
                                        (detail::lower_of<Sources>() + ...)};
  static constexpr stage_id id = stage_id::of(kind.sources, std::uint32_t(kind.rank) | std::uint32_t(kind.span) << 12);
  static constexpr int span = std::max({Sources::span...});
  static constexpr bool predicts = true;
  static constexpr bool reads_tokens = (detail::reads_tokens<Sources> || ...);

  explicit predicted_from(const profile& p) : model_(model_of(p)), sources_(Sources(*model_or_empty(model_))...) {}

  /// The profile of what prediction leaves. Null where `p` has no sound section for these sources.
  static std::shared_ptr<const profile> residual(const profile& p) {
    const auto m = model_of(p);
    return m ? m->residual : nullptr;
  }

  /// What frames carry: the profile with the section.
  static std::uint64_t fingerprint(const profile& p) { return p.fingerprint(profile_stage::predictor, id.id); }

  /// Features of a plane.
  static int features(const model_shape& s, int layer, plane which) noexcept {
    return (Sources::width(s, layer, which) + ...);
  }

  bool predict(const group_place& place, const tile_tokens_range& range, std::span<const std::uint16_t> rows,
               const side_info& side, float* out, std::ptrdiff_t ld) {
    if (!model_ || rows.empty()) return false;
    const detail::plane_prediction& of = model_->planes[2 * std::size_t(place.layer) + std::size_t(place.plane)];
    if (!of.features || !gather(place, range, rows, side, of.features)) return false;
    const int width = place.width(), plane_width = model_->residual->of(place.layer, place.plane).width;
    workspace_.resize(detail::dense_workspace(0, of.features, width));
    detail::multiply_rows(isa::best,
                          {.f = features_.data(),
                           .ldf = ld_,
                           .matrix = of.matrix.data() + place.first_head * place.head_dim,
                           .ldm = plane_width,
                           .scale = of.scale,
                           .x = out,
                           .ldx = ld,
                           .rows = int(rows.size()),
                           .k = of.features,
                           .n = width},
                          workspace_.data());
    return true;
  }

  void learn(const group_place& place, const tile_tokens_range& range, std::span<const std::uint16_t> rows,
             const float* x, std::ptrdiff_t ld) requires(span > 0) {
    if (!model_) return;
    if (gathered_.layer != place.layer || gathered_.which != place.plane) gathered_.layer = -1;
    each([&](auto& source) {
      if constexpr (requires { source.learn(place, range, rows, x, ld); }) source.learn(place, range, rows, x, ld);
    });
  }

  void forget() requires(span > 0) {
    gathered_.layer = -1;
    each([](auto& source) {
      if constexpr (requires { source.forget(); }) source.forget();
    });
  }

 private:
  struct model : detail::prediction_model {};  // of this policy, for the memo
  using shared_model = std::shared_ptr<const detail::prediction_model>;

  static shared_model model_of(const profile& p) {
    const profile_section* s = p.find(profile_stage::predictor, id.id);
    if (!s) return {};
    const std::uint64_t key = p.fingerprint() ^ detail::checksum64(s->bytes) * 0x9e3779b97f4a7c15u;
    return p.memo.get<model>(key, [&]() -> std::shared_ptr<const model> {
      auto m = std::make_shared<model>();
      const auto n = [&](int layer, plane which) { return features(p.shape, layer, which); };
      if (!detail::parse_prediction(p, s->bytes, kind, n, *m)) m = nullptr;
      return m;
    });
  }

  // Sources of a policy without a model are never asked.
  static const detail::prediction_model* model_or_empty(const shared_model& m) {
    static const detail::prediction_model empty;
    return m ? m.get() : &empty;
  }

  template <class F>
  void each(const F& f) {
    std::apply([&](auto&... source) { (f(source), ...); }, sources_);
  }

  // Fills features_ for these rows; the groups of a plane share them.
  bool gather(const group_place& place, const tile_tokens_range& range, std::span<const std::uint16_t> rows,
              const side_info& side, int features) {
    if (span > 0 && gathered_.layer == place.layer && gathered_.which == place.plane &&
        gathered_.first == range.frame_token && std::ranges::equal(gathered_.rows, rows))
      return gathered_.any;
    ld_ = detail::padded(features);
    features_.resize((rows.size() + std::size_t(detail::dense_tail_rows)) * std::size_t(ld_));
    int column = 0;
    bool any = false;
    each([&](const auto& source) {
      const int n = source.width(model_->residual->shape, place.layer, place.plane);
      if (n) any |= source.gather(place, range, rows, side, features_.data() + column, ld_);
      column += n;
    });
    gathered_ = {place.layer, place.plane, range.frame_token, any, {rows.begin(), rows.end()}};
    return any;
  }

  struct gathered_rows {
    int layer = -1;
    plane which = plane::key;
    int first = 0;
    bool any = false;
    std::vector<std::uint16_t> rows;
  };

  shared_model model_;
  std::tuple<Sources...> sources_;
  gathered_rows gathered_;
  std::vector<float> features_, workspace_;  // [rows][ld_]
  std::ptrdiff_t ld_ = 0;
};

}  // namespace SLUICE_HOST_ABI
}  // namespace sluice
