// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <command.hpp>
#include <sluice/model/profile.hpp>

#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

/// All bytes of a file. Throws data_error with the system's words.
inline std::vector<std::byte> read_file(const std::string& path) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> in(std::fopen(path.c_str(), "rb"), &std::fclose);
  if (!in) throw data_error(path + ": " + std::strerror(errno));
  std::vector<std::byte> bytes;
  std::byte buffer[1 << 16];
  for (std::size_t n; (n = std::fread(buffer, 1, sizeof buffer, in.get())) > 0;)
    bytes.insert(bytes.end(), buffer, buffer + n);
  if (std::ferror(in.get())) throw data_error(path + ": " + std::strerror(errno));
  return bytes;
}

/// Where the profile of a model lies unless told: smol.profile for smol.gguf.
inline std::string profile_beside(std::string model_path) {
  if (model_path.ends_with(".gguf")) model_path.resize(model_path.size() - 5);
  return model_path + ".profile";
}

/// Throws data_error: what the system says of the file, or why it is no profile.
inline sluice::profile load_profile(const std::string& path) {
  sluice::result<sluice::profile> p = sluice::profile::parse(read_file(path));
  if (!p) throw data_error(path + ": " + sluice::to_string(p.status()));
  return std::move(*p);
}
