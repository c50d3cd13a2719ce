// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <capture_file.hpp>
#include <sluice/sluice.hpp>
#include <sluice/stream/store/object.hpp>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

// What the programs of this folder that store the committed sample share.

[[noreturn]] inline void fail(const std::string& what) {
  std::fprintf(stderr, "%s\n", what.c_str());
  std::exit(1);
}

inline std::string cpu() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);)
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  return "unknown";
}

/// The committed capture and its profile.
struct sample {
  capture_file file;
  sluice::profile model = sluice::profile::load(SLUICE_TEST_DATA "/smollm2.profile").value();

  sample() {
    if (const auto wrong = file.open(SLUICE_TEST_DATA "/smollm2_sample.safetensors")) fail(*wrong);
  }
  sluice::kv_view view() const { return file.views().at(0); }
  /// All levels of some of its tokens, by `balanced`.
  std::vector<std::byte> frame(const sluice::kv_view& of) const {
    sluice::encoder<sluice::codec::balanced> e(model);
    std::vector<std::byte> frame(e.max_size(of));
    frame.resize(e.encode(of, frame).value());
    return frame;
  }
};

/// One object with everything in it, as it would stand at another place of the sequence.
inline std::vector<std::byte> object_at(const std::vector<std::byte>& frame, std::int64_t position,
                                        const sluice::digest& key) {
  std::vector<std::byte> o(sizeof(sluice::stream::object_header) + frame.size());
  const sluice::stream::object_header envelope = sluice::stream::make_object_header(key);
  std::memcpy(o.data(), &envelope, sizeof envelope);
  std::memcpy(o.data() + sizeof envelope, frame.data(), frame.size());
  sluice::frame_header h;
  std::memcpy(&h, frame.data(), sizeof h);
  h.position = position;
  h.header_checksum = sluice::header_checksum(h);
  std::memcpy(o.data() + sizeof envelope, &h, sizeof h);
  return o;
}
