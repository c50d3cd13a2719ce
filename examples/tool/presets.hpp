// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/presets.hpp>

#include <algorithm>
#include <string>
#include <vector>

// What commands say about codecs, from the library's table of presets.

/// The names that --codec takes: "standard, exact, ... or plain4"; of lossless codecs only, where asked for.
inline std::string codec_names(bool lossless_only = false) {
  std::vector<const char*> names;
  sluice::codec::any_preset([&]<class Codec>(const char* name, const char*) {
    if (!lossless_only || sluice::is_exact<Codec>) names.push_back(name);
    return false;
  });
  std::string text;
  for (std::size_t i = 0; i < names.size(); ++i)
    text += std::string(i == 0 ? "" : i + 1 < names.size() ? ", " : lossless_only ? " and " : " or ") + names[i];
  return text;
}

/// What each of them is, a line each, for the end of a command's help.
inline std::string codec_descriptions() {
  std::size_t width = 0;
  for (const char* name : sluice::codec::preset_names) width = std::max(width, std::string(name).size());
  std::string text = "Codecs:\n";
  sluice::codec::any_preset([&]<class>(const char* name, const char* what) {
    text += "  " + std::string(name) + std::string(width + 2 - std::string(name).size(), ' ') + what + "\n";
    return false;
  });
  return text;
}

/// The preset that made a frame; "custom" where none did.
inline std::string codec_name(const sluice::codec_id& id) {
  std::string found = "custom";
  sluice::codec::any_preset([&]<class Codec>(const char* name, const char*) {
    if (!(Codec::id == id)) return false;
    found = name;
    return true;
  });
  return found;
}
