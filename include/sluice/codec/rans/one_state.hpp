// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/format/tile.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

// rANS with a single state, for published methods whose coder is serial: any table of 65,536 slots, and tables may
// differ from symbol to symbol. The library's own codecs have 32 states (rans.hpp).

namespace sluice::detail::one_state_rans {

inline constexpr std::uint32_t slots = 1u << 16;

/// Where a symbol stands among the slots of a table.
struct place {
  std::uint32_t start = 0, size = 1;
};

/// rANS with one state of 64 bits and 16-bit frequencies; takes symbols in reverse.
class coder {
 public:
  static constexpr std::uint64_t home = std::uint64_t{1} << 31;

  void put(place p) {
    if (x_ >= std::uint64_t{p.size} << 47) words_.push_back(std::uint32_t(x_)), x_ >>= 32;
    x_ = (x_ / p.size << 16) + x_ % p.size + p.start;
  }
  void finish(std::vector<std::uint8_t>& out) {
    words_.push_back(std::uint32_t(x_ >> 32));
    words_.push_back(std::uint32_t(x_));
    const std::size_t at = out.size();
    out.resize(at + 4 * words_.size());
    for (std::size_t i = 0; i < words_.size(); ++i) std::memcpy(&out[at + 4 * i], &words_[words_.size() - 1 - i], 4);
    words_.clear();
    x_ = home;
  }

 private:
  std::uint64_t x_ = home;
  std::vector<std::uint32_t> words_;
};

/// The way back, from untrusted bytes.
class uncoder {
 public:
  explicit uncoder(std::span<const std::uint8_t> bytes) : in_(bytes) {
    x_ = in_.get<std::uint64_t>();
    ok_ = in_.ok() && x_ >= coder::home && x_ >> 63 == 0;
  }
  std::uint32_t slot() const noexcept { return std::uint32_t(x_) & (slots - 1); }
  void drop(place p) noexcept {
    x_ = p.size * (x_ >> 16) + slot() - p.start;
    if (x_ < coder::home) x_ = x_ << 32 | in_.get<std::uint32_t>();
    ok_ = ok_ && in_.ok();
  }
  bool ok() const noexcept { return ok_; }
  bool finished() const noexcept { return ok_ && x_ == coder::home && in_.left().empty(); }

 private:
  section_reader in_;
  std::uint64_t x_ = 0;
  bool ok_ = false;
};

}  // namespace sluice::detail::one_state_rans
