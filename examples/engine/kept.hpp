// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cache.hpp"
#include "model.hpp"

#include <sluice/stream/store/sha256.hpp>

#include <cstdint>
#include <optional>
#include <span>
#include <string>

// What a model makes of contexts, kept in files: who judges another codec or profile on the same contexts computes nothing
// of them again.

namespace engine {

class kept_contexts {
 public:
  /// Borrows the model. Without a folder nothing is kept; one that is not there is made.
  kept_contexts(model& net, std::string folder);

  /// Fills an empty sequence with the cache of the first `context` ids. Returns what the model predicts after each other
  /// one but the last, [suffix][vocab]. Errors: throws std::runtime_error; what is kept but cannot be used is made again.
  matrix run(std::span<const std::int32_t> ids, int context, sequence& seq);

 private:
  std::string path_of(std::span<const std::int32_t> ids, int context, const sequence& seq) const;
  std::optional<matrix> load(const std::string& path, int context, std::size_t suffix, sequence& seq) const;
  void save(const std::string& path, int context, const sequence& seq, matrix& predicted) const;

  model* net_;
  std::string folder_;
  sluice::digest identity_{};
};

}  // namespace engine
