// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tokenizer.hpp"

#include <command.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace engine {

/// A text as tokens, from which runs are taken; a model that wants a begin-of-text token gets it in front of every run.
class text_windows {
 public:
  text_windows(const tokenizer& t, std::string name, const std::string& text) : name_(std::move(name)), bos_(t.bos()) {
    ids_ = t.encode(text);
    if (bos_ != t.none && !ids_.empty()) ids_.erase(ids_.begin());
    has_bos_ = bos_ != t.none;
  }

  /// `count` runs of `tokens` tokens that do not overlap, spread evenly from `offset` to the end of the text.
  /// Errors: throws a data_error where the text is too short.
  std::vector<std::vector<std::int32_t>> spread(int count, int tokens, std::size_t offset = 0) const {
    const std::size_t n = std::size_t(tokens) - has_bos_, there = ids_.size() - std::min(ids_.size(), offset);
    if (there < n * std::size_t(count))
      throw data_error(name_ + ": " + std::to_string(there) + " tokens" +
                       (offset ? " from offset " + std::to_string(offset) : "") + ", " + std::to_string(count) +
                       " windows of " + std::to_string(n) + " need " + std::to_string(n * std::size_t(count)));
    std::vector<std::vector<std::int32_t>> out;
    for (int i = 0; i < count; ++i) {
      const std::size_t at = offset + (count > 1 ? (there - n) * std::size_t(i) / std::size_t(count - 1) : 0);
      std::vector<std::int32_t>& ids = out.emplace_back();
      if (has_bos_) ids.push_back(bos_);
      ids.insert(ids.end(), ids_.begin() + std::ptrdiff_t(at), ids_.begin() + std::ptrdiff_t(at + n));
    }
    return out;
  }

 private:
  std::string name_;
  std::vector<std::int32_t> ids_;
  std::int32_t bos_;
  bool has_bos_ = false;
};

}  // namespace engine
