// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

// The binary arithmetic coder of the textbooks (Witten, Neal and Cleary 1987): two bounds of 32 bits, probabilities as
// parts of 65,536, bits that wait until a carry is settled.

namespace sluice::detail {

// An interval between 0 and 2^32, both ends included, and how it narrows.
struct arithmetic_interval {
  std::uint32_t low = 0, high = UINT32_MAX;

  std::uint64_t range() const noexcept { return std::uint64_t{high} - low + 1; }
  // To the part from `from` to `to` of 65,536.
  void narrow(std::uint32_t from, std::uint32_t to) noexcept {
    const std::uint64_t r = range();
    high = low + std::uint32_t((r * to) >> 16) - 1;
    low += std::uint32_t((r * from) >> 16);
  }
  // Leading bits that both ends share are settled; returns how many.
  int settled() const noexcept { return std::countl_zero(low ^ high); }
  void drop_settled(int n) noexcept {
    low <<= n;
    high = high << n | ((1u << n) - 1);
  }
  // Then bits behind the first in which the ends still straddle the middle, 01.. and 10..; they wait.
  int waiting() const noexcept { return std::countl_one((low & ~high) << 1); }
  void drop_waiting(int n) noexcept {
    low = low << n & 0x7fffffff;
    high = high << n | 0x80000000 | ((1u << n) - 1);
  }
};

/// Appends a code to bytes that it borrows.
class arithmetic_encoder {
 public:
  explicit arithmetic_encoder(std::vector<std::uint8_t>& out) : out_(&out) {}

  /// Codes a symbol of the probability (to - from) / 65,536, which must not be 0.
  void put(std::uint32_t from, std::uint32_t to) {
    at_.narrow(from, to);
    if (const int n = at_.settled(); n > 0) {
      const std::uint32_t bits = at_.low >> (32 - n);
      settle(bits >> (n - 1));
      for (int i = n - 2; i >= 0; --i) append(bits >> i & 1);
      at_.drop_settled(n);
    }
    if (const int n = at_.waiting(); n > 0) {
      waiting_ += std::uint32_t(n);
      at_.drop_waiting(n);
    }
  }
  /// Two more bits tell where the interval is, then zeros to the end of a byte.
  void finish() {
    ++waiting_;
    settle(at_.low >= 0x40000000);
    while (held_) append(0);
    at_ = {};
  }

 private:
  void settle(std::uint32_t bit) {
    append(bit);
    for (; waiting_; --waiting_) append(1 - bit);
  }
  void append(std::uint32_t bit) {
    byte_ = byte_ << 1 | bit;
    if (++held_ == 8) {
      out_->push_back(std::uint8_t(byte_));
      byte_ = 0;
      held_ = 0;
    }
  }

  std::vector<std::uint8_t>* out_;
  arithmetic_interval at_;
  std::uint32_t waiting_ = 0, byte_ = 0;
  int held_ = 0;
};

/// The way back, from untrusted bytes, which are borrowed; behind them are zeros.
class arithmetic_decoder {
 public:
  explicit arithmetic_decoder(std::span<const std::uint8_t> bytes) : in_(bytes) { value_ = std::uint32_t(take(32)); }

  /// Which of the 65,536 parts comes next; drop() must follow, with ends around it.
  std::uint32_t part() const noexcept {
    return std::uint32_t(((std::uint64_t{value_ - at_.low} + 1) * 65536 - 1) / at_.range());
  }
  void drop(std::uint32_t from, std::uint32_t to) noexcept {
    at_.narrow(from, to);
    if (const int n = at_.settled(); n > 0) {
      at_.drop_settled(n);
      value_ = value_ << n | std::uint32_t(take(n));
    }
    if (const int n = at_.waiting(); n > 0) {
      at_.drop_waiting(n);
      value_ = (value_ << n | std::uint32_t(take(n))) ^ 0x80000000;
    }
  }
  /// Whether the code ends as finish() ends one, with the last byte.
  bool finished() const noexcept {
    const std::size_t bits = taken_ - 32 + 2;
    return in_.size() == (bits + 7) / 8 && value_ == (at_.low >= 0x40000000 ? 0x80000000 : 0x40000000);
  }

 private:
  // At most 32 bits.
  std::uint64_t take(int n) noexcept {
    taken_ += std::size_t(n);
    for (; held_ < n; held_ += 8) buffer_ = buffer_ << 8 | (next_ < in_.size() ? in_[next_++] : 0);
    held_ -= n;
    return buffer_ >> held_ & ((std::uint64_t{1} << n) - 1);
  }

  std::span<const std::uint8_t> in_;
  std::size_t next_ = 0, taken_ = 0;
  std::uint64_t buffer_ = 0;
  int held_ = 0;
  std::uint32_t value_ = 0;
  arithmetic_interval at_;
};

}  // namespace sluice::detail
