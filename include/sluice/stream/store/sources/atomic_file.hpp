// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fcntl.h>
#include <sys/random.h>
#include <unistd.h>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <span>
#include <string>
#include <utility>

namespace sluice {

/// A file that appears under its name only when it is whole: written beside it under a name that nobody can guess, then
/// renamed. Of several writers, in whatever processes, containers or machines, the last one that is whole wins. What a
/// killed writer leaves behind (".sluice-*.tmp") is in nobody's way and may be deleted.
/// After a power cut the name holds the new file or the old one, whole: the file is on the disk before it is renamed; the
/// folder is not waited for.
class atomic_file {
 public:
  atomic_file() = default;
  atomic_file(const atomic_file&) = delete;
  atomic_file& operator=(const atomic_file&) = delete;
  ~atomic_file() { discard(); }

  /// Begins a file that commit() will name `path`; `in_place` for what cannot be renamed (devices, pipes).
  /// Like write() and commit(): false once anything has gone wrong, and error() then says what.
  bool open(std::string path, bool in_place = false) {
    discard();
    error_ = 0;
    path_ = std::move(path);
    if (in_place) {
      fd_ = ::open(path_.c_str(), O_WRONLY | O_TRUNC | O_CLOEXEC);
    } else {
      const std::size_t slash = path_.rfind('/');
      const std::string folder = slash == path_.npos ? std::string() : path_.substr(0, slash + 1);
      for (int tries = 0; tries < 100 && fd_ < 0; ++tries) {
        std::uint64_t random[2];
        if (::getentropy(random, sizeof random) != 0) break;
        char name[64];
        std::snprintf(name, sizeof name, ".sluice-%016llx%016llx.tmp", static_cast<unsigned long long>(random[0]),
                      static_cast<unsigned long long>(random[1]));
        temporary_ = folder + name;
        fd_ = ::open(temporary_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd_ < 0 && errno != EEXIST && errno != EINTR) break;
      }
    }
    if (fd_ < 0) {
      temporary_.clear();
      fail();
    }
    return error_ == 0;
  }

  /// Appends bytes; all of them are written, or it has gone wrong.
  bool write(std::span<const std::byte> bytes) {
    while (fd_ >= 0 && error_ == 0 && !bytes.empty()) {
      const ssize_t n = ::write(fd_, bytes.data(), bytes.size());
      if (n >= 0)
        bytes = bytes.subspan(std::size_t(n));
      else if (errno != EINTR)
        fail();
    }
    return fd_ >= 0 && error_ == 0;
  }

  /// Gives the file its name; where that fails, what stood under it before is untouched.
  bool commit() {
    if (fd_ < 0) return false;
    if (!temporary_.empty() && error_ == 0 && ::fsync(fd_) != 0) fail();
    if (::close(std::exchange(fd_, -1)) != 0) fail();
    if (!temporary_.empty() && error_ == 0) {
      if (::rename(temporary_.c_str(), path_.c_str()) != 0)
        fail();
      else
        temporary_.clear();
    }
    discard();
    return error_ == 0;
  }

  /// Forgets the file: nothing of it stays.
  void discard() noexcept {
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
    if (!temporary_.empty()) ::unlink(temporary_.c_str());
    temporary_.clear();
  }

  /// The open file, for who maps it into memory; -1 where there is none.
  int descriptor() const noexcept { return fd_; }
  /// errno of the first call that failed; 0 where none did.
  int error() const noexcept { return error_; }
  /// The name that commit() gives, as open() was given it.
  const std::string& path() const noexcept { return path_; }

 private:
  void fail() noexcept {
    if (error_ == 0) error_ = errno != 0 ? errno : EIO;
  }

  std::string path_, temporary_;
  int fd_ = -1;
  int error_ = 0;
};

}  // namespace sluice
