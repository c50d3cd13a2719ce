// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/decoder.hpp>
#include <sluice/numeric.hpp>
#include <sluice/tensor/half.hpp>
#include <sluice/tensor/hidden_states.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace sluice {

/// Who makes keys and values of hidden states: an engine with its weights.
/// - project(layer, position, tokens, rows, ld): `rows` [tokens][ld] are the hidden states of the tokens from `position` on,
///   in their first elements the row that was stored (hidden_head_dim(dim) times the heads), as floats. Valid for the call. It
///   writes K and V of these tokens and this layer into the engine's cache: what was stored is what the engine projects, the
///   layer's input before or behind its norm as the engine has it. Layers come in ascending order for each run of tokens,
///   runs in ascending order of positions. Whatever it returns is not looked at.
template <class P>
concept projector = requires(P& project, int layer, std::int64_t position, int tokens, const float* rows,
                             std::ptrdiff_t ld) {
  project(layer, position, tokens, rows, ld);
};

inline namespace SLUICE_HOST_ABI {

/// Makes a cache of frames of hidden states (tensor/hidden_states.hpp) without memory for all of them: a layer of a token
/// tile at a time is decoded into a scratch and handed on. Borrows the profile; one per thread.
/// Any codec will do: `exact` and `raw` are HCache, with `int4` or `kivi` it is XQuant. Source: arXiv 2410.05004 section 4.1, arXiv
/// 2508.10395 section 3. A codec that looks at lower layers decodes these again for each.
template <tile_codec Codec = codec::standard>
class hidden_decoder {
 public:
  /// For frames that were made with this profile, or with any of this shape where the codec does not use it.
  explicit hidden_decoder(const profile& p, tuning t = {}) : profile_(&p), state_(validate(p)), decoder_(p, t) {}
  explicit hidden_decoder(profile&&, tuning = {}) = delete;  // it must outlive the decoder

  /// Decodes one frame and hands on every sound run of tokens, at the level it has. What is damaged, and what lies outside
  /// of its layer's window and was not stored, is never handed on: what the projector would have made of it is missing from
  /// the cache. `options.pages` has an entry for each token of the frame, the worst of the layers asked for;
  /// `options.parallel` is not used: who has threads gives each a decoder and a range of layers.
  /// Errors: those of decoder::decode(), wrong_shape also for a profile that is not of hidden states, before anything is
  /// handed on; per tile as there.
  template <projector Projector>
  page_status project(std::span<const std::byte> frame, Projector&& to, const decode_options& options = {}) {
    page_status out;
    out.worst = begin(frame, options);
    const frame_header& h = index_.header();
    std::fill(options.pages.begin(), options.pages.end(), out.worst);
    if (out.worst != status::ok) return out;
    const std::int64_t position = options.position < 0 ? h.position : options.position;
    const int first = detail::max(options.layers.begin, 0);
    const int last = detail::min(options.layers.end, profile_->shape.num_layers());
    for (int tile = 0; tile < index_.token_tiles(); ++tile)
      for (int layer = first; layer < last; ++layer) {
        if (profile_->shape.layers[std::size_t(layer)].absent()) continue;
        const status s = project_tile(frame, layer, tile, position, to, options, out);
        if (s == status::ok) continue;
        std::fill(options.pages.begin(), options.pages.end(), s);
        return {.worst = s};  // the first one says so, of all
      }
    return out;
  }

 private:
  static constexpr bool stored = Codec::domain == value_domain::stored;

  static int rank(status s) noexcept {
    return s == status::ok ? 0 : s == status::degraded ? 1 : s == status::absent ? 2 : 3;
  }
  static void worsen(status& to, status s) noexcept { to = rank(s) > rank(to) ? s : to; }

  status begin(std::span<const std::byte> frame, const decode_options& options) {
    if (state_ != status::ok) return state_;
    const model_shape& shape = profile_->shape;
    for (const layer_shape& l : shape.layers) {
      const bool rotates = std::size_t(l.rope_index) < shape.ropes.size() &&
                           shape.ropes[std::size_t(l.rope_index)].pairing != rope_pairing::none;
      if (l.head_dim_v != 0 || (rotates && !l.absent())) return status::wrong_shape;
    }
    if (const status s = index_.parse(frame); s != status::ok) return s;
    if (index_.header().layers != shape.num_layers()) return status::wrong_shape;
    if (options.position > INT64_MAX - max_frame_tokens) return status::invalid_argument;
    for (int l = 0; stored && l < shape.num_layers(); ++l)
      if (index_.holds(l, plane::key) && index_.type(l, plane::key) == dtype::bytes) return status::unsupported_type;
    return status::ok;
  }

  // One layer of a token tile. Errors: those that hold for the whole frame.
  template <class Projector>
  status project_tile(std::span<const std::byte> frame, int layer, int tile, std::int64_t position, Projector& to,
                      const decode_options& options, page_status& out) {
    const frame_header& h = index_.header();
    const layer_shape& shape = profile_->shape.layers[std::size_t(layer)];
    const int tokens = index_.tokens_of(tile), skipped = tile * int(h.tile_tokens);
    const std::int32_t dim = shape.num_kv_heads * shape.head_dim_k, id = layer;
    hidden_rows at{.num_layers = 1, .dim = dim, .max_tokens = tokens, .type = dtype::f32};
    if (stored && index_.holds(layer, plane::key)) at.type = index_.type(layer, plane::key);
    const std::size_t elements = std::size_t(tokens) * std::size_t(dim);
    scratch_.resize(elements);
    std::byte* const bytes = reinterpret_cast<std::byte*>(scratch_.data());
    kv_view view;  // heads as the profile has them
    view.num_layers = 1;
    view.layer_ids = &id;
    view.num_kv_heads = shape.num_kv_heads;
    view.capacity = view.tokens = tokens;
    view.position = position + skipped;
    view.k = layouts::detail::make_plane(bytes, at.type, shape.head_dim_k);
    view.k.head_stride = shape.head_dim_k * view.k.element_stride;
    view.k.token_stride = dim * view.k.element_stride;
    tokens_.assign(std::size_t(tokens), status::ok);
    decode_options one = options;
    one.pages = tokens_;
    one.parallel = {};
    if (one.sequence_end < 0) one.sequence_end = position + h.tokens;
    const page_status s = decoder_.decode(frame, view, one);
    if (s.tiles == 0 && s.worst != status::ok) return s.worst;
    out.tiles += s.tiles, out.damaged += s.damaged, out.degraded += s.degraded;
    out.outside += s.outside, out.coarser += s.coarser;
    worsen(out.worst, s.worst);
    out.missing.add(s.missing.position, s.missing.tokens, layer, profile_->shape.num_layers());
    const std::int64_t end = one.sequence_end;
    const int needed = int(detail::clamp<std::int64_t>(end - shape.needed(end) - view.position, 0, tokens));
    for (int t = 0; t < tokens; ++t) {
      const auto i = std::size_t(skipped + t);
      if (i < options.pages.size()) worsen(options.pages[i], tokens_[std::size_t(t)]);
      // What of a tile lies outside of a window is all there, or nobody knows which of it is.
      if (s.outside > 0 && t < needed) tokens_[std::size_t(t)] = status::absent;
    }
    const float* const rows = as_floats(bytes, at.type, elements);
    for (int t = 0; t < tokens;) {
      int n = 0;
      while (t + n < tokens && rank(tokens_[std::size_t(t + n)]) < 2) ++n;
      if (n > 0) to(layer, view.position + t, n, rows + std::ptrdiff_t(t) * dim, std::ptrdiff_t{dim});
      t += detail::max(n, 1);
    }
    return status::ok;
  }

  const float* as_floats(const std::byte* from, dtype type, std::size_t n) {
    if (type == dtype::f32) return scratch_.data();
    floats_.resize(n);
    for (std::size_t i = 0; i < n; ++i) floats_[i] = load_element(from + i * std::size_t(size_of(type)), type);
    return floats_.data();
  }

  const profile* profile_;
  status state_;
  decoder<Codec> decoder_;
  frame_index index_;
  std::vector<float> scratch_, floats_;  // of one layer and token tile; as decoded, and from a stored type
  std::vector<status> tokens_;
};

}  // namespace SLUICE_HOST_ABI
}  // namespace sluice
