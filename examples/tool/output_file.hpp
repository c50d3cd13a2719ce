// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/stream/store/sources/atomic_file.hpp>

#include <filesystem>
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

  /// False once anything has gone wrong; error() then says what.
  explicit operator bool() const noexcept { return file_.error() == 0; }
  std::string error() const { return file_.path() + ": " + std::generic_category().message(file_.error()); }

  bool write(std::span<const std::byte> bytes) { return file_.write(bytes); }
  bool commit() { return file_.commit(); }

 private:
  sluice::atomic_file file_;
};
