// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/decoder.hpp>
#include <sluice/codec/presets.hpp>
#include <sluice/stream/plan/cost.hpp>

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

namespace sluice::stream {

/// The decoding half of a chunk_sink: puts chunks into an engine's pages. `Exact` is the codec of the copy behind the last
/// level. Borrows profile, cost model and views; a chunk is written nowhere but at its own positions, wherever its frame
/// was made.
template <class Codec = codec::standard, class Exact = codec::exact>
class page_decoder {
 public:
  /// For the chunks of one request, into views of its cache, which together show all of its positions. `tokens`: ids of
  /// the sequence, [i] = at position i, borrowed; codecs that predict from them refuse frames without.
  page_decoder(const profile& p, const cost_model& cost, std::span<const kv_view> cache,
               std::span<const std::int32_t> tokens = {})
      : decoder_(p), exact_(p), cost_(&cost), num_layers_(p.shape.num_layers()), cache_(cache), tokens_(tokens) {}

  /// As chunk_sink asks for it. Errors: wrong_positions where no view shows any of the chunk; those of
  /// decoder::decode().
  page_status decode(int chunk, int level, std::span<const std::byte> frame) {
    const chunk_cost& c = cost_->chunk(chunk);
    part_.clear();
    std::int64_t sequence_end = 0;  // of the whole cache: a chunk does not show where windows lie
    for (const kv_view& v : cache_) {
      sequence_end = std::max(sequence_end, v.position + v.tokens);
      if (const kv_view part = v.at_positions(c.position, c.position + c.tokens); part.tokens > 0)
        part_.push_back(part);
    }
    if (part_.empty()) return {.worst = status::wrong_positions};
    if (level == cost_->exact_level()) return exact_.decode(frame, part_, {.sequence_end = sequence_end});
    side_info side;
    if (c.position >= 0 && c.position + c.tokens <= std::ssize(tokens_))
      side.tokens = tokens_.subspan(std::size_t(c.position), std::size_t(c.tokens));
    decode_options options{.level = level, .position = c.position, .sequence_end = sequence_end, .side = side};
    if (c.layers != layer_range{}) options.layers = {c.layers.begin, c.layers.end};
    if (std::ssize(c.kinds) == num_layers_)  // absent layers come from the engine
      while (options.layers.begin < num_layers_ && c.kinds[std::size_t(options.layers.begin)] == payload::absent)
        ++options.layers.begin;
    return decoder_.decode(frame, part_, options);
  }

 private:
  decoder<Codec> decoder_;
  decoder<Exact> exact_;
  const cost_model* cost_;
  int num_layers_;
  std::span<const kv_view> cache_;
  std::span<const std::int32_t> tokens_;
  std::vector<kv_view> part_;
};

}  // namespace sluice::stream
