// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>

// Where real models may be; empty where they are not.
inline std::string real_model(const std::string& name) {
  const char* set = std::getenv("SLUICE_MODELS");
  for (const std::string& dir : {std::string(set ? set : ""), std::string(SLUICE_BINARY_DIR "/models"),
                                 std::string(SLUICE_SOURCE_DIR "/build/models")})
    if (!dir.empty() && std::filesystem::exists(dir + "/" + name)) return dir + "/" + name;
  return {};
}
