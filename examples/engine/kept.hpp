// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cache.hpp"
#include "model.hpp"

#include <sluice/stream/store/sha256.hpp>

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

// What a model makes of contexts, kept in files: who judges another codec or profile on the same contexts computes nothing
// of them again.

namespace engine {

/// What a context was found to be.
struct computed_context {
  matrix predicted;              ///< [suffix][vocab] after each token of the suffix
  std::vector<float> attention;  ///< see observed_attention()
};

class kept_contexts {
 public:
  /// Borrows the model and the threads. Without a folder nothing is kept; one that is not there is made.
  kept_contexts(model& net, thread_pool& pool, std::string folder);

  /// Fills an empty sequence with the cache of the first `context` ids; all others but the last are the suffix.
  /// Errors: throws std::runtime_error; what is kept but cannot be used is made again.
  computed_context run(std::span<const std::int32_t> ids, int context, sequence& seq);

 private:
  std::string path_of(std::span<const std::int32_t> ids, int context, const sequence& seq) const;
  std::optional<computed_context> load(const std::string& path, int context, std::size_t suffix, sequence& seq) const;
  void save(const std::string& path, int context, const sequence& seq, computed_context& found) const;

  model* net_;
  thread_pool* pool_;
  std::string folder_;
  sluice::digest identity_{};
};

}  // namespace engine
