// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <output_file.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

namespace engine {

/// A folder of objects that never change: the simplest store that several processes can share.
class store {
 public:
  explicit store(std::string folder) : folder_(std::move(folder)) {}

  const std::string& folder() const noexcept { return folder_; }

  bool has(const std::string& name) const {
    std::error_code error;
    return std::filesystem::is_regular_file(path(name), error);
  }

  /// The first bytes of an object, at most `most` of them. Nothing where it cannot be read or is gone.
  std::vector<std::byte> read(const std::string& name, std::size_t most = SIZE_MAX) const {
    std::vector<std::byte> bytes;
    const int fd = ::open(path(name).c_str(), O_RDONLY | O_CLOEXEC);
    struct stat info {};
    if (fd >= 0 && ::fstat(fd, &info) == 0 && S_ISREG(info.st_mode))
      bytes.resize(std::min(most, std::size_t(info.st_size)));
    std::size_t done = 0;
    for (ssize_t n = 1; n > 0 && done < bytes.size(); done += std::size_t(std::max<ssize_t>(n, 0)))
      n = ::pread(fd, bytes.data() + done, bytes.size() - done, off_t(done));
    if (fd >= 0) ::close(fd);
    bytes.resize(done);
    return bytes;
  }

  /// Writes an object; it appears whole or not at all. Errors: a sentence, empty = done.
  std::string put(const std::string& name, std::span<const std::byte> bytes) {
    std::error_code error;
    std::filesystem::create_directories(folder_, error);
    if (error) return folder_ + ": " + error.message();
    output_file out(path(name));
    return out.write(bytes) && out.commit() ? std::string() : out.error();
  }

 private:
  std::string path(const std::string& name) const { return folder_ + "/" + name; }

  std::string folder_;
};

}  // namespace engine
