// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <input_file.hpp>
#include <sluice/format/frame.hpp>
#include <sluice/format/tile.hpp>
#include <sluice/status.hpp>

#include <algorithm>
#include <span>
#include <string>
#include <utility>
#include <vector>

/// A .slc file: frames one after the other, each a run of tokens.
class slc_file {
 public:
  struct frame {
    sluice::frame_index index;
    std::span<std::byte> bytes;  ///< of this frame; shorter than index.size() where the file was cut
    std::size_t offset = 0;

    /// Tokens that one tile covers, [begin, end) within its token tile; none where the layer was not there for it. What
    /// is damaged or cut off counts as covering all.
    std::pair<int, int> covered(const sluice::tile_key& key) const {
      const std::size_t ordinal = index.ordinal(0, key);
      if (index.range(ordinal).size() == 0) return {0, 0};
      const int all = index.tokens_of(key.tile);
      sluice::tile_envelope t;
      const auto tile = sluice::tile_bytes(index, bytes, ordinal);
      if (!tile || sluice::parse_tile(*tile, all, index.row_bytes(key), t) != sluice::status::ok) return {0, all};
      return {t.first, t.first + t.count};
    }
  };

  /// Reads a file and finds its frames. What stands before damage is kept; `trouble()` says why reading stopped. Throws
  /// data_error where the file cannot be read or holds no frame.
  explicit slc_file(const std::string& path) {
    bytes_ = read_file(path);
    std::size_t at = 0;
    while (at < bytes_.size()) {
      frame f;
      const std::span<std::byte> rest = std::span(bytes_).subspan(at);
      trouble_ = f.index.parse(rest);
      if (trouble_ != sluice::status::ok) break;
      const std::size_t size = std::size_t(f.index.size());
      f.bytes = rest.first(std::min(size, rest.size()));
      f.offset = at;
      frames_.push_back(std::move(f));
      if (size > rest.size()) {
        trouble_ = sluice::status::truncated;
        break;
      }
      at += size;
    }
    stopped_ = at;
    if (bytes_.empty()) trouble_ = sluice::status::truncated;
    if (frames_.empty()) throw data_error(path + ": " + sluice::to_string(trouble_));
  }

  std::span<frame> frames() noexcept { return frames_; }
  std::size_t size() const noexcept { return bytes_.size(); }
  sluice::status trouble() const noexcept { return trouble_; }
  std::size_t stopped_at() const noexcept { return stopped_; }

  std::int64_t first_position() const noexcept { return frames_.front().index.header().position; }
  std::int64_t end_position() const noexcept {
    std::int64_t end = 0;
    for (const frame& f : frames_) end = std::max(end, f.index.header().position + f.index.header().tokens);
    return end;
  }

  int layers() const noexcept { return frames_.front().index.header().layers; }
  /// Whether any frame has tokens of K or V of a layer.
  bool holds(int layer, sluice::plane which) const noexcept { return first_with(layer, which); }
  /// Element type of K or V of a layer in the first frame that has tokens of it.
  sluice::dtype type(int layer, sluice::plane which) const noexcept {
    const frame* f = first_with(layer, which);
    return f ? f->index.type(layer, which) : sluice::dtype::f16;
  }

  /// The positions that a layer has tokens at.
  struct extent {
    std::int64_t begin = 0, end = 0, tokens = 0;
    bool contiguous() const noexcept { return tokens == end - begin; }
  };
  extent held(int layer) const {
    extent e;
    for (const frame& f : frames_) {
      const sluice::frame_header& h = f.index.header();
      if (layer >= h.layers) continue;
      const sluice::plane which = f.index.shape_of(layer).groups(0) ? sluice::plane::key : sluice::plane::value;
      if (f.index.shape_of(layer).groups(int(which)) == 0) continue;
      for (int tile = 0; tile < f.index.token_tiles(); ++tile) {
        const auto [first, last] = f.covered({layer, which, tile, 0});
        if (first == last) continue;
        const std::int64_t start = h.position + std::int64_t{tile} * h.tile_tokens;
        e.begin = e.tokens ? std::min(e.begin, start + first) : start + first;
        e.end = std::max(e.end, start + last);
        e.tokens += last - first;
      }
    }
    return e;
  }

 private:
  const frame* first_with(int layer, sluice::plane which) const noexcept {
    for (const frame& f : frames_)
      if (layer < f.index.header().layers && f.index.holds(layer, which)) return &f;
    return nullptr;
  }

  std::vector<std::byte> bytes_;
  std::vector<frame> frames_;
  sluice::status trouble_ = sluice::status::ok;
  std::size_t stopped_ = 0;
};
