// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

// Numbers of any width one after the other, from the lowest bit of the first byte on: for published methods whose
// widths differ from value to value. Codes of one width are packed for lanes (entropy/bitpack.hpp).

namespace sluice::detail {

/// Bytes of so many bits.
constexpr std::size_t bytes_of_bits(std::size_t bits) noexcept { return (bits + 7) / 8; }

/// Appends numbers to bytes; the last byte is filled up with zeros.
class bit_writer {
 public:
  explicit bit_writer(std::vector<std::uint8_t>& out) : out_(&out) {}
  /// The lowest `bits` of a number, 0 to 16.
  void put(std::uint32_t value, int bits) {
    held_ |= (value & ((1u << bits) - 1)) << have_;
    for (have_ += bits; have_ >= 8; have_ -= 8, held_ >>= 8) out_->push_back(std::uint8_t(held_));
  }
  void finish() {
    if (have_) out_->push_back(std::uint8_t(held_));
    held_ = 0;
    have_ = 0;
  }

 private:
  std::vector<std::uint8_t>* out_;
  std::uint32_t held_ = 0;
  int have_ = 0;
};

/// The way back. Beyond the end all bits are zero: callers compare sizes first.
class bit_reader {
 public:
  explicit bit_reader(std::span<const std::uint8_t> bytes) noexcept : left_(bytes) {}
  /// A number of `bits` bits, 0 to 16.
  std::uint32_t get(int bits) noexcept {
    for (; have_ < bits; have_ += 8) {
      held_ |= std::uint32_t{left_.empty() ? std::uint8_t{} : left_.front()} << have_;
      if (!left_.empty()) left_ = left_.subspan(1);
    }
    const std::uint32_t value = held_ & ((1u << bits) - 1);
    held_ >>= bits;
    have_ -= bits;
    return value;
  }

 private:
  std::span<const std::uint8_t> left_;
  std::uint32_t held_ = 0;
  int have_ = 0;
};

}  // namespace sluice::detail
