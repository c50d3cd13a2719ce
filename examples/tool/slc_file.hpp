// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/format/frame.hpp>
#include <sluice/status.hpp>

#include <cstdio>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

/// A .slc file: frames one after the other, each a run of tokens.
class slc_file {
 public:
  struct frame {
    sluice::frame_index index;
    std::span<std::byte> bytes;  ///< of this frame; shorter than index.size() where the file was cut
    std::size_t offset = 0;
  };

  /// Reads a file and finds its frames. What stands before damage is kept; `trouble()` says why reading stopped.
  std::optional<std::string> open(const std::string& path) {
    const std::unique_ptr<std::FILE, int (*)(std::FILE*)> in(std::fopen(path.c_str(), "rb"), &std::fclose);
    if (!in) return path + ": cannot be opened";
    std::byte buffer[1 << 16];
    for (std::size_t n; (n = std::fread(buffer, 1, sizeof buffer, in.get())) > 0;)
      bytes_.insert(bytes_.end(), buffer, buffer + n);
    if (std::ferror(in.get())) return path + ": cannot be read";
    std::size_t at = 0;
    while (at < bytes_.size()) {
      frame f;
      const std::span<std::byte> rest = std::span(bytes_).subspan(at);
      trouble_ = f.index.parse(rest);
      if (trouble_ != sluice::status::ok) break;
      const std::size_t size = std::size_t(f.index.size());
      f.bytes = rest.first(std::min(size, rest.size()));
      f.offset = at;
      frames_.push_back(std::move(f));
      if (size > rest.size()) {
        trouble_ = sluice::status::truncated;
        break;
      }
      at += size;
    }
    stopped_ = at;
    if (bytes_.empty()) trouble_ = sluice::status::truncated;
    if (frames_.empty())
      return path + ": " + sluice::to_string(trouble_);
    return std::nullopt;
  }

  std::span<frame> frames() noexcept { return frames_; }
  std::size_t size() const noexcept { return bytes_.size(); }
  sluice::status trouble() const noexcept { return trouble_; }
  std::size_t stopped_at() const noexcept { return stopped_; }

  std::int64_t first_position() const noexcept { return frames_.front().index.header().position; }
  std::int64_t end_position() const noexcept {
    std::int64_t end = 0;
    for (const frame& f : frames_) end = std::max(end, f.index.header().position + f.index.header().tokens);
    return end;
  }

 private:
  std::vector<std::byte> bytes_;
  std::vector<frame> frames_;
  sluice::status trouble_ = sluice::status::ok;
  std::size_t stopped_ = 0;
};
