// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/format/cut.hpp>
#include <sluice/format/frame.hpp>
#include <sluice/model/profile.hpp>
#include <sluice/numeric.hpp>
#include <sluice/status.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

// Which passes of which tiles a number of bytes is best spent on. What a pass of a tile is worth is the loss that the
// profile expects without it, less that with it.

namespace sluice {

namespace detail {

// Of one tile: passes to choose from, bytes of each, and nats that are lost where it stands at each level.
struct tile_worth {
  int passes = max_passes;
  std::uint32_t size[max_passes] = {};
  double loss[max_passes] = {};
};

// The loss of every plane, shared among its tiles by tokens and channels; sizes stand in `tiles` already, in the order of
// the index. channels(plane, group) are 0 behind the last group. Where the profile expects no loss at all, or is null, all
// values count the same and a step three times finer loses a ninth.
template <class Channels>
void share_losses(const profile* p, std::size_t planes, int tokens, int tile_tokens, Channels channels,
                  std::span<tile_worth> tiles) {
  bool known = false;
  for (std::size_t at = 0; p && at < planes; ++at) known |= p->planes[at].loss[0] > 0;
  std::size_t first = 0;
  for (std::size_t at = 0; at < planes; ++at) {
    int groups = 0;
    double width = 0;
    for (int n; (n = channels(at, groups)) > 0; ++groups) width += n;
    const auto tokens_of = [&](std::size_t i) {
      const int tile = int((i - first) / std::size_t(groups));
      return tiles[i].size[0] ? min(tile_tokens, tokens - tile * tile_tokens) : 0;
    };
    const std::size_t end = first + std::size_t((tokens + tile_tokens - 1) / tile_tokens) * std::size_t(groups);
    double held = 0;
    for (std::size_t i = first; i < end; i += std::size_t(groups)) held += tokens_of(i);
    for (std::size_t i = first; i < end; ++i) {
      const double values = double(tokens_of(i)) * channels(at, int((i - first) % std::size_t(groups)));
      double uniform = values;
      for (int level = 0; level < max_passes; ++level, uniform /= 9)
        tiles[i].loss[level] =
            known && values > 0 ? double(p->planes[at].loss[std::size_t(level)]) * values / (held * width) : uniform;
    }
    first = end;
  }
}

// How many passes each tile keeps, in the order of the index.
struct pass_choice {
  std::vector<std::uint8_t> kept{};  // empty where not even the base fits
  std::size_t size = 0;
  double loss = 0;
};

class pass_chooser {
 public:
  pass_chooser(std::span<const tile_worth> tiles, int passes, std::size_t shape_runs)
      : tiles_(tiles), passes_(passes), runs_(shape_runs) {
    for (std::size_t i = 0; i < tiles.size(); ++i) {
      // A pass is worth what it gains for a byte, alone or with those above it, but comes after those below it.
      double per_byte = infinity;
      const int of_tile = min(passes, tiles[i].passes);
      for (int p = 1; p < of_tile; ++p) {
        double most = 0, bytes = 0;
        for (int q = p; q < of_tile; ++q) {
          bytes += tiles[i].size[q];
          const double gain = max(tiles[i].loss[p - 1] - tiles[i].loss[q], 0.0);
          most = max(most, bytes > 0 ? gain / bytes : infinity);
        }
        per_byte = min(per_byte, most);
        units_.push_back({per_byte, std::uint32_t(i), std::uint8_t(p)});
      }
    }
    detail::sort(units_.data(), units_.size(), [](const unit& a, const unit& b) {
      return a.per_byte != b.per_byte ? a.per_byte > b.per_byte : a.tile != b.tile ? a.tile < b.tile : a.pass < b.pass;
    });
  }

  // The best of several choices: an index that lists fewer passes leaves more for tiles, and what begins with the finest
  // whole level that fits is never worse than that level.
  pass_choice choose(std::size_t budget) const {
    pass_choice best;
    for (int listed = 1; listed <= passes_; ++listed) {
      int whole = 1;
      while (whole < listed && size_of_passes(whole + 1, listed) <= budget) ++whole;
      for (int from = 1; from <= whole; from += max(whole - 1, 1)) {
        pass_choice c = fill(budget, listed, from);
        if (c.kept.empty()) continue;
        if (best.kept.empty() || c.loss < best.loss || (c.loss == best.loss && c.size > best.size)) best = std::move(c);
      }
    }
    return best;
  }

 private:
  struct unit {
    double per_byte;
    std::uint32_t tile;
    std::uint8_t pass;
  };

  // Bytes of a frame with so many passes of all tiles, and an index of `listed`.
  std::size_t size_of_passes(int passes, int listed) const noexcept {
    std::size_t size = front_size(runs_, tiles_.size(), std::size_t(listed));
    for (const tile_worth& t : tiles_)
      for (int p = 0; p < passes; ++p) size += t.size[p];
    return size;
  }

  // So many passes of all tiles, then what gains most for its bytes and fits.
  pass_choice fill(std::size_t budget, int listed, int from) const {
    pass_choice c;
    c.size = size_of_passes(from, listed);
    if (c.size > budget) return c;
    for (const tile_worth& t : tiles_) c.kept.push_back(std::uint8_t(min(from, t.passes)));
    for (const unit& u : units_) {
      const std::size_t size = tiles_[u.tile].size[u.pass];
      if (c.kept[u.tile] != u.pass || u.pass >= listed || c.size + size > budget) continue;
      ++c.kept[u.tile];
      c.size += size;
    }
    for (std::size_t i = 0; i < tiles_.size(); ++i) c.loss += tiles_[i].loss[c.kept[i] - 1];
    return c;
  }

  std::span<const tile_worth> tiles_;
  int passes_;
  std::size_t runs_;
  std::vector<unit> units_;
};

// What a frame's tiles are worth, of the passes that are here. Errors: wrong_shape (the profile's planes are others).
inline status weigh_tiles(const frame_index& index, const profile* p, std::vector<tile_worth>& tiles) {
  const frame_header& h = index.header();
  if (p && p->planes.size() != 2 * std::size_t(h.layers)) return status::wrong_shape;
  for (std::size_t at = 0; p && at < p->planes.size(); ++at)
    if (p->planes[at].width != index.shape_of(int(at / 2)).width(int(at % 2))) return status::wrong_shape;
  tiles.assign(index.tiles_per_pass(), {});
  for (std::size_t i = 0; i < tiles.size(); ++i) tiles[i].passes = index.levels_of(i);
  for (std::size_t i = 0; i < tiles.size() * h.levels_present; ++i)
    tiles[i % tiles.size()].size[i / tiles.size()] = std::uint32_t(index.range(i).size());
  const auto channels = [&](std::size_t at, int group) {
    const shape_run& s = index.shape_of(int(at / 2));
    return group < s.groups(int(at % 2)) ? s.channels(int(at % 2), group) : 0;
  };
  share_losses(p, 2 * std::size_t(h.layers), int(h.tokens), int(h.tile_tokens), channels, tiles);
  // What the encoder saw of these tokens, where it says so, shared as the profile shares.
  for (int level = 0; p && level < max_passes; ++level) {
    double sum = 0;
    for (const tile_worth& t : tiles) sum += t.loss[level];
    if (const double said = h.loss_of(level); said >= 0 && sum > 0)
      for (tile_worth& t : tiles) t.loss[level] *= said / sum;
  }
  return status::ok;
}

}  // namespace detail

/// Nats that a context is expected to lose that consists of frames like this one, read at `level`: what its encoder wrote
/// into the header, or the profile's losses of its planes; of each tile at the level that it has. Errors: wrong_shape, level_not_present.
inline result<double> expected_loss(const frame_index& index, const profile& p, int level = max_passes) {
  std::vector<detail::tile_worth> tiles;
  if (index.header().levels_present == 0 || level < 0) return status::level_not_present;
  if (const status s = detail::weigh_tiles(index, &p, tiles); s != status::ok) return s;
  double sum = 0;
  for (std::size_t i = 0; i < tiles.size(); ++i) sum += tiles[i].loss[detail::min(level, index.levels_of(i) - 1)];
  return sum;
}

/// Cuts a frame down to at most `max_bytes`, in place, and returns its new size; the bytes behind it may be dropped. Passes
/// leave tile by tile, those first that gain least for their bytes in the profile's expectation; without a profile all
/// values count the same. Never coarser, in the sum of expected losses, than the finest whole level that fits. A frame that
/// is small enough is left as it is.
/// Errors: those of frame_index::parse, level_not_present, truncated, wrong_shape (a profile of another model),
/// output_too_small (not even the base fits; the frame is left as it is).
inline result<std::size_t> truncate_to(std::span<std::byte> frame, std::size_t max_bytes, const profile* p = nullptr) {
  frame_index index;
  if (const status s = index.parse(frame); s != status::ok) return s;
  const frame_header& h = index.header();
  if (h.levels_present == 0) return status::level_not_present;
  if (frame.size() < index.size()) return status::truncated;
  if (index.size() <= max_bytes) return std::size_t(index.size());
  std::vector<detail::tile_worth> tiles;
  if (const status s = detail::weigh_tiles(index, p, tiles); s != status::ok) return s;
  detail::pass_choice c = detail::pass_chooser(tiles, h.levels_present, h.shape_runs).choose(max_bytes);
  if (c.kept.empty()) return status::output_too_small;
  return cut_tiles(frame, c.kept);
}

}  // namespace sluice
