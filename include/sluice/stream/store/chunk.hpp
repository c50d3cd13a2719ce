// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/format/frame.hpp>
#include <sluice/model/profile.hpp>
#include <sluice/numeric.hpp>
#include <sluice/stream/plan/cost.hpp>
#include <sluice/stream/store/object.hpp>

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

// What a chunk costs, for a cost model: from the index of its frame, or from sizes alone.

namespace sluice::stream {

/// What a context loses in nats when all of it stands at a level. A chunk's share is that of its tokens.
struct context_loss {
  std::vector<double> nats;  ///< by level
  double tokens = 1;         ///< of the context

  /// As calibration expects it: what the planes lose adds up. Where a profile is not calibrated the figures only rank levels:
  /// a step three times finer loses a ninth.
  static context_loss of(const profile& p, double tokens) { return of(p, tokens, {0, p.shape.num_layers()}); }
  /// The same when only these layers stand at a level, the others being exact.
  static context_loss of(const profile& p, double tokens, layer_range layers) {
    context_loss l{{}, tokens};
    const bool calibrated = p.loss_of(0) > 0;
    double nats = double(layers.end - layers.begin) / p.shape.num_layers();
    for (int i = 0; i < p.passes; ++i, nats /= 9) {
      l.nats.push_back(calibrated ? 0 : nats);
      for (int layer = layers.begin; calibrated && layer < layers.end; ++layer)
        for (const plane side : {plane::key, plane::value})
          l.nats.back() += double(p.of(layer, side).loss[std::size_t(i)]);
    }
    return l;
  }

  /// Levels that `nats` has.
  int levels() const noexcept { return int(nats.size()); }
  /// Nats that a chunk of so many tokens takes from it at `level`.
  double of_chunk(int level, int chunk_tokens) const noexcept {
    return nats[std::size_t(level)] * chunk_tokens / tokens;
  }
};

/// Scalars of K and V that a decoder of the whole frame writes, and the bytes that they take as they were stored.
struct decoded_size {
  std::uint64_t values = 0;  ///< scalars of K and V
  std::uint64_t bytes = 0;   ///< in the type that the cache had
};

/// Counts every token of a plane that the frame has any of: those outside of a window too. Of some layers, or of all.
inline decoded_size decoded_size_of(const frame_index& index, layer_range layers = {0, max_model_layers}) noexcept {
  decoded_size sum;
  for (int l = layers.begin; l < detail::min(layers.end, int{index.header().layers}); ++l)
    for (const plane p : {plane::key, plane::value}) {
      const int width = index.shape_of(l).width(int(p));
      if (width == 0 || !index.holds(l, p)) continue;
      const std::uint64_t values = std::uint64_t(index.header().tokens) * std::uint64_t(width);
      sum.values += values;
      sum.bytes += values * std::uint64_t(size_of(index.type(l, p)));
    }
  return sum;
}

/// A chunk of which only sizes are known: those of its object up to each level, and that of its exact copy, 0 = there is
/// none. Without levels nothing but the exact copy is stored.
inline chunk_cost chunk_of(std::int64_t position, int tokens, std::uint64_t values,
                           std::span<const std::uint64_t> level_bytes, std::uint64_t exact_bytes,
                           const context_loss& loss) {
  chunk_cost c{position, tokens, values, {}, {}, {}};
  for (int l = 0; l < loss.levels(); ++l) {
    const int there = detail::min(l, int(level_bytes.size()) - 1);  // a finer level than is stored is the finest stored
    c.bytes.push_back(there < 0 ? 0 : level_bytes[std::size_t(there)]);
    c.loss.push_back(loss.of_chunk(there < 0 ? l : there, tokens));
  }
  c.bytes.push_back(exact_bytes ? exact_bytes : bytes_of_no_copy);
  if (level_bytes.empty() && !exact_bytes) c.kinds = {payload::absent};
  return c;
}

/// A stored chunk: the frame behind this index in its object, envelope included, and the size of the object that holds its
/// exact copy, 0 = there is none. What the frame's header says of its losses goes before `usual`. Of a frame that was made or
/// cut to fit, each value counts at the level that it has.
inline chunk_cost chunk_of(const frame_index& index, std::uint64_t exact_bytes, const context_loss& usual) {
  context_loss loss = usual;
  for (int l = 0; l < loss.levels(); ++l)
    if (const double said = index.header().loss_of(l); said >= 0) loss.nats[std::size_t(l)] = said;
  std::vector<std::uint64_t> bytes;
  for (int l = 0; l < index.header().levels_present; ++l) bytes.push_back(sizeof(object_header) + index.size_at(l));
  chunk_cost c = chunk_of(index.header().position, int(index.header().tokens), decoded_size_of(index).values, bytes,
                          exact_bytes, loss);
  if (!index.any_cut()) return c;
  std::vector<double> nats(c.loss.size());
  double values = 0;
  for (int l = 0; l < index.header().layers; ++l)
    for (const plane p : {plane::key, plane::value})
      for (int t = 0; t < index.token_tiles(); ++t)
        for (int g = 0; g < index.shape_of(l).groups(int(p)); ++g) {
          const std::size_t tile = index.ordinal(0, {l, p, t, g});
          if (index.range(tile).size() == 0) continue;
          const double n = double(index.tokens_of(t)) * index.shape_of(l).channels(int(p), g);
          values += n;
          for (int level = 0; level < loss.levels(); ++level)
            nats[std::size_t(level)] += n * loss.of_chunk(detail::min(level, index.levels_of(tile) - 1), c.tokens);
        }
  for (std::size_t level = 0; level < nats.size() && values > 0; ++level) c.loss[level] = nats[level] / values;
  return c;
}

/// The bytes of a frame that decoding some layers at a level needs behind header and index: a range for each pass, joined
/// where they touch. `span` is how many layers below a predictor looks at. In an object all of it lies behind the envelope.
/// Empty where the frame lacks the level or one of the layers.
inline std::vector<byte_range> ranges_of(const frame_index& index, layer_range layers, int level, int span = 0) {
  std::vector<byte_range> ranges;
  if (level < 0 || level >= index.header().levels_present || span < 0 || layers.begin < 0 ||
      layers.begin >= layers.end || layers.end > index.header().layers)
    return ranges;
  const int begin = layers.begin > span ? layers.begin - span : 0;
  for (int pass = 0; pass <= level; ++pass) {
    const byte_range r = index.range(pass, begin, layers.end);
    if (r.size() == 0) continue;
    if (!ranges.empty() && ranges.back().end == r.begin)
      ranges.back().end = r.end;
    else
      ranges.push_back(r);
  }
  return ranges;
}

/// Some layers of a stored chunk as a unit of their own, which an engine can use while others are on their way: what it
/// costs behind the head of its object, which has been read. Its share of the chunk's loss is that of its layers in the
/// profile. Exact copies are not cut into units.
inline chunk_cost unit_of(const frame_index& index, layer_range layers, const profile& p, double context_tokens) {
  const context_loss all = context_loss::of(p, context_tokens), some = context_loss::of(p, context_tokens, layers);
  const chunk_cost whole = chunk_of(index, 0, all);
  std::vector<std::uint64_t> bytes;
  for (int level = 0; level < index.header().levels_present; ++level)
    bytes.push_back((level ? bytes.back() : 0) + index.range(level, layers.begin, layers.end).size());
  chunk_cost c = chunk_of(whole.position, whole.tokens, decoded_size_of(index, layers).values, bytes, 0, some);
  for (std::size_t l = 0; l < c.loss.size(); ++l)
    c.loss[l] = all.nats[l] > 0 ? whole.loss[l] * some.nats[l] / all.nats[l] : 0;
  c.layers = layers;
  return c;
}

/// A stored chunk whose first layers, below `first`, the engine computes from the text while the others are fetched
/// (DroidSpeak, arXiv 2411.02820, whose caches are another fine-tune's): action::patch is due for it. As unit_of(), of the layers
/// from `first` on; its cost model counts bytes by layer (`layers` = those of the model). Exact copies are not fetched in part.
inline chunk_cost chunk_above(const frame_index& index, int first, const profile& p, double context_tokens) {
  const int layers = p.shape.num_layers(), levels = p.passes;
  chunk_cost c = unit_of(index, {first, layers}, p, context_tokens);
  c.layers = {};
  c.kinds.assign(std::size_t(layers), payload::kv);
  for (int l = 0; l < first; ++l) c.kinds[std::size_t(l)] = payload::absent;
  c.bytes.assign(std::size_t(levels + 1) * std::size_t(layers), 0);
  for (int l = first; l < layers; ++l) {
    std::uint64_t bytes = 0;
    for (int level = 0; level < levels; ++level) {
      if (level < index.header().levels_present) bytes += index.range(level, l, l + 1).size();
      c.bytes[std::size_t(level * layers + l)] = bytes;
    }
    c.bytes[std::size_t(levels * layers + l)] = bytes_of_no_copy;
  }
  return c;
}

/// Where the bytes of unit_of() lie in the object, level by level; of chunk_above() those of the layers from `first` on.
inline std::vector<byte_range> parts_of(const frame_index& index, layer_range layers) {
  std::vector<byte_range> parts;
  for (int level = 0; level < index.header().levels_present; ++level) {
    const byte_range r = index.range(level, layers.begin, layers.end);
    parts.push_back({sizeof(object_header) + r.begin, sizeof(object_header) + r.end});
  }
  return parts;
}

}  // namespace sluice::stream
