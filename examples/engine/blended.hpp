// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "costs.hpp"
#include "prefix_cache.hpp"

#include <sluice/stream/run/report.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

// Documents whose caches were made one by one, each as if nothing stood before it, used one after another in a prompt: keys
// are rotated to their new place, and a part of the tokens is computed anew, so that what follows sees them as they would
// be there (CacheBlend, arXiv 2405.16444; EPIC, arXiv 2410.15332).

namespace engine {

/// What of the documents behind the first is computed anew, beside what the store lacks; nothing of the first is stale.
struct blend_options {
  /// CacheBlend: layer 0 of every token, then, through all layers, this share of each chunk's tokens: those whose V at layer 1
  /// is farthest from the stored one. 1 = all tokens of all documents. Not below 0.
  double fraction = 0;
  int first = 0;  ///< EPIC, instead of that: so many tokens at the front of each document
  int level = 3;  ///< that chunks are fetched at, where the store has it
};

struct blend_result {
  sluice::stream::report report;  ///< chunks of all documents in order, fetched, patched or computed
  int tokens = 0;
  int computed = 0;  ///< of them, through all layers
  int checked = 0;   ///< of them, through the first layer, to see which deviate
  std::size_t raw_bytes = 0;
};

/// Fills an empty sequence with the documents of a prompt: `ids` are all of its tokens, `starts` the places where documents
/// begin, ascending from 0. Each document is looked for in the store as a prefix of its own; what is missing or damaged is
/// computed. Chunks are fetched by an executor, and blended as they come, in order. Needs a codec that rotates keys.
/// Errors: throws std::runtime_error for places that do not ascend, for a model of one layer, or where the model fails.
blend_result blend(model& net, prefix_cache& prefixes, store& from, std::span<const std::int32_t> ids,
                   std::span<const int> starts, sequence& seq, const machine_costs& costs,
                   const blend_options& options);

/// The `count` tokens of a run whose V at layer 1 is farthest from the one that the sequence holds, as positions, ascending.
/// `hidden` [tokens][dim] is the residual stream that enters layer 1; `scratch` another sequence of as many tokens, whose
/// layer 1 is written.
std::vector<int> most_deviating(model& net, const sequence& seq, int position, std::span<const float> hidden, int count,
                                sequence& scratch);

}  // namespace engine
