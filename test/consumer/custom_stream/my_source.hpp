// SPDX-License-Identifier: Apache-2.0
#pragma once

// A byte source from outside of the library: installed headers only.

#include <sluice/stream/store/source.hpp>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <deque>
#include <string>
#include <string_view>
#include <thread>

namespace mine {

/// Objects as files of a folder, which are mapped and copied: every read waits for `latency_seconds`, as a network disk would.
class mapped_folder {
 public:
  mapped_folder(std::string folder, double latency_seconds) : folder_(std::move(folder)), latency_(latency_seconds) {}

  sluice::result<std::uint64_t> size(std::string_view key) {
    struct stat facts;
    if (::stat(path(key).c_str(), &facts) != 0) return failed("stat");
    return std::uint64_t(facts.st_size);
  }

  sluice::status put(std::string_view key, std::span<const std::byte> bytes) {
    const std::string to = path(key), written = to + ".part";
    std::FILE* f = std::fopen(written.c_str(), "wb");
    if (!f) return failed("open");
    const bool whole = std::fwrite(bytes.data(), 1, bytes.size(), f) == bytes.size();
    if (std::fclose(f) != 0 || !whole || std::rename(written.c_str(), to.c_str()) != 0) return failed("write");
    return sluice::status::ok;
  }

  sluice::stream::ticket submit(const sluice::stream::read_request& r) {
    reads_.push_back({++last_, std::string(r.key), r.offset, r.buffer, now() + latency_});
    return last_;
  }

  std::size_t poll(std::span<sluice::stream::completion> done, double seconds) {
    if (reads_.empty() || done.empty()) return 0;
    if (const double wait = std::min(reads_.front().due - now(), seconds); wait > 0)
      std::this_thread::sleep_for(std::chrono::duration<double>(wait));
    std::size_t n = 0;
    for (; n < done.size() && !reads_.empty() && reads_.front().due <= now(); ++n) {
      done[n] = copy(reads_.front());
      reads_.pop_front();
    }
    return n;
  }

  /// A read shows nothing before its end.
  std::size_t arrived(sluice::stream::ticket) const noexcept { return 0; }
  std::size_t cancel(sluice::stream::ticket t) {
    std::erase_if(reads_, [t](const read& r) { return r.which == t; });
    return 0;
  }
  std::string_view detail() const noexcept { return detail_; }

 private:
  struct read {
    sluice::stream::ticket which;
    std::string key;
    std::uint64_t offset;
    std::span<std::byte> buffer;
    double due;
  };

  static double now() noexcept {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
  }
  std::string path(std::string_view key) const { return folder_ + "/" + std::string(key); }
  sluice::status failed(const char* what) {
    detail_ = std::string(what) + ": " + std::strerror(errno);
    return errno == ENOENT ? sluice::status::not_found : sluice::status::io_error;
  }

  sluice::stream::completion copy(const read& r) {
    using sluice::status;
    const sluice::result<std::uint64_t> bytes = size(r.key);
    if (!bytes) return {r.which, bytes.status(), 0, detail_};
    if (r.offset > *bytes || *bytes - r.offset < r.buffer.size())
      return {r.which, status::wrong_length, 0, "too short"};
    if (r.buffer.empty()) return {r.which, status::ok, 0};
    const int file = ::open(path(r.key).c_str(), O_RDONLY | O_CLOEXEC);
    if (file < 0) return {r.which, failed("open"), 0, detail_};
    void* const map = ::mmap(nullptr, std::size_t(*bytes), PROT_READ, MAP_PRIVATE, file, 0);
    ::close(file);
    if (map == MAP_FAILED) return {r.which, failed("mmap"), 0, detail_};
    std::memcpy(r.buffer.data(), static_cast<const std::byte*>(map) + r.offset, r.buffer.size());
    ::munmap(map, std::size_t(*bytes));
    return {r.which, status::ok, r.buffer.size()};
  }

  std::string folder_, detail_;
  double latency_;
  std::deque<read> reads_;
  sluice::stream::ticket last_ = 0;
};

static_assert(sluice::stream::byte_source<mapped_folder>);

}  // namespace mine
