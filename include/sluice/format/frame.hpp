// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/format/checksum.hpp>
#include <sluice/format/limits.hpp>
#include <sluice/numeric.hpp>
#include <sluice/status.hpp>
#include <sluice/tensor/shape.hpp>
#include <sluice/version.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

namespace sluice {

/// One policy of a codec as it stands in a frame's header: an identifier and what sets it apart from its siblings.
/// Identifiers from 128 on belong to users.
struct stage_id {
  std::uint8_t id = 0;             ///< which policy; 0 to 127 are the library's
  std::uint8_t parameter[3] = {};  ///< of that policy, little endian; 0 where it has none
  bool operator==(const stage_id&) const = default;

  /// A parameter of up to 24 bits, little endian.
  static constexpr stage_id of(int id, std::uint32_t parameter = 0) noexcept {
    return {std::uint8_t(id), {std::uint8_t(parameter), std::uint8_t(parameter >> 8), std::uint8_t(parameter >> 16)}};
  }
  /// The parameter as a number, as of() took it.
  constexpr std::uint32_t value() const noexcept {
    return parameter[0] | std::uint32_t{parameter[1]} << 8 | std::uint32_t{parameter[2]} << 16;
  }
};

/// What made a frame (FORMAT.md section 3.2): stands in its header and in the keys that stores keep it under.
struct codec_id {
  stage_id method;      ///< 0 = the stages below; other codecs use these as they like. Parameter: tokens of a tile
  stage_id predictor;   ///< what is subtracted from rows before they are transformed
  stage_id transform;   ///< rows to coefficients
  stage_id quantizer;   ///< coefficients to integers
  stage_id bit_widths;  ///< how an encoder chose; no decoder depends on it
  stage_id entropy;     ///< integers (or, with method 1, elements) to bytes
  bool operator==(const codec_id&) const = default;

  /// Whether one decoder reads both: they may differ in tile size and bit widths.
  SLUICE_HD constexpr bool decodes(const codec_id& other) const noexcept {
    return method.id == other.method.id && predictor == other.predictor && transform == other.transform &&
           quantizer == other.quantizer && bit_widths.id == other.bit_widths.id && entropy == other.entropy;
  }
};
static_assert(sizeof(codec_id) == 24);

/// First bytes of every frame (FORMAT.md section 3.1); little endian.
struct frame_header {
  std::uint32_t magic;            ///< frame_magic
  std::uint8_t version_major;     ///< SLUICE_FORMAT_VERSION_MAJOR of the encoder
  std::uint8_t version_minor;     ///< SLUICE_FORMAT_VERSION_MINOR of the encoder
  std::uint16_t header_size;      ///< bytes: sizeof(frame_header)
  std::uint64_t fingerprint;      ///< of the profile; 0 for codecs that need none
  std::int64_t position;          ///< sequence position of the first token
  std::uint64_t frame_size;       ///< bytes with all passes that the index lists
  std::uint32_t tokens;           ///< 1 to max_frame_tokens
  std::uint32_t tile_tokens;      ///< tokens of a token tile, 1 to max_tile_tokens; the last one may have fewer
  std::uint32_t index_size;       ///< bytes of the index, which follows the header
  std::uint32_t index_checksum;   ///< over these bytes, with frame_magic as seed
  std::uint16_t layers;           ///< of the model, those without KV included
  std::uint16_t shape_runs;       ///< at the start of the index
  std::uint8_t unused[2];         ///< zero
  std::uint8_t passes;            ///< that the index lists: those made, or fewer where tiles were cut
  std::uint8_t levels_present;    ///< passes that are here: truncation lowers this and nothing else
  codec_id codec;                 ///< what made the frame
  std::uint32_t side_checksum;    ///< of what a predictor was told of the tokens, see side_checksum(); 0 = nothing
  std::uint8_t loss[max_passes];  ///< expected loss of every level, see loss_of(); 0 = as the profile says
  std::uint8_t reserved[2];       ///< zero
  std::uint32_t header_checksum;  ///< over all bytes before

  /// What this frame's tokens are expected to lose at a level, in nats of KL divergence of a whole context that is coded
  /// alike; negative where the encoder did not say.
  double loss_of(int level) const noexcept {
    const int code = level >= 0 && level < max_passes ? loss[level] : 0;
    return code ? detail::exp2(double(code - loss_bias) / 8) : -1.0;
  }
  /// The nearest code of a loss: eighths of octaves.
  static std::uint8_t loss_code(double nats) noexcept {
    const double code = nats > 0 ? 8 * detail::log2(nats) + loss_bias + 0.5 : 0;
    return std::uint8_t(code < 1 ? 1 : code > 255 ? 255 : code);
  }
  static constexpr int loss_bias = 200;  ///< the code of 1 nat
};
static_assert(sizeof(frame_header) == 96 && offsetof(frame_header, frame_size) == 24 &&
              offsetof(frame_header, layers) == 48 && offsetof(frame_header, codec) == 56 &&
              offsetof(frame_header, side_checksum) == 80 && offsetof(frame_header, header_checksum) == 92);

/// Consecutive layers of one shape and type (FORMAT.md section 3.3).
struct shape_run {
  std::uint16_t layers;          ///< how many, at least 1
  std::uint16_t num_kv_heads;    ///< 0 = layers without KV, and so is everything but `layers`
  std::uint16_t head_dim[2];     ///< K, V; 0 = absent
  std::uint16_t group_width[2];  ///< channels a group covers
  std::uint8_t type[2];          ///< dtype of K and V when encoded; 0 where absent
  std::uint16_t reserved;        ///< zero
  /// Heads, sizes and types within the limits of a profile, whole heads a group.
  SLUICE_HD constexpr bool valid() const noexcept {
    if (layers == 0 || num_kv_heads > max_kv_heads || reserved) return false;
    if ((num_kv_heads == 0) != (head_dim[0] == 0 && head_dim[1] == 0)) return false;
    for (int p : {0, 1}) {
      if (head_dim[p] > max_head_dim || type[p] > std::uint8_t(dtype::bytes)) return false;
      if (head_dim[p] ? group_width[p] == 0 || group_width[p] % head_dim[p] != 0 : group_width[p] != 0 || type[p] != 0)
        return false;
    }
    return true;
  }
  /// Channels of K (plane 0) or V (plane 1) of a layer: all heads.
  SLUICE_HD constexpr int width(int plane) const noexcept { return num_kv_heads * head_dim[plane]; }
  /// Groups that these channels are coded in; 0 where the plane is absent.
  SLUICE_HD constexpr int groups(int plane) const noexcept {
    return group_width[plane] ? (width(plane) + group_width[plane] - 1) / group_width[plane] : 0;
  }
  /// Channels of one group; the last one of a layer may have fewer.
  SLUICE_HD constexpr int channels(int plane, int group) const noexcept {
    return detail::min(int{group_width[plane]}, width(plane) - group * group_width[plane]);
  }
  bool operator==(const shape_run&) const = default;
};
static_assert(sizeof(shape_run) == 16 && offsetof(shape_run, type) == 12);

/// The index's entry of one coded unit: (pass, layer, plane, token tile, group).
struct tile_entry {
  std::uint32_t size;      ///< bytes; 0 = nothing is coded; cut_tile = this pass was cut from the tile
  std::uint32_t checksum;  ///< over these bytes, with the tile's ordinal as seed; 0 where the pass was cut
};
static_assert(sizeof(tile_entry) == 8);

/// In place of a tile's size: the frame has this tile at the level below only, because it was made or cut to fit.
inline constexpr std::uint32_t cut_tile = UINT32_MAX;

/// The first four bytes of a frame, "SLCF", as a little-endian number.
inline constexpr std::uint32_t frame_magic = 0x46434c53;

/// A half-open range of bytes within a frame.
struct byte_range {
  std::uint64_t begin = 0;  ///< of the first byte, counted from the frame's first
  std::uint64_t end = 0;    ///< behind the last byte
  /// Bytes in the range.
  std::uint64_t size() const noexcept { return end - begin; }
};

/// Which tile: layer, plane, token tile and group of channels.
struct tile_key {
  int layer = 0;                     ///< of the model
  sluice::plane plane = plane::key;  ///< K or V
  int tile = 0;                      ///< token tile, counted from the frame's first token
  int group = 0;                     ///< of channels, see shape_run::groups()
};

/// A parsed header and index: where every tile lies, without reading a byte of payload.
/// Reusable; parse() keeps the memory of earlier frames.
class frame_index {
 public:
  /// Reads header and index from the first bytes of a frame (payload may be missing).
  /// Errors: not_a_frame, wrong_version, truncated (more bytes are needed), corrupt_header, corrupt_index, too_large.
  status parse(std::span<const std::byte> bytes);

  /// The header that parse() read.
  const frame_header& header() const noexcept { return header_; }
  /// The shapes of all layers, ascending; valid until the next parse().
  std::span<const shape_run> runs() const noexcept { return runs_; }
  /// The shape of a layer below header().layers.
  const shape_run& shape_of(int layer) const noexcept { return runs_[run_of_layer_[std::size_t(layer)]]; }
  /// Element type of K or V of a layer when encoded; of no meaning where the layer has no such plane.
  dtype type(int layer, plane p) const noexcept { return dtype{shape_of(layer).type[int(p)]}; }
  /// Whether the frame has any token of K or V of a layer; it has none where no view showed the layer.
  bool holds(int layer, plane p) const noexcept {
    const std::size_t first = ordinal(0, {layer, p, 0, 0});
    const std::size_t tiles = std::size_t(token_tiles()) * std::size_t(shape_of(layer).groups(int(p)));
    return offset_[first] != offset_[first + tiles];
  }
  /// Bytes of a token of a tile as the cache held it.
  std::size_t row_bytes(const tile_key& k) const noexcept {
    return std::size_t(shape_of(k.layer).channels(int(k.plane), k.group)) *
           std::size_t(size_of(type(k.layer, k.plane)));
  }
  /// Token tiles of the frame: how many pieces of header().tile_tokens its tokens are cut into.
  int token_tiles() const noexcept { return int((header_.tokens + header_.tile_tokens - 1) / header_.tile_tokens); }
  /// Tokens of a token tile: header().tile_tokens, fewer in the last one.
  int tokens_of(int tile) const noexcept {
    return int(detail::min(header_.tile_tokens, header_.tokens - std::uint32_t(tile) * header_.tile_tokens));
  }

  /// Tiles of one pass.
  std::size_t tiles_per_pass() const noexcept { return tiles_per_pass_; }
  /// Number of a tile in a pass, in the order of the index: pass, layer, plane, token tile, group. The other functions
  /// that take an ordinal mean this number.
  std::size_t ordinal(int pass, const tile_key& k) const noexcept {
    const shape_run& s = shape_of(k.layer);
    const std::size_t first = first_tile_[std::size_t(k.layer)] +
                              (k.plane == plane::value ? std::size_t(s.groups(0)) * std::size_t(token_tiles()) : 0);
    return std::size_t(pass) * tiles_per_pass_ + first + std::size_t(k.tile) * std::size_t(s.groups(int(k.plane))) +
           std::size_t(k.group);
  }
  /// Levels that are here of the tile with this ordinal in pass 0: header().levels_present, or fewer where some were cut.
  int levels_of(std::size_t ordinal) const noexcept { return detail::min<int>(kept_[ordinal], header_.levels_present); }
  /// Whether the pass with this ordinal was cut from its tile.
  bool is_cut(std::size_t ordinal) const noexcept {
    return ordinal / tiles_per_pass_ >= kept_[ordinal % tiles_per_pass_];
  }
  /// Levels that all tiles have: header().levels_present, or fewer where some were cut.
  int whole_levels() const noexcept {
    int levels = header_.levels_present;
    for (std::size_t i = 0; any_cut_ && i < kept_.size(); ++i) levels = detail::min(levels, levels_of(i));
    return levels;
  }
  /// Whether any tile was cut.
  bool any_cut() const noexcept { return any_cut_; }

  /// Where the bytes of a tile lie in the frame; empty where nothing is coded, or where it was cut.
  byte_range range(std::size_t ordinal) const noexcept { return {offset_[ordinal], offset_[ordinal + 1]}; }
  /// What the bytes of a tile must have as checksum(), with the ordinal as seed.
  std::uint32_t checksum_of(std::size_t ordinal) const noexcept { return checksum_[ordinal]; }

  /// The contiguous bytes of one pass for layers [begin, end).
  byte_range range(int pass, int begin, int end) const noexcept {
    const std::size_t base = std::size_t(pass) * tiles_per_pass_;
    return {offset_[base + first_tile_[std::size_t(begin)]], offset_[base + first_tile_[std::size_t(end)]]};
  }

  /// Bytes of header and index, behind which the first tile begins.
  std::uint64_t payload_offset() const noexcept { return header_.header_size + header_.index_size; }
  /// Bytes of this frame when cut after `level`.
  std::uint64_t size_at(int level) const noexcept { return offset_[std::size_t(level + 1) * tiles_per_pass_]; }
  /// Bytes of this frame as the header says it stands here.
  std::uint64_t size() const noexcept {
    return header_.levels_present ? size_at(header_.levels_present - 1) : payload_offset();
  }

 private:
  frame_header header_{};
  std::vector<shape_run> runs_;
  std::vector<std::uint16_t> run_of_layer_;
  std::vector<std::size_t> first_tile_;  // [layers + 1], within a pass
  std::vector<std::uint64_t> offset_;    // [passes * tiles_per_pass + 1], from the frame's first byte
  std::vector<std::uint32_t> checksum_;
  std::vector<std::uint8_t> kept_;  // [tiles_per_pass], passes that were not cut
  std::size_t tiles_per_pass_ = 0;
  bool any_cut_ = false;
};

/// Whether this decoder reads a version of the format; until 1.0 any minor number may change the meaning of bytes.
SLUICE_HD constexpr bool reads_version(int major, int minor) noexcept {
  constexpr int own_major = SLUICE_FORMAT_VERSION_MAJOR, own_minor = SLUICE_FORMAT_VERSION_MINOR;
  return major == own_major && (major == 0 ? minor == own_minor : minor <= own_minor);
}

/// Checksum of a header's own bytes.
inline std::uint32_t header_checksum(const frame_header& h) noexcept {
  return checksum(&h, offsetof(frame_header, header_checksum), frame_magic);
}

/// What tells token ids from others, in a header; never 0.
inline std::uint32_t side_checksum(std::span<const std::int32_t> tokens) noexcept {
  const std::uint32_t sum = checksum(tokens.data(), tokens.size_bytes(), frame_magic);
  return sum ? sum : 1;
}

namespace detail {

// What can be said of a header alone; `sum` = what its checksum should be.
SLUICE_HD constexpr status check_header(const frame_header& h, std::uint32_t sum) noexcept {
  if (!reads_version(h.version_major, h.version_minor)) return status::wrong_version;
  if (h.header_size != sizeof h || h.header_checksum != sum) return status::corrupt_header;
  for (std::uint8_t r : h.reserved)
    if (r) return status::corrupt_header;
  if (h.unused[0] || h.unused[1] || h.passes < 1 || h.passes > max_passes || h.levels_present > h.passes ||
      h.tile_tokens < 1 || h.tokens < 1 || h.position < 0 || h.position > INT64_MAX - max_frame_tokens)
    return status::corrupt_header;
  if (h.tokens > max_frame_tokens || h.tile_tokens > max_tile_tokens || h.layers > max_model_layers)
    return status::too_large;
  return status::ok;
}

// Bytes of an index without its padding, where all its runs are valid and have so many tiles a pass together; 0 where it
// has another number of layers, no tiles, or another size than they take.
SLUICE_HD constexpr std::uint64_t used_index(const frame_header& h, std::uint64_t layers,
                                             std::uint64_t tiles) noexcept {
  const std::uint64_t used = h.shape_runs * sizeof(shape_run) + tiles * h.passes * sizeof(tile_entry);
  // No layer keeps anything where there are no tiles.
  return layers != h.layers || tiles == 0 || used > h.index_size || h.index_size - used >= 16 ? 0 : used;
}

}  // namespace detail

inline status frame_index::parse(std::span<const std::byte> bytes) {
  if (bytes.size() >= 4) {
    std::uint32_t magic = 0;
    std::memcpy(&magic, bytes.data(), 4);
    if (magic != frame_magic) return status::not_a_frame;
  }
  if (bytes.size() < sizeof(frame_header)) return status::truncated;
  frame_header h;
  std::memcpy(&h, bytes.data(), sizeof h);
  if (const status s = detail::check_header(h, header_checksum(h)); s != status::ok) return s;
  if (bytes.size() - sizeof h < h.index_size) return status::truncated;
  const std::byte* at = bytes.data() + sizeof h;
  if (checksum(at, h.index_size, frame_magic) != h.index_checksum) return status::corrupt_index;
  if ((sizeof h + h.index_size) % 16 || h.index_size < h.shape_runs * sizeof(shape_run)) return status::corrupt_index;

  // Counts are proven against the size of the index before anything is allocated from them.
  runs_.resize(h.shape_runs);
  if (h.shape_runs) std::memcpy(runs_.data(), at, h.shape_runs * sizeof(shape_run));
  std::size_t layers = 0, tiles = 0;
  const std::size_t token_tiles = (std::size_t{h.tokens} + h.tile_tokens - 1) / h.tile_tokens;
  for (const shape_run& r : runs_) {
    layers += r.layers;
    if (!r.valid() || layers > h.layers) return status::corrupt_index;
    tiles += std::size_t{r.layers} * token_tiles * std::size_t(r.groups(0) + r.groups(1));
    if (tiles > h.index_size / sizeof(tile_entry)) return status::corrupt_index;
  }
  const std::uint64_t used = detail::used_index(h, layers, tiles);
  if (used == 0) return status::corrupt_index;
  for (std::size_t i = used; i < h.index_size; ++i)
    if (at[i] != std::byte{0}) return status::corrupt_index;

  run_of_layer_.clear();
  first_tile_.assign(1, 0);
  for (std::size_t r = 0; r < runs_.size(); ++r)
    for (int l = 0; l < runs_[r].layers; ++l) {
      run_of_layer_.push_back(std::uint16_t(r));
      first_tile_.push_back(first_tile_.back() + token_tiles * std::size_t(runs_[r].groups(0) + runs_[r].groups(1)));
    }
  const std::byte* entries = at + h.shape_runs * sizeof(shape_run);
  const std::size_t total = tiles * h.passes;
  offset_.resize(total + 1);
  checksum_.resize(total);
  kept_.assign(tiles, h.passes);
  any_cut_ = false;
  offset_[0] = sizeof h + h.index_size;
  for (std::size_t i = 0; i < total; ++i) {
    tile_entry e;
    std::memcpy(&e, entries + i * sizeof e, sizeof e);
    std::uint8_t& kept = kept_[i % tiles];
    if (e.size == cut_tile) {  // passes are cut from the finest down, the base never is
      if (i < tiles || e.checksum) return status::corrupt_index;
      kept = std::uint8_t(detail::min<std::size_t>(kept, i / tiles));
      any_cut_ = true;
      e.size = 0;
    } else if (kept < h.passes) {
      return status::corrupt_index;
    }
    offset_[i + 1] = offset_[i] + e.size;
    checksum_[i] = e.checksum;
  }
  if (offset_[total] != h.frame_size) return status::corrupt_index;
  tiles_per_pass_ = tiles;
  header_ = h;
  return status::ok;
}

/// The bytes of one pass of a tile, which are still a codec's to judge; none where the pass was cut. Errors: truncated (not
/// all of them are here), corrupt_tile (they are not what the index says).
inline result<std::span<const std::uint8_t>> tile_bytes(const frame_index& index, std::span<const std::byte> frame,
                                                        std::size_t ordinal, isa on = isa::best) noexcept {
  if (index.is_cut(ordinal)) return std::span<const std::uint8_t>();
  const byte_range r = index.range(ordinal);
  if (r.end > frame.size()) return status::truncated;
  const std::span bytes(reinterpret_cast<const std::uint8_t*>(frame.data()) + r.begin, std::size_t(r.size()));
  if (checksum(bytes.data(), bytes.size(), std::uint32_t(ordinal), on) != index.checksum_of(ordinal))
    return status::corrupt_tile;
  return bytes;
}

/// The finest level up to `level` at which every tile of the frame is whole; -1 = a tile of the base is not. What was cut
/// is not missing.
inline int sound_level(const frame_index& index, std::span<const std::byte> frame, int level) noexcept {
  const std::size_t tiles = index.tiles_per_pass();
  for (std::size_t i = 0; i < std::size_t(level + 1) * tiles; ++i)
    if (!tile_bytes(index, frame, i)) return int(i / tiles) - 1;
  return level;
}

/// Cuts a frame after `level`, in place: lowers levels_present and returns the new size; the bytes behind it may be dropped.
/// A frame that already holds fewer levels is left as it is. Errors: those of frame_index::parse, level_not_present, truncated.
inline result<std::size_t> truncate(std::span<std::byte> frame, int level) {
  frame_index index;
  if (const status s = index.parse(frame); s != status::ok) return s;
  frame_header h = index.header();
  if (level < 0 || level >= h.passes) return status::level_not_present;
  if (h.levels_present > level + 1) h.levels_present = std::uint8_t(level + 1);
  h.header_checksum = header_checksum(h);
  std::memcpy(frame.data(), &h, sizeof h);
  const std::size_t size = std::size_t(h.levels_present ? index.size_at(h.levels_present - 1) : index.payload_offset());
  return frame.size() < size ? result<std::size_t>(status::truncated) : result<std::size_t>(size);
}

}  // namespace sluice
