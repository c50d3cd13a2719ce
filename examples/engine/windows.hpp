// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "session.hpp"
#include "tokenizer.hpp"

#include <command.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
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

  /// How many runs of `tokens` tokens that do not overlap there are.
  int most(int tokens) const { return int(ids_.size() / (std::size_t(tokens) - has_bos_)); }

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

/// A text and where it was read from.
struct text_file {
  std::string path, text;
};

/// Texts named one by one, or by a folder, whose files that end with .txt are meant, in the order of their names.
/// Errors: throws a data_error.
inline std::vector<text_file> read_texts(const std::vector<std::string>& paths) {
  std::vector<text_file> out;
  for (const std::string& path : paths) {
    std::vector<std::string> files{path};
    if (std::error_code error; std::filesystem::is_directory(path, error)) {
      files.clear();
      for (std::filesystem::directory_iterator at(path, error), end; !error && at != end; at.increment(error))
        if (at->path().extension() == ".txt") files.push_back(at->path().string());
      if (error) throw data_error(path + ": " + error.message());
      if (files.empty()) throw data_error(path + ": no file in there ends with .txt");
      std::sort(files.begin(), files.end());
    }
    for (std::string& file : files) out.push_back({file, read_text(file)});
  }
  return out;
}

/// `count` runs of `tokens` tokens that do not overlap, as evenly over all texts as their lengths allow, and evenly in
/// each; neighbours are of different texts. Errors: throws a data_error where there are not so many.
inline std::vector<std::vector<std::int32_t>> spread_over(const std::vector<text_windows>& texts, int count,
                                                          int tokens) {
  if (texts.size() == 1) return texts.front().spread(count, tokens);
  std::vector<int> share(texts.size());
  const int n = int(texts.size());
  const auto give = [&](std::size_t i) { return share[i] < texts[i].most(tokens) && ++share[i]; };
  int given = 0;
  for (int i = 0; n > count && i < count; ++i) given += give(std::size_t(i) * texts.size() / std::size_t(count));
  for (int before = -1; given < count && given != before;) {
    before = given;
    for (std::size_t i = 0; i < texts.size() && given < count; ++i) given += give(i);
  }
  if (given < count)
    throw data_error("the texts have " + std::to_string(given) + " windows of " + std::to_string(tokens) +
                     " tokens, not " + std::to_string(count));
  std::vector<std::vector<std::vector<std::int32_t>>> of(texts.size());
  for (std::size_t i = 0; i < texts.size(); ++i)
    if (share[i] > 0) of[i] = texts[i].spread(share[i], tokens);
  std::vector<std::vector<std::int32_t>> out;
  for (std::size_t turn = 0; int(out.size()) < count; ++turn)
    for (auto& windows : of)
      if (turn < windows.size()) out.push_back(std::move(windows[turn]));
  return out;
}

}  // namespace engine
