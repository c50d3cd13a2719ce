// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/stream/source.hpp>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <string>
#include <utility>

namespace sluice::stream {

/// Objects as files of one folder, named by their keys. Reads are announced to the kernel when they are submitted and
/// copied in poll(). A file appears under its name only when it is whole and on the disk.
class file_source {
 public:
  explicit file_source(std::string folder) : folder_(std::move(folder)) {}
  file_source(file_source&& other) noexcept
      : folder_(std::move(other.folder_)),
        reads_(std::move(other.reads_)),
        fd_(std::exchange(other.fd_, -1)),
        open_(other.open_) {}
  file_source& operator=(file_source&&) = delete;
  ~file_source() { close(); }

  /// Creates the folder if it is missing; its parent must exist. Errors: io_error, no_space, refused.
  status create() const {
    if (::mkdir(folder_.c_str(), 0777) == 0 || errno == EEXIST) return status::ok;
    return of_errno();
  }

  result<std::uint64_t> size(std::string_view key) const {
    if (!valid(key)) return status::invalid_argument;
    struct stat facts;
    if (::stat(path(key).c_str(), &facts) != 0) return of_errno();
    return std::uint64_t(facts.st_size);
  }

  status put(std::string_view key, std::span<const std::byte> bytes) {
    if (!valid(key)) return status::invalid_argument;
    const std::string temporary = path(key) + ".tmp" + std::to_string(::getpid()) + "." + std::to_string(++puts_);
    const int fd = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0) return of_errno();
    status s = status::ok;
    for (std::size_t at = 0; at < bytes.size() && s == status::ok;) {
      const ssize_t n = ::write(fd, bytes.data() + at, bytes.size() - at);
      if (n >= 0)
        at += std::size_t(n);
      else if (errno != EINTR)
        s = of_errno();
    }
    if (s == status::ok && ::fsync(fd) != 0) s = of_errno();
    if (::close(fd) != 0 && s == status::ok) s = of_errno();
    if (s == status::ok && ::rename(temporary.c_str(), path(key).c_str()) != 0) s = of_errno();
    if (s != status::ok) ::unlink(temporary.c_str());
    return s;
  }

  ticket submit(const read_request& request) {
    // The kernel starts reading now, so that the disk works while the caller decodes.
    if (valid(request.key)) {
      const int fd = ::open(path(request.key).c_str(), O_RDONLY | O_CLOEXEC);
      if (fd >= 0) {
        ::posix_fadvise(fd, off_t(request.offset), off_t(request.buffer.size()), POSIX_FADV_WILLNEED);
        ::close(fd);
      }
    }
    return reads_.push(request);
  }
  std::string_view detail() const noexcept { return {}; }
  std::size_t arrived(ticket t) noexcept { return reads_.arrived(t); }
  std::size_t cancel(ticket t) {
    if (t == open_) close();
    return reads_.cancel(t);
  }

  /// Works on the oldest read, a block at a time, until one has ended or the time is up.
  std::size_t poll(std::span<completion> done, double seconds) {
    using clock = std::chrono::steady_clock;
    const clock::time_point start = clock::now();
    std::size_t n = 0;
    while (n < done.size() && !reads_.empty()) {
      auto& r = reads_.front();
      const status s = read_block(r);
      if (s != status::ok || r.bytes == r.request.buffer.size()) {
        done[n++] = {r.which, s, r.bytes};
        close();
        reads_.pop();
      }
      if (n || std::chrono::duration<double>(clock::now() - start).count() >= seconds) break;
    }
    return n;
  }

 private:
  static constexpr std::size_t block_bytes = std::size_t{1} << 20;

  // A key is a file's name: nothing that leaves the folder or looks like a file that is being written.
  static bool valid(std::string_view key) noexcept {
    return !key.empty() && key[0] != '.' && key.find('/') == key.npos && key.find('\0') == key.npos &&
           key.find(".tmp") == key.npos;
  }
  std::string path(std::string_view key) const { return folder_ + "/" + std::string(key); }
  static status of_errno() noexcept {
    switch (errno) {
      case ENOENT: return status::not_found;
      case ENOSPC:
      case EDQUOT:
      case EFBIG: return status::no_space;
      case EACCES:
      case EPERM:
      case EROFS: return status::refused;
      default: return status::io_error;
    }
  }

  status read_block(sluice::detail::read_queue::entry& r) {
    if (!valid(r.request.key)) return status::invalid_argument;
    if (fd_ < 0) {
      fd_ = ::open(path(r.request.key).c_str(), O_RDONLY | O_CLOEXEC);
      if (fd_ < 0) return of_errno();
      open_ = r.which;
    }
    const std::size_t left = r.request.buffer.size() - r.bytes;
    if (left == 0) return status::ok;
    const ssize_t n = ::pread(fd_, r.request.buffer.data() + r.bytes, left < block_bytes ? left : block_bytes,
                              off_t(r.request.offset + r.bytes));
    if (n < 0) return errno == EINTR ? status::ok : of_errno();
    r.bytes += std::size_t(n);
    return n == 0 ? status::wrong_length : status::ok;
  }
  void close() noexcept {
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
    open_ = 0;
  }

  std::string folder_;
  sluice::detail::read_queue reads_;
  int fd_ = -1;      // of the oldest read
  ticket open_ = 0;  // which that is
  std::uint64_t puts_ = 0;
};

static_assert(byte_source<file_source>);

}  // namespace sluice::stream
