// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <unistd.h>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <span>
#include <string>
#include <system_error>
#include <utility>

/// A file that appears under its name only when it is whole: written beside it under a temporary name, then renamed.
/// Without commit() nothing of it stays. Devices and pipes (/dev/null, /dev/stdout) are written directly.
class output_file {
 public:
  explicit output_file(std::string path) : path_(std::move(path)) {
    namespace fs = std::filesystem;
    std::error_code error;
    if (fs::is_symlink(path_, error)) {
      const fs::path target = fs::canonical(path_, error);
      if (!error) path_ = target.string();
    }
    const fs::file_status there = fs::status(path_, error);
    if (fs::exists(there) && !fs::is_regular_file(there)) {
      file_ = std::fopen(path_.c_str(), "wb");
    } else {
      temporary_ = path_ + ".tmp" + std::to_string(::getpid());
      file_ = std::fopen(temporary_.c_str(), "wb");
    }
    if (!file_) fail();
  }
  output_file(const output_file&) = delete;
  output_file& operator=(const output_file&) = delete;
  ~output_file() { discard(); }

  /// False once anything has gone wrong; error() then says what.
  explicit operator bool() const noexcept { return error_ == 0; }
  std::string error() const { return path_ + ": " + std::strerror(error_); }

  bool write(std::span<const std::byte> bytes) {
    if (!file_ || error_) return false;
    if (!bytes.empty() && std::fwrite(bytes.data(), 1, bytes.size(), file_) != bytes.size()) fail();
    return error_ == 0;
  }

  /// Flushes to the disk and gives the file its name; on failure what stood under that name before is untouched.
  bool commit() {
    if (!file_ || error_) return false;
    if (std::fflush(file_) != 0) fail();
    if (!temporary_.empty() && error_ == 0 && ::fsync(::fileno(file_)) != 0) fail();
    if (std::fclose(std::exchange(file_, nullptr)) != 0) fail();
    if (!temporary_.empty() && error_ == 0 && std::rename(temporary_.c_str(), path_.c_str()) != 0) fail();
    if (error_ == 0) temporary_.clear();
    discard();
    return error_ == 0;
  }

 private:
  void fail() {
    if (error_ == 0) error_ = errno != 0 ? errno : EIO;
  }
  void discard() {
    if (file_) std::fclose(std::exchange(file_, nullptr));
    if (!temporary_.empty()) std::remove(temporary_.c_str());
    temporary_.clear();
  }

  std::string path_;
  std::string temporary_;
  std::FILE* file_ = nullptr;
  int error_ = 0;
};
