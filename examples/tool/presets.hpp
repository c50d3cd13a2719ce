// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/any_codec.hpp>

#include <algorithm>
#include <string>
#include <vector>

// What commands say about codecs, from the library's table of presets.

/// The names that --codec takes: "standard, exact, ... or plain4"; of lossless codecs only, where asked for.
inline std::string codec_names(bool lossless_only = false) {
  std::vector<const char*> names;
  for (const sluice::preset& p : sluice::presets())
    if (!lossless_only || p.exact()) names.push_back(p.name);
  std::string text;
  for (std::size_t i = 0; i < names.size(); ++i)
    text += std::string(i == 0 ? "" : i + 1 < names.size() ? ", " : lossless_only ? " and " : " or ") + names[i];
  return text;
}

/// What each of them is, a line each, for the end of a command's help.
inline std::string codec_descriptions() {
  std::size_t width = 0;
  for (const sluice::preset& p : sluice::presets()) width = std::max(width, std::string(p.name).size());
  std::string text = "Codecs:\n";
  for (const sluice::preset& p : sluice::presets())
    text += "  " + std::string(p.name) + std::string(width + 2 - std::string(p.name).size(), ' ') + p.what + "\n";
  return text;
}

/// The preset that made a frame; "custom" where none did.
inline std::string codec_name(const sluice::codec_id& id) {
  for (const sluice::preset& p : sluice::presets())
    if (p.id == id) return p.name;
  return "custom";
}
