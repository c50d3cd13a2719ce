// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/gap.hpp>
#include <sluice/numeric.hpp>
#include <sluice/status.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace sluice::stream {

/// What a store holds of one layer of a chunk: its keys and values; the layer's input, from which keys and values are
/// projected (HCache, XQuant); or nothing, so that the layer is computed from the text (DroidSpeak's recomputed layers).
enum class payload : std::uint8_t { kv, hidden, absent };

/// A half-open range of model layers, or of groups of layers where the cost model counts in groups.
struct layer_range {
  int begin = 0;  ///< first layer (or group)
  int end = 0;    ///< behind the last one
  bool operator==(const layer_range&) const = default;
};

/// Size of an exact copy that a store does not have: more than any plan takes, and never asked for.
inline constexpr std::uint64_t bytes_of_no_copy = std::uint64_t{1} << 49;

/// One chunk as a store's index describes it. `bytes[level * layers + layer]` are the bytes of one layer in a frame cut after
/// `level`; the row behind the last level is the raw or exact copy, whose loss is zero. `loss[level]` in nats: what the
/// whole request loses when this chunk stands at that level (losses of chunks add up).
struct chunk_cost {
  std::int64_t position = 0;         ///< of the first token
  int tokens = 0;                    ///< at least 1
  std::uint64_t values = 0;          ///< scalars of K and V that a decoder writes
  std::vector<std::uint64_t> bytes;  ///< [levels + 1][layers], see above; no level is smaller than the one below
  std::vector<double> loss;          ///< [levels] nats, see above
  std::vector<payload> kinds = {};   ///< per layer; empty = kv everywhere
  /// Of the model's layers, where chunks are cut into units of some layers each; empty = all. Units of the same layers stand
  /// together, in the order of their tokens, behind those of the layers below.
  layer_range layers = {};
};

/// What the machine and the link cost, as measured by the engine. A chunk of t tokens at position p is computed in
/// t * (recompute_seconds_per_token + recompute_seconds_per_token_position * (p + t / 2)) seconds; a unit of some layers takes
/// their share of that.
struct cost_rates {
  double recompute_seconds_per_token = 0;           ///< what computing a token costs wherever it stands
  double recompute_seconds_per_token_position = 0;  ///< and for each token before it, which it attends to
  double project_seconds_per_token = 0;             ///< K and V of all layers from hidden states
  double decode_seconds_per_byte = 0;               ///< of coded bytes, at any level
  double decode_seconds_per_value = 0;              ///< of a lossy level, and again whenever a refinement is decoded
  double exact_decode_seconds_per_value = 0;        ///< of the raw or exact copy
  double latency_seconds = 0;                       ///< fixed cost of one request to the store
  double token_fraction = 0;  ///< tokens of every fetched chunk that are computed anew (CacheBlend 0.15, EPIC)
};

/// A step up the ladder of one chunk: from `from` (-1 = nothing yet) to `to`, both embedded levels.
struct refinement {
  int chunk = 0;             ///< which chunk
  int from = 0;              ///< level it stands at
  int to = 0;                ///< level it gets
  double loss_per_byte = 0;  ///< nats removed per byte sent
};

/// Everything a planner may know about a request except the link: exact bytes, seconds and losses of every choice.
/// Levels 0 .. num_levels() - 1 are embedded (a level is a prefix of the next); exact_level() == num_levels() is the raw
/// or exact copy, which shares no bytes with them.
class cost_model {
 public:
  /// Takes over the description of one request and sorts the refinements by gain per byte, once.
  /// Errors: invalid_argument (row lengths, negative or non-finite figures, levels that shrink, chunks out of order).
  static result<cost_model> make(std::vector<chunk_cost> chunks, const cost_rates& rates, int levels, int layers = 1);

  /// The rates that make() was given.
  const cost_rates& rates() const noexcept { return rates_; }
  /// Chunks of the request.
  int num_chunks() const noexcept { return int(chunks_.size()); }
  /// Embedded levels, without the exact copy.
  int num_levels() const noexcept { return levels_; }
  /// Layers, or groups of layers, that bytes are told apart by; 1 = they are not.
  int num_layers() const noexcept { return layers_; }
  /// The level that means the raw or exact copy.
  int exact_level() const noexcept { return levels_; }
  /// The range of all of them.
  layer_range all_layers() const noexcept { return {0, layers_}; }
  /// The description of chunk c that make() was given.
  const chunk_cost& chunk(int c) const noexcept { return chunks_[std::size_t(c)]; }

  /// Size of a chunk cut after `level`, or of its exact copy; -1 = 0 bytes.
  std::uint64_t bytes(int c, int level) const noexcept {
    return level < 0 ? 0 : bytes_[std::size_t(c) * std::size_t(levels_ + 1) + std::size_t(level)];
  }
  /// The same for a range of layers; absent ones have none.
  std::uint64_t bytes(int c, layer_range layers, int level) const noexcept {
    const chunk_cost& k = chunk(c);
    std::uint64_t sum = 0;
    for (int l = layers.begin; level >= 0 && l < layers.end; ++l)
      if (k.kinds.empty() || k.kinds[std::size_t(l)] != payload::absent)
        sum += k.bytes[std::size_t(level) * std::size_t(layers_) + std::size_t(l)];
    return sum;
  }
  /// Bytes to send to get a chunk from `have` (-1 = nothing) to `want`.
  std::uint64_t bytes_between(int c, int have, int want) const noexcept {
    if (have >= want) return 0;
    return want == exact_level() ? bytes(c, want) : bytes(c, want) - bytes(c, have);
  }
  /// Nats that the request loses through this chunk.
  double loss(int c, int level) const noexcept {
    return level < 0 || level >= levels_ ? 0 : chunk(c).loss[std::size_t(level)];
  }
  /// Seconds to decode a chunk into the pages at `level` when `new_bytes` of it have come since it was decoded last.
  double decode_seconds(int c, int level, std::uint64_t new_bytes) const noexcept {
    const double per_value =
        level == exact_level() ? rates_.exact_decode_seconds_per_value : rates_.decode_seconds_per_value;
    return rates_.decode_seconds_per_byte * double(new_bytes) + per_value * double(chunk(c).values);
  }
  /// Seconds to compute the whole chunk once everything before it is there.
  double recompute_seconds(int c) const noexcept { return recompute_[std::size_t(c)]; }
  /// Seconds to compute what a chunk misses, everything before it being there; all of the chunk where that is not said.
  double recompute_seconds(int c, const gap& missing) const noexcept {
    if (!missing) return recompute_seconds(c);
    return missing.depth * compute_seconds(double(missing.position), double(missing.tokens));
  }
  /// Seconds to compute the chunks [begin, end).
  double recompute_seconds(int begin, int end) const noexcept {
    return recompute_until_[std::size_t(end)] - recompute_until_[std::size_t(begin)];
  }
  /// Seconds of computing that a fetched chunk still needs: absent layers, projections, the share of its tokens that is
  /// computed anew.
  double patch_seconds(int c) const noexcept { return patch_[std::size_t(c)]; }
  /// Whether that computing attends to earlier chunks, which must then be there.
  bool patch_needs_prefix(int c) const noexcept { return patch_needs_prefix_[std::size_t(c)]; }
  /// Seconds of that computing that are due again when the chunk has come at a finer level: 0 where it takes nothing of what
  /// was decoded and nothing decoded replaces it, as with absent layers alone.
  double patch_again_seconds(int c) const noexcept { return patch_reads_pages_[std::size_t(c)] ? patch_seconds(c) : 0; }
  /// Whether there is anything to fetch.
  bool stored(int c) const noexcept { return stored_[std::size_t(c)]; }

  /// Steps between embedded levels, the most nats per byte first; of one chunk in ladder order (steps that would break it
  /// are merged: the lower convex hull of its rate-loss curve). A tie goes to the later chunk, which is dearer to compute.
  std::span<const refinement> refinements() const noexcept { return refinements_; }
  /// What is lost in nats when every chunk stands at `level`.
  double total_loss(int level) const noexcept {
    double sum = 0;
    for (int c = 0; c < num_chunks(); ++c) sum += loss(c, level);
    return sum;
  }

 private:
  // Of tokens through all layers.
  double compute_seconds(double position, double tokens) const noexcept {
    return tokens *
           (rates_.recompute_seconds_per_token + rates_.recompute_seconds_per_token_position * (position + tokens / 2));
  }
  status check() const noexcept;
  void build();
  void sort_refinements();

  std::vector<chunk_cost> chunks_;
  cost_rates rates_;
  int levels_ = 0, layers_ = 1;
  std::vector<std::uint64_t> bytes_;
  std::vector<double> recompute_, recompute_until_, patch_;
  std::vector<bool> patch_needs_prefix_, patch_reads_pages_, stored_;
  std::vector<refinement> refinements_;
};

inline result<cost_model> cost_model::make(std::vector<chunk_cost> chunks, const cost_rates& rates, int levels,
                                           int layers) {
  cost_model m;
  m.chunks_ = std::move(chunks);
  m.rates_ = rates;
  m.levels_ = levels;
  m.layers_ = layers;
  if (const status s = m.check(); s != status::ok) return s;
  m.build();
  m.sort_refinements();
  return m;
}

inline status cost_model::check() const noexcept {
  const auto bad = [](double x) { return !(x >= 0) || !detail::isfinite(x); };
  if (levels_ < 1 || levels_ > 100 || layers_ < 1 || chunks_.size() > (1u << 24)) return status::invalid_argument;
  for (double x : {rates_.recompute_seconds_per_token, rates_.recompute_seconds_per_token_position,
                   rates_.project_seconds_per_token, rates_.decode_seconds_per_byte, rates_.decode_seconds_per_value,
                   rates_.exact_decode_seconds_per_value, rates_.latency_seconds, rates_.token_fraction})
    if (bad(x)) return status::invalid_argument;
  if (rates_.token_fraction > 1) return status::invalid_argument;
  const std::size_t n = std::size_t(layers_), rows = std::size_t(levels_);
  std::int64_t next = 0;
  layer_range at = chunks_.empty() ? layer_range{} : chunks_.front().layers;
  if (at.begin != 0 || at.end < 0) return status::invalid_argument;
  for (const chunk_cost& c : chunks_) {
    if (c.layers != at) {
      if (c.layers.begin != at.end || c.layers.end <= at.end || at.end == 0) return status::invalid_argument;
      at = c.layers;
      next = 0;
    }
    if (c.position < next || c.tokens < 1 || c.bytes.size() != (rows + 1) * n || c.loss.size() != rows ||
        (!c.kinds.empty() && c.kinds.size() != n))
      return status::invalid_argument;
    next = c.position + c.tokens;
    for (std::size_t i = n; i < rows * n; ++i)
      if (c.bytes[i] < c.bytes[i - n]) return status::invalid_argument;
    for (std::uint64_t b : c.bytes)
      if (b > (std::uint64_t{1} << 50)) return status::invalid_argument;
    for (double x : c.loss)
      if (bad(x)) return status::invalid_argument;
  }
  return status::ok;
}

inline void cost_model::build() {
  recompute_until_.assign(1, 0);
  const int model_layers = chunks_.empty() ? 0 : chunks_.back().layers.end;
  for (const chunk_cost& c : chunks_) {
    const double of_layers = model_layers ? double(c.layers.end - c.layers.begin) / model_layers : 1;
    recompute_.push_back(of_layers * compute_seconds(double(c.position), c.tokens));
    recompute_until_.push_back(recompute_until_.back() + recompute_.back());
    int count[3] = {};
    for (int l = 0; l < layers_; ++l) ++count[c.kinds.empty() ? 0 : int(c.kinds[std::size_t(l)])];
    const double share = 1.0 / layers_;
    patch_.push_back(recompute_.back() * share * (count[2] + rates_.token_fraction * count[0]) +
                     rates_.project_seconds_per_token * c.tokens * of_layers * share * count[1]);
    patch_needs_prefix_.push_back(count[2] > 0 || (rates_.token_fraction > 0 && count[0] > 0));
    patch_reads_pages_.push_back(count[1] > 0 || (rates_.token_fraction > 0 && count[0] > 0));
    stored_.push_back(count[2] < layers_);
    for (int level = 0; level <= levels_; ++level) bytes_.push_back(bytes(int(patch_.size()) - 1, all_layers(), level));
  }
}

inline void cost_model::sort_refinements() {
  std::vector<refinement>& all = refinements_;
  for (int c = 0; c < num_chunks(); ++c) {
    if (!stored(c)) continue;
    const std::size_t first = all.size();
    for (int level = 1; level < levels_; ++level) {
      refinement r{c, level - 1, level, 0};
      const auto rate = [&] {
        const double gain = loss(c, r.from) - loss(c, r.to);
        const std::uint64_t b = bytes_between(c, r.from, r.to);
        return b ? gain / double(b) : gain > 0 ? detail::infinity : 0;
      };
      r.loss_per_byte = rate();
      while (all.size() > first && !(all.back().loss_per_byte > r.loss_per_byte)) {
        r.from = all.back().from;
        all.pop_back();
        r.loss_per_byte = rate();
      }
      all.push_back(r);
    }
    while (all.size() > first && !(all.back().loss_per_byte > 0)) all.pop_back();
  }
  const auto before = [](const refinement& a, const refinement& b) {
    if (a.loss_per_byte != b.loss_per_byte) return a.loss_per_byte > b.loss_per_byte;
    return a.chunk != b.chunk ? a.chunk > b.chunk : a.from < b.from;
  };
  detail::sort(all.data(), all.size(), before);
}

}  // namespace sluice::stream
