// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/stream/store/source.hpp>
#include <sluice/stream/store/sources/atomic_file.hpp>
#include <sluice/stream/store/sources/words.hpp>

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cerrno>
#include <chrono>
#include <string>
#include <utility>

namespace sluice::stream {

/// Objects as files of one folder, named by their keys. Reads are announced to the kernel when they are submitted and
/// copied in poll(). Writers as in atomic_file: any number of them, anywhere.
class file_source {
 public:
  /// Does not look whether the folder is there: see create().
  explicit file_source(std::string folder) : folder_(std::move(folder)) {}
  /// Reads in flight and their tickets move along.
  file_source(file_source&& other) noexcept
      : folder_(std::move(other.folder_)),
        detail_(std::move(other.detail_)),
        reads_(std::move(other.reads_)),
        fd_(std::exchange(other.fd_, -1)),
        open_(other.open_) {}
  file_source& operator=(file_source&&) = delete;
  ~file_source() { close(); }

  /// Creates the folder if it is missing; its parent must exist. Errors: io_error, no_space, refused.
  status create() {
    if (::mkdir(folder_.c_str(), 0777) == 0 || errno == EEXIST) return status::ok;
    const int error = errno;
    detail_ = "the folder '" + name(folder_) + "' cannot be made: " + sluice::detail::errno_words(error);
    return error == ENOENT ? status::io_error : of_errno(error);
  }

  result<std::uint64_t> size(std::string_view key) {
    if (!valid(key)) return bad_key(key);
    struct stat facts;
    if (::stat(path(key).c_str(), &facts) != 0) return failed(key, errno);
    if (!S_ISREG(facts.st_mode)) return failed(key, S_ISDIR(facts.st_mode) ? EISDIR : EINVAL);
    return std::uint64_t(facts.st_size);
  }

  /// Errors: io_error where the folder is missing, no_space, refused, invalid_argument for what cannot be a file's name.
  status put(std::string_view key, std::span<const std::byte> bytes) {
    if (!valid(key)) return bad_key(key);
    atomic_file file;
    if (file.open(path(key)) && file.write(bytes) && file.commit()) return status::ok;
    return failed(key, file.error());
  }

  status erase(std::string_view key) {
    if (!valid(key)) return bad_key(key);
    return ::unlink(path(key).c_str()) == 0 ? status::ok : failed(key, errno);
  }
  /// Of files that can be objects; folders are not looked into.
  result<std::vector<std::string>> keys() {
    DIR* const folder = ::opendir(folder_.c_str());
    if (!folder) return failed({}, errno);
    std::vector<std::string> all;
    while (const dirent* entry = ::readdir(folder))
      if (valid(entry->d_name) && size(entry->d_name)) all.emplace_back(entry->d_name);
    ::closedir(folder);
    return all;
  }

  ticket submit(const read_request& request) {
    // The kernel starts reading now, so that the disk works while the caller decodes.
    if (valid(request.key)) {
      const int fd = ::open(path(request.key).c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
      if (fd >= 0) {
        ::posix_fadvise(fd, off_t(request.offset), off_t(request.buffer.size()), POSIX_FADV_WILLNEED);
        ::close(fd);
      }
    }
    return reads_.push(request);
  }
  std::string_view detail() const noexcept { return detail_; }
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
        done[n++] = {r.which, s, r.bytes, s == status::ok ? std::string() : detail_};
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
  static std::string name(std::string_view path) { return sluice::detail::one_line(sluice::detail::last_part(path)); }
  static status of_errno(int error) noexcept {
    switch (error) {
      case ENOENT: return status::not_found;
      case ENOSPC:
      case EDQUOT:
      case EFBIG: return status::no_space;
      case EACCES:
      case EPERM:
      case EROFS: return status::refused;
      case ENAMETOOLONG: return status::invalid_argument;
      default: return status::io_error;
    }
  }
  status bad_key(std::string_view key) {
    detail_ = "no object's file can have this name (no '/', no '.' at the front, no \".tmp\"): ";
    detail_ += name(key);
    return status::invalid_argument;
  }
  // A folder that is missing is a fault of the store; a file that is missing is just that.
  status failed(std::string_view key, int error) {
    if (error == ENOENT && ::access(folder_.c_str(), F_OK) != 0) {
      detail_ = "there is no folder '" + name(folder_) + "'";
      return status::io_error;
    }
    detail_ = error == ENOENT ? std::string() : name(key) + ": " + sluice::detail::errno_words(error);
    return of_errno(error);
  }

  status read_block(sluice::detail::read_queue::entry& r) {
    if (!valid(r.request.key)) return bad_key(r.request.key);
    if (fd_ < 0) {
      fd_ = ::open(path(r.request.key).c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
      if (fd_ < 0) return failed(r.request.key, errno);
      open_ = r.which;
    }
    const std::size_t left = r.request.buffer.size() - r.bytes;
    if (left == 0) return status::ok;
    const ssize_t n = ::pread(fd_, r.request.buffer.data() + r.bytes, left < block_bytes ? left : block_bytes,
                              off_t(r.request.offset + r.bytes));
    if (n < 0) return errno == EINTR ? status::ok : failed(r.request.key, errno);
    r.bytes += std::size_t(n);
    if (n > 0) return status::ok;
    detail_ = name(r.request.key) + " ends " + std::to_string(left) + " bytes too early";
    return status::wrong_length;
  }
  void close() noexcept {
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
    open_ = 0;
  }

  std::string folder_, detail_;
  sluice::detail::read_queue reads_;
  int fd_ = -1;      // of the oldest read
  ticket open_ = 0;  // which that is
};

static_assert(tier_source<file_source>);

}  // namespace sluice::stream
