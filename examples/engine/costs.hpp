// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "prefix_cache.hpp"

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

// What computing and decoding cost on this machine, which a planner has to know before it sees either: fitted to a whole
// prefill and left beside the chunks as a note, or measured on a few tokens where there is no note.

namespace engine {

struct machine_costs {
  double seconds_per_token = 0, seconds_per_token_position = 0;
  double decode_seconds_per_value = 0;   ///< one thread
  double project_seconds_per_token = 0;  ///< K and V of all layers from hidden states, where these are stored

  /// Of the first `tokens` tokens.
  double prefill_seconds(double tokens) const {
    return tokens * (seconds_per_token + seconds_per_token_position * tokens / 2);
  }
};

/// A line through the batches of a prefill: seconds a token, and more for every token before it.
class batch_times {
 public:
  /// A batch begins at this token, `seconds` after the prefill began.
  void add(int position, double seconds) {
    position_.push_back(position);
    begin_.push_back(seconds);
  }
  machine_costs fit(int tokens, double end) const;

 private:
  std::vector<int> position_;
  std::vector<double> begin_;
};

/// Computes a few of these tokens at the document's begin and at its end, and decodes them once: some hundredths of a
/// prefill. Small batches are dearer than large ones, so computing is rather overrated than underrated.
/// Where hidden states are stored, `hidden` are pages of theirs, which are decoded instead, and projecting is measured too.
machine_costs measure_costs(model& net, prefix_cache& prefixes, page_pool& pages, std::span<const std::int32_t> ids,
                            page_pool* hidden = nullptr);

/// Seconds to project a token of hidden states, measured on the first `tokens` of them; K and V are written to `seq`.
double measure_projecting(model& net, const sequence& hidden, int tokens, sequence& seq);

/// The note beside a saved document.
std::string write_note(const std::string& name, std::size_t tokens, double prefill_seconds, const machine_costs& c);

struct note {
  double prefill_seconds = 0;
  machine_costs costs;
};

/// Reads a note. None where the bytes are cut, damaged, of another document or say what no machine does.
std::optional<note> read_note(std::span<const std::byte> bytes, const std::string& name);

}  // namespace engine
