// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/group/tile_tokens.hpp>
#include <sluice/codec/stages.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace sluice {

/// Elements of one tile as the cache holds them: [rows][width], heads in order.
struct element_block {
  const std::uint8_t* elements = nullptr;  ///< null on the way out
  dtype type = dtype::f16;                 ///< of the elements
  int rows = 0;                            ///< tokens
  int width = 0;                           ///< elements of a token
  /// Bytes of one token.
  std::size_t row_bytes() const noexcept { return std::size_t(width) * std::size_t(size_of(type)); }
  /// Bytes of all of them.
  std::size_t size() const noexcept { return row_bytes() * std::size_t(rows); }
};

/// Lossless model: elements to bytes and back, bit for bit.
/// - `id`; `encoder{isa}`: `encode(block, out)` writes its bytes; too_large = keep the tile as it is.
/// - `decoder{isa}`: `decode(bytes, what, memory)` returns what.size() bytes of elements, in `memory` or in the frame;
///   none where the bytes, which are untrusted, are not such a block.
template <class M>
concept lossless_model = requires {
  { M::id } -> std::convertible_to<stage_id>;
}
&&requires(typename M::encoder e, const element_block& in, std::vector<std::uint8_t>& out) {
  requires std::constructible_from<typename M::encoder, isa>;
  { e.encode(in, out) } -> std::same_as<status>;
}
&&requires(typename M::decoder d, std::span<const std::uint8_t> bytes, const element_block& what,
           std::vector<std::uint8_t>& memory) {
  requires std::constructible_from<typename M::decoder, isa>;
  { d.decode(bytes, what, memory) } -> std::same_as<std::span<const std::uint8_t>>;
};

namespace codec {

inline namespace SLUICE_HOST_ABI {

/// A tile codec of elements as they are stored: a grouping and a lossless model, nothing else. Any type, any position
/// but another one; no profile but the shape.
template <grouping_policy Grouping, lossless_model Model>
struct stored_codec {
  using grouping = Grouping;  ///< tokens of a tile
  using entropy = Model;      ///< elements to bytes
  /// The same codec with tiles of another size.
  template <class G>
  using with_grouping = stored_codec<G, Model>;
  /// The same codec with another lossless model.
  template <class M>
  using with_entropy = stored_codec<Grouping, M>;

  static constexpr codec_id id{stage_id::of(1, Grouping::tokens), {}, {}, {}, {}, Model::id};
  static constexpr int tile_tokens = Grouping::tokens;
  static constexpr value_domain domain = value_domain::stored;
  static constexpr int span = 0;
  static int passes(const profile&) noexcept { return 1; }
  static bool keeps_exact(const profile&, std::int64_t, std::int64_t) noexcept { return false; }
  static bool uses(const profile&) noexcept { return false; }

  class encoder {
   public:
    encoder(const profile&, isa i) : model_(i) {}
    status state() const noexcept { return status::ok; }
    status encode(tile_rows& in, const side_info&, int /*passes*/, tile_writer& w) {
      return model_.encode({in.elements, in.type, in.count(), in.place.width()}, w.at(0, section::entropy));
    }

   private:
    typename Model::encoder model_;
  };

  class decoder {
   public:
    decoder(const profile&, isa i) : model_(i) {}
    status state() const noexcept { return status::ok; }

    void decode(std::span<tile> tiles, const side_info&) {
      for (std::size_t i = 0; i < tiles.size(); ++i) {
        tile& t = tiles[i];
        t.slot = int(i);
        const element_block what{nullptr, t.type, t.rows(), t.place.width()};
        elements_[i] = {};
        if (what.size()) elements_[i] = model_.decode(t.section(0, section::entropy), what, memory_[i]);
        if (elements_[i].size() != what.size()) t.state = status::corrupt_tile;
      }
    }
    std::span<const std::uint8_t> elements(const tile& t, int first, int n) const noexcept {
      const std::size_t row = std::size_t(t.place.width()) * std::size_t(size_of(t.type));
      return elements_[t.slot].subspan(std::size_t(first) * row, std::size_t(n) * row);
    }

   private:
    typename Model::decoder model_;
    std::span<const std::uint8_t> elements_[tiles_at_once];
    std::vector<std::uint8_t> memory_[tiles_at_once];
  };
};

}  // namespace SLUICE_HOST_ABI
}  // namespace codec
}  // namespace sluice
