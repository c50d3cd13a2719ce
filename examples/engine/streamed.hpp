// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "costs.hpp"
#include "prefix_cache.hpp"

#include <sluice/stream/run/executor.hpp>
#include <sluice/stream/study/trace.hpp>

#include <functional>
#include <optional>
#include <string>
#include <vector>

// A prefix under a deadline: a planner decides chunk by chunk what to fetch, at which level, and what to compute, while
// bytes arrive. Or layer by layer, while the engine already works on what follows the prefix.

namespace engine {

struct stream_options {
  std::string policy = "progressive_cake";           ///< of sluice::stream::policy_names
  double deadline_seconds = 1;                       ///< until every token of the document is usable
  const sluice::stream::link_trace* link = nullptr;  ///< slows the store down to this link; null = as fast as it is
  int layer_parts = 1;                               ///< of stream_layers(): parts that the model's layers come in
  /// Where the chunks hold hidden states: an empty sequence of these, whose chunks are projected as they come. Of
  /// stream_prefix().
  sequence* hidden = nullptr;
  /// Layers before this one are computed from the text, chunk by chunk, while the others are fetched (DroidSpeak). Of
  /// stream_prefix(); exact copies are not used then.
  int compute_layers = 0;
  int level = -1;  ///< from 0 on: all chunks are fetched at this level, and no policy asked
};

struct stream_result {
  sluice::stream::report report;    ///< from when the chunks had been located; levels are those that the objects hold
  std::vector<missing_run> unread;  ///< chunks that the store holds damaged, or failed to tell of in time: not fetched
  std::optional<note> saved;        ///< what was left beside the document, where it is of use
  bool note_damaged = false;        ///< there was one, and it is not
  double locate_seconds = 0;
  std::size_t raw_bytes = 0;
  int chunks = 0, stored = 0;  ///< of the document, in the store
};

/// Fills an empty sequence with all of these tokens, fetched or computed. Whatever the store does, it ends with every token
/// there: `report` says what was fetched at which level, what was computed, and each fault. The deadline counts from the
/// call. `measured` are the costs of this machine; what was noted when the document was saved is preferred. The store has
/// until the document must be computed to be there in time to say which chunks it has, at least half of the deadline.
/// Errors: throws std::runtime_error for an unknown policy, one that needs exact copies where the store lacks them, or where
/// the model fails.
stream_result stream_prefix(model& net, prefix_cache& prefixes, store& from, std::span<const std::int32_t> ids,
                            sequence& seq, const machine_costs& measured, const stream_options& options);

/// The same, the layers in `options.layer_parts` parts one after the other. `meanwhile` is called once, with a function that
/// returns when a layer holds all of these tokens: a forward pass of what follows them waits in its on_hidden. What the
/// store fails to give is computed in there. Exact copies are not used.
/// Errors: as stream_prefix(), and for a policy that refines.
stream_result stream_layers(model& net, prefix_cache& prefixes, store& from, std::span<const std::int32_t> ids,
                            sequence& seq, const machine_costs& measured, const stream_options& options,
                            const std::function<void(const std::function<void(int layer)>& wait_for)>& meanwhile);

/// The same at two levels: `coarse`, an empty sequence of the same pool, gets all of these tokens at `draft_level`, and `seq`
/// their exact copies behind that, where the store has all of them, else the finest level. `meanwhile` is called once, when
/// `coarse` is filled, with a function that tells whether `seq` is: until then tokens may be drafted, on that thread. What the
/// store fails to give `coarse` is computed before, what it fails to give `seq` after. Takes pages for both.
/// Errors: as stream_prefix().
stream_result stream_draft(model& net, prefix_cache& prefixes, store& from, std::span<const std::int32_t> ids,
                           sequence& seq, sequence& coarse, const machine_costs& measured,
                           const stream_options& options, int draft_level,
                           const std::function<void(const std::function<bool()>& there)>& meanwhile);

}  // namespace engine
