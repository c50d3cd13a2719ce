// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/format/frame.hpp>
#include <sluice/format/tile.hpp>
#include <sluice/model/profile.hpp>
#include <sluice/status.hpp>
#include <sluice/tensor/half.hpp>
#include <sluice/tensor/shape.hpp>
#include <sluice/warp/targets.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

// What encoder and decoder ask of a codec. They know frames, pages, views, positions and rotary embeddings; a tile codec
// knows none of these. basic_codec (codec.hpp) is the library's own model of it.

namespace sluice {

/// What a codec takes and gives back.
enum class value_domain : std::uint8_t {
  stored,    ///< elements as they stand in the cache, bit for bit
  rotated,   ///< floats of the cache as it stands, keys under their rotary embedding
  unrotated  ///< floats with the rotary embedding of keys undone, so that a frame can move to another position
};

/// How a host call runs; never changes what bytes decode to.
struct tuning {
  sluice::isa isa = sluice::isa::best;  ///< one that the processor lacks is replaced by the next narrower one
};

/// One group of heads of K or V of a layer: the columns of a tile.
struct group_place {
  int layer = 0;                     ///< of the model
  sluice::plane plane = plane::key;  ///< K or V
  int group = 0;                     ///< counted from the layer's first
  int first_head = 0;                ///< of the layer, where the group begins
  int heads = 0;                     ///< of the group
  int head_dim = 0;                  ///< elements of a head
  int num_layers = 0;                ///< of the model
  /// Channels of the group.
  int width() const noexcept { return heads * head_dim; }
};

/// The place of a group, from the shape of the model and the channels of a whole group (the last one may have fewer).
inline group_place place_of(const model_shape& shape, int group_width, int layer, plane which, int group) noexcept {
  const layer_shape& l = shape.layers[std::size_t(layer)];
  const int dim = l.head_dim(which), heads = group_width / dim, first = group * heads;
  return {layer, which, group, first, detail::min(heads, l.num_kv_heads - first), dim, shape.num_layers()};
}

namespace detail {

// Something for every group of a profile, in the order (layer, plane, group).
template <class T>
class per_group {
 public:
  // make(plane, group) of each.
  template <class Make>
  per_group(const profile& p, Make make) {
    for (const plane_profile& q : p.planes) {
      first_.push_back(all_.size());
      for (int g = 0; g < q.groups(); ++g) all_.push_back(make(q, g));
    }
  }
  std::size_t index(const group_place& p) const noexcept {
    return first_[2 * std::size_t(p.layer) + std::size_t(p.plane)] + std::size_t(p.group);
  }
  const T& of(const group_place& p) const noexcept { return all_[index(p)]; }
  std::size_t size() const noexcept { return all_.size(); }

 private:
  std::vector<std::size_t> first_;  // [2 * layer + plane]
  std::vector<T> all_;
};

}  // namespace detail

/// What both sides know of the tokens besides the frame. Handed to predictors as it is; both sides must give the same.
struct side_info {
  std::span<const std::int32_t> tokens{};  ///< token ids, [i] = of the frame's token i; empty = unknown
};

/// What an encoder may be told of how much each token will be looked at. It chooses by it; decoders need not know.
struct token_weights {
  /// [layers of the model][tokens of the frame] mean squared attention that was paid to each token; empty = not observed.
  std::span<const float> attention{};
  /// [tokens of the frame] what a token's weight is multiplied by; empty = 1 for all. 0 = worth nothing.
  std::span<const float> importance{};
};

/// Which tokens of a frame a tile covers.
struct tile_tokens_range {
  int frame_token = 0;        ///< of the first token covered, counted from the frame's first token
  std::int64_t position = 0;  ///< of the first token covered, in the sequence that was encoded
  int count = 0;              ///< tokens covered
};

/// One tile on its way into a codec: the tokens to code, and those that are kept exact.
struct tile_rows {
  group_place place;                       ///< its columns
  tile_tokens_range range;                 ///< its tokens
  dtype type = dtype::f16;                 ///< of the elements in the cache
  std::vector<std::uint16_t> rows;         ///< tokens to code, counted from the first one covered, ascending
  std::vector<std::uint16_t> exact;        ///< the others
  float* x = nullptr;                      ///< [rows][ld] floats; null where the codec's domain is `stored`
  std::ptrdiff_t ld = 0;                   ///< floats from row to row of x, a multiple of 32
  const std::uint8_t* elements = nullptr;  ///< [rows][width] elements, heads in order, where it is `stored`
  const token_weights* weights = nullptr;  ///< of the frame's tokens; borrowed
  int frame_tokens = 0;                    ///< tokens of the frame
  float coarser = 0;                       ///< quarter octaves; see encode_options

  /// Tokens to code.
  int count() const noexcept { return int(rows.size()); }

  /// Moves the flagged rows to the exact tokens and closes the gaps in x. Returns whether there were any.
  bool make_exact(std::span<const std::uint8_t> flagged) {
    std::size_t kept = 0;
    const std::size_t n = rows.size(), width = std::size_t(place.width());
    for (std::size_t r = 0; r < n; ++r) {
      if (flagged[r]) {
        std::size_t at = exact.size();
        exact.push_back(rows[r]);
        for (; at > 0 && exact[at - 1] > rows[r]; --at) exact[at] = exact[at - 1];
        exact[at] = rows[r];
        continue;
      }
      if (kept != r) {
        std::memmove(x + std::ptrdiff_t(kept) * ld, x + std::ptrdiff_t(r) * ld, width * sizeof(float));
        rows[kept] = rows[r];
      }
      ++kept;
    }
    rows.resize(kept);
    return kept != n;
  }
};

/// One tile on its way out of a codec. Everything but `slot` and `state` is the decoder's to set.
struct tile {
  group_place place;                          ///< its columns
  tile_tokens_range range;                    ///< its tokens
  dtype type = dtype::f16;                    ///< of the elements when encoded
  tile_envelope envelope;                     ///< sections of pass 0, and which tokens are exact
  tile_sections refinements[max_passes - 1];  ///< of passes 1 ..; only those up to `level` are set
  int level = 0;                              ///< finest pass to decode
  int slot = 0;                               ///< for the codec's decoder: where in its memory this tile is
  status state = status::ok;                  ///< out: corrupt_tile where the sections are not what they must be

  /// Coded tokens.
  int rows() const noexcept { return envelope.rows(); }
  /// A section of a pass; empty where it is absent.
  std::span<const std::uint8_t> section(int pass, sluice::section s) const noexcept {
    return pass ? refinements[pass - 1][s] : envelope.base[s];
  }
  /// Coded tokens, counted from the first one covered, ascending.
  void coded_tokens(std::vector<std::uint16_t>& out) const {
    out.clear();
    for (int token = 0, next = 0; token < envelope.count; ++token)
      if (next < envelope.exact && envelope.exact_token(next) == token)
        ++next;
      else
        out.push_back(std::uint16_t(token));
  }
};

/// Tiles that a decoder hands over at once: K and V and their groups of one layer, so that a codec has several
/// independent chains of work in flight.
inline constexpr int tiles_at_once = 4;

namespace detail {

inline constexpr int padded(int width) noexcept { return (width + 31) / 32 * 32; }

template <class E>
concept tile_encoder = requires(E e, tile_rows& in, const side_info& side, int passes, tile_writer& out) {
  requires std::constructible_from<E, const profile&, isa>;
  { e.state() } -> std::same_as<status>;
  { e.encode(in, side, passes, out) } -> std::same_as<status>;
};

template <class D>
concept tile_decoder = requires(D d, std::span<tile> tiles, const side_info& side) {
  requires std::constructible_from<D, const profile&, isa>;
  { d.state() } -> std::same_as<status>;
  d.decode(tiles, side);
};

template <class D>
concept gives_floats = requires(D d, const tile& t, int first, int n, float* out, std::ptrdiff_t ld) {
  { d.rows(t, first, n, out, ld) } -> std::same_as<int>;
};
template <class D>
concept gives_elements = requires(D d, const tile& t, int first, int n) {
  { d.elements(t, first, n) } -> std::same_as<std::span<const std::uint8_t>>;
};

template <class C>
concept begins_tiles = requires(typename C::encoder e, typename C::decoder d) {
  e.begin_tile();
  d.begin_tile();
};

// Of a predictor, a source of features or a codec: whether it looks at side_info::tokens.
template <class T>
concept reads_tokens = requires {
  requires T::reads_tokens;
};

template <class C>
concept codes_whole_planes = requires {
  requires C::whole_planes;
};

// Rows in the codec's domain. A concept of its own: nvcc loses the brackets of a condition inside of a requirement.
template <class C>
concept gives_rows = (C::domain == value_domain::stored && gives_elements<typename C::decoder>) ||
                     (C::domain != value_domain::stored && gives_floats<typename C::decoder>);

}  // namespace detail

/// A codec: everything between rows of tokens and the sections of a tile. Static members, no state:
/// - `id`: a codec_id with all parameters that change bytes; stands in every frame and key. From 128 on yours.
/// - `tile_tokens`: tokens of a tile, 1 to 4096. `domain`: see value_domain.
/// - `span`: lower layers that a layer's rows depend on, directly or through others; 0 = every layer decodes alone.
///   Where it is not 0, encoder and decoder have `begin_tile()`, called before the lowest layer of a token tile: what was
///   learnt of another tile, or of another frame, is to be forgotten. A damaged tile costs its reader the `span` layers
///   above it as well, and one of K the V of its layer.
/// - `passes(profile)`: passes that encode() makes when asked for all, 1 to max_passes.
/// - `keeps_exact(profile, position, end)`: whether the token at `position` is kept exact, `end` being the position
///   behind the last token encoded.
/// - `uses(profile)`: whether frames depend on what the profile says beyond the shape; then they carry its fingerprint,
///   and are refused by who has another. Where it is false, a decoder must not look at anything else of it. A codec with
///   an optional section of its own adds `fingerprint(profile)`: profile::fingerprint(stage, id).
/// - optional: `reads_tokens` = true where it looks at side_info::tokens: a frame then tells other ids from its own.
/// - optional: `whole_planes` = true where a tile holds all heads of K or V, however the profile groups them; only where
///   `uses` is false. Planes of more channels than a frame's index can say are several groups.
/// - `encoder{profile, isa}`, one a thread, may keep memory; borrows the profile. K of a layer and token tile comes before
///   its V, to the same encoder; where span is 0 layers come in any order to several of them, and what is written of one
///   must not depend on others. `state()`: ok, or why the profile does not
///   serve. `encode(rows, side, passes, writer)`: writes sections of passes 0 .. passes - 1; may move rows to
///   the exact ones with make_exact() before it writes; may change rows.x. Optional `observe(rows)`: all heads of a plane,
///   before its groups are encoded. too_large = keep this tile as it is, which
///   also happens to a tile that would take more bytes than that.
/// - `decoder{profile, isa}` likewise. `decode(tiles, side)`: takes up to tiles_at_once tiles of one layer, whose
///   sections are untrusted bytes, and sets each tile's state: ok or corrupt_tile. Layers come in ascending order
///   within a token tile. Until the next decode(), rows of sound tiles are asked for, in any order:
///   `rows(tile, first, n, out, ld)` writes coded rows [first, first + n) as floats and returns how many it wrote;
///   with domain `stored` it is `elements(tile, first, n)` instead, n * width elements as they were. Neither throws.
template <class C>
concept tile_codec = requires(const profile& p, std::int64_t position) {
  { C::id } -> std::convertible_to<codec_id>;
  { C::tile_tokens } -> std::convertible_to<int>;
  { C::domain } -> std::convertible_to<value_domain>;
  { C::span } -> std::convertible_to<int>;
  { C::passes(p) } -> std::same_as<int>;
  { C::keeps_exact(p, position, position) } -> std::same_as<bool>;
  { C::uses(p) } -> std::same_as<bool>;
  requires detail::tile_encoder<typename C::encoder>;
  requires detail::tile_decoder<typename C::decoder>;
  requires detail::gives_rows<C>;
  requires(C::span == 0 || detail::begins_tiles<C>);
};

/// Whether a codec gives back the elements themselves.
template <class C>
inline constexpr bool is_exact = C::domain == value_domain::stored;

/// What a frame of this codec carries as fingerprint: 0 where the profile does not matter.
template <class C>
std::uint64_t fingerprint_of(const profile& p) {
  if constexpr (requires {
                  { C::fingerprint(p) } -> std::same_as<std::uint64_t>;
                })
    return C::fingerprint(p);
  else
    return C::uses(p) ? p.fingerprint() : 0;
}

}  // namespace sluice
