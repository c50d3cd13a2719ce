// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/entropy/class_rans.hpp>
#include <sluice/format/account.hpp>

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

/// What the entropy sections of one pass hold where class_rans wrote them, in bytes.
struct class_bytes {
  std::size_t code = 0;        ///< of the symbols, without the states
  std::size_t states = 0;      ///< that the coders start from
  std::size_t deltas = 0;      ///< that move classes of the profile
  std::size_t classes = 0;     ///< instead of the profile's
  std::size_t exceptions = 0;  ///< what the classes cannot say
  std::size_t flags = 0;       ///< which of these are there

  class_bytes& operator+=(const class_bytes& b) {
    code += b.code, states += b.states, deltas += b.deltas;
    classes += b.classes, exceptions += b.exceptions, flags += b.flags;
    return *this;
  }
};

/// Whether the stages of a codec are basic_codec's, and class_rans is its entropy model.
inline bool codes_classes(const sluice::codec_id& id) {
  return id.method.id == 0 && id.entropy == sluice::class_rans::id;
}

/// Takes an entropy section of class_rans apart; one that is not sound counts as flags.
/// `continuing`: the pass whose code has no states of its own, 0 = none; set for the pass that follows.
inline class_bytes class_bytes_of(const sluice::tile_sections& sections, int pass, int rows, int width,
                                  int& continuing) {
  const auto bytes = sections[sluice::section::entropy];
  sluice::class_section s;
  class_bytes b;
  if (s.parse(bytes, pass, rows, width)) {
    b.states = s.state_bytes(width, continuing == pass && pass > 0);
    b.code = s.code.size() - b.states;
    b.deltas = s.deltas.size() + (s.delta_blocks ? sizeof s.delta_blocks : 0);
    b.classes = s.classes.size();
    b.exceptions = s.exceptions.size() + (s.exceptions.empty() ? 0 : 2);
  }
  continuing = s.goes_on ? pass + 1 : 0;
  b.flags = bytes.size() - b.code - b.states - b.deltas - b.classes - b.exceptions;
  return b;
}

/// A frame taken apart, and the sections of class_rans in it: [pass], empty where another model wrote them.
struct frame_account {
  sluice::byte_account bytes;
  std::vector<class_bytes> classes{};

  frame_account& operator+=(const frame_account& b) {
    bytes += b.bytes;
    if (classes.size() < b.classes.size()) classes.resize(b.classes.size());
    for (std::size_t p = 0; p < b.classes.size(); ++p) classes[p] += b.classes[p];
    return *this;
  }
  /// Of the first `passes` passes together.
  class_bytes classes_of(std::size_t passes) const {
    class_bytes sum;
    for (std::size_t p = 0; p < std::min(passes, classes.size()); ++p) sum += classes[p];
    return sum;
  }
};

inline frame_account account_of(const sluice::frame_index& index, std::span<const std::byte> frame) {
  frame_account a;
  const bool known = codes_classes(index.header().codec);
  if (known) a.classes.resize(index.header().levels_present);
  int continuing = 0;
  a.bytes = sluice::account(index, frame,
                            [&](const sluice::tile_key& key, int pass, const sluice::tile_envelope& e,
                                const sluice::tile_sections& sections) {
                              const int width = index.shape_of(key.layer).channels(int(key.plane), key.group);
                              if (known)
                                a.classes[std::size_t(pass)] +=
                                    class_bytes_of(sections, pass, e.rows(), width, continuing);
                            });
  return a;
}
