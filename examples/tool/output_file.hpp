// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/stream/store/sources/atomic_file.hpp>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <filesystem>
#include <span>
#include <string>
#include <system_error>
#include <utility>

/// What a command writes: the whole file or what was there before, also where the name is a link to it. Without commit()
/// nothing of it stays. Devices and pipes (/dev/null, /dev/stdout) are written directly.
class output_file {
 public:
  explicit output_file(std::string path) {
    namespace fs = std::filesystem;
    std::error_code error;
    if (fs::is_symlink(path, error)) {
      const fs::path target = fs::canonical(path, error);
      if (!error) path = target.string();
    }
    const fs::file_status there = fs::status(path, error);
    file_.open(std::move(path), fs::exists(there) && !fs::is_regular_file(there));
  }

  output_file(const output_file&) = delete;
  output_file& operator=(const output_file&) = delete;

  /// False once anything has gone wrong; error() then says what.
  explicit operator bool() const noexcept { return file_.error() == 0; }
  std::string error() const { return file_.path() + ": " + std::generic_category().message(file_.error()); }

  /// Room for the whole file, in memory that is the file; none where it is a pipe or a device, or the disk has no room:
  /// then nothing was written. Whoever uses it does not use write().
  std::span<std::byte> map(std::size_t size) {
    struct ::stat info {};
    const int fd = file_.descriptor();
    if (size == 0 || ::fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) return {};
    if (::posix_fallocate(fd, 0, ::off_t(size)) != 0) return {};  // a full disk is an error here and no signal later
    void* const at = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) return {};
    mapped_ = {static_cast<std::byte*>(at), size};
    return mapped_;
  }
  ~output_file() {
    if (mapped_.data()) ::munmap(mapped_.data(), mapped_.size());
  }

  bool write(std::span<const std::byte> bytes) { return file_.write(bytes); }
  bool commit() { return file_.commit(); }

 private:
  sluice::atomic_file file_;
  std::span<std::byte> mapped_{};
};
