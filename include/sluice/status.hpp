// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/config.hpp>

#include <cstdint>
#include <utility>
#ifndef SLUICE_NO_EXCEPTIONS
#include <exception>
#endif

namespace sluice {

// clang-format takes an enum with an attribute for a list of values.
// clang-format off

/// What went wrong, by value; numbers are pinned (they travel through C interfaces and logs).
enum class [[nodiscard]] status : std::uint32_t {
  ok = 0,                   ///< nothing
  // the caller's arguments
  invalid_argument = 10,    ///< a null pointer, a negative size, or an option out of range
  output_too_small = 11,    ///< the output span is smaller than the result
  workspace_too_small = 12, ///< the workspace is smaller than what its size function says
  invalid_view = 13,        ///< strides, counts or pointers of a view do not describe addressable memory
  page_out_of_range = 14,   ///< a page table or slot list points outside the pool
  unsupported_type = 15,    ///< this element type cannot be coded this way
  // the pairing of frame, profile and view
  wrong_profile = 20,       ///< the frame was made with another profile
  wrong_shape = 21,         ///< layers, heads or head sizes differ
  wrong_codec = 22,         ///< the frame was made with other format policies
  wrong_version = 23,       ///< a newer or foreign format version
  wrong_positions = 24,     ///< the view does not hold the positions that the frame covers
  level_not_present = 25,   ///< the level was never made or has been truncated away
  wrong_key = 26,           ///< a store gave the object of another key
  position_not_found = 27,  ///< the keys do not tell where in their sequence they stand
  wrong_side_info = 29,     ///< the token ids are not those that the frame was predicted from, or are missing
  profile_does_not_fit = 28, ///< the cache is not what the profile was calibrated on: model, rotary embedding or position
  // the bytes
  not_a_frame = 30,         ///< the magic number is missing
  truncated = 31,           ///< bytes end before the frame does
  corrupt_header = 32,      ///< checksum, a size or a count in the header of a frame or an object is wrong
  corrupt_index = 33,       ///< checksum, a shape or a size in the index is wrong
  corrupt_tile = 34,        ///< checksum, coder end state or a count inside a tile is wrong
  too_large = 35,           ///< sizes beyond the limits of the format
  degraded = 36,            ///< decoded, but below the level asked for: a refinement is damaged or missing
  absent = 37,              ///< the frame holds nothing for this page (tokens outside a sliding window)
  // profiles
  not_a_profile = 40,       ///< the magic number is missing
  corrupt_profile = 41,     ///< checksum, or what a section holds, is wrong
  missing_section = 46,     ///< the profile lacks a section that a stage of the codec needs, or has one that nobody here knows
  // captures that no profile can be made of
  too_few_tokens = 42,      ///< fewer than two tokens of a layer are numbers and not the first of the sequence
  constant_values = 43,     ///< no K or V varies: there is nothing to learn
  values_out_of_range = 44, ///< a mean or a basis beyond what a profile holds
  // the world
  io_error = 50,            ///< the system or a store failed for a reason that has no number of its own
  out_of_memory = 51,       ///< of the host or of a device
  parse_error = 52,         ///< a text or container format (safetensors, JSON) is malformed
  not_found = 53,           ///< the store holds no such key, or holds it no longer
  no_space = 54,            ///< disk or store is full; what was there before is untouched
  timed_out = 55,           ///< nothing arrived for too long
  connection_lost = 56,     ///< refused, reset or closed before the answer was whole
  wrong_length = 57,        ///< an answer longer or shorter than what was asked for
  refused = 58,             ///< the store answered with an error of its own: not allowed, busy, elsewhere
  cancelled = 59,           ///< whoever asked said so
  cuda_error = 60,          ///< a call of the CUDA runtime failed
  not_kept = 61,            ///< a store said that it took what it does not give back
};
// clang-format on

/// A short English phrase for a status; never null.
constexpr const char* to_string(status s) noexcept {
  switch (s) {
    case status::ok: return "ok";
    case status::invalid_argument: return "invalid argument";
    case status::output_too_small: return "output buffer too small";
    case status::workspace_too_small: return "workspace too small";
    case status::invalid_view: return "view does not describe addressable memory";
    case status::page_out_of_range: return "page table points outside the pool";
    case status::unsupported_type: return "unsupported element type";
    case status::wrong_profile: return "made with another profile";
    case status::wrong_shape: return "model shape differs";
    case status::wrong_codec: return "made with another codec";
    case status::wrong_version: return "unsupported format version";
    case status::wrong_positions: return "view does not hold these positions";
    case status::level_not_present: return "level not present";
    case status::wrong_key: return "object of another key";
    case status::position_not_found: return "the keys do not tell their position";
    case status::wrong_side_info: return "predicted from other token ids";
    case status::profile_does_not_fit: return "the profile does not fit this cache";
    case status::not_a_frame: return "not a sluice frame";
    case status::truncated: return "truncated";
    case status::corrupt_header: return "corrupt frame header";
    case status::corrupt_index: return "corrupt frame index";
    case status::corrupt_tile: return "corrupt tile";
    case status::too_large: return "beyond the limits of the format";
    case status::degraded: return "decoded below the requested level";
    case status::absent: return "not held by this frame";
    case status::not_a_profile: return "not a sluice profile";
    case status::corrupt_profile: return "corrupt profile";
    case status::missing_section: return "the profile lacks what a stage of this codec needs";
    case status::too_few_tokens: return "too few tokens to calibrate on";
    case status::constant_values: return "values that do not vary: nothing to calibrate on";
    case status::values_out_of_range: return "values beyond the range of a profile";
    case status::io_error: return "input/output error";
    case status::out_of_memory: return "out of memory";
    case status::parse_error: return "malformed input";
    case status::not_found: return "no such key";
    case status::no_space: return "no space left";
    case status::timed_out: return "timed out";
    case status::connection_lost: return "connection lost";
    case status::wrong_length: return "answer of the wrong length";
    case status::refused: return "refused by the store";
    case status::cancelled: return "cancelled";
    case status::cuda_error: return "CUDA error";
    case status::not_kept: return "not kept by the store";
  }
  return "unknown status";
}

#ifndef SLUICE_NO_EXCEPTIONS
/// What result<T>::value() throws.
struct error : std::exception {
  explicit error(status s) noexcept : code(s) {}
  const char* what() const noexcept override { return to_string(code); }
  status code;
};
#endif

/// A value or the reason why there is none. T must be default-constructible and movable.
template <class T>
class [[nodiscard]] result {
 public:
  /// Holds a value.
  result(T value) : value_(std::move(value)) {}  // NOLINT(google-explicit-constructor)
  /// Holds an error; `ok`, which is none, becomes invalid_argument.
  result(sluice::status s) : status_(s) {  // NOLINT(google-explicit-constructor)
    if (s == sluice::status::ok) status_ = sluice::status::invalid_argument;
  }

  /// Whether there is a value: status() is ok.
  bool has_value() const noexcept { return status_ == sluice::status::ok; }
  /// As has_value().
  explicit operator bool() const noexcept { return has_value(); }
  /// Why there is no value; ok where there is one.
  sluice::status status() const noexcept { return status_; }

  /// @name Checked access.
  /// @{

  /// The value; without one, throws sluice::error (aborts where exceptions are off).
  T& value() & { return check(), value_; }
  const T& value() const& { return check(), value_; }
  T value() && { return check(), std::move(value_); }
  /// @}

  /// @name Unchecked access.
  /// @{

  /// The value, or where there is none a default-constructed T.
  T& operator*() noexcept { return value_; }
  const T& operator*() const noexcept { return value_; }
  T* operator->() noexcept { return &value_; }
  const T* operator->() const noexcept { return &value_; }
  /// @}

 private:
  void check() const {
    if (has_value()) return;
#ifndef SLUICE_NO_EXCEPTIONS
    throw error(status_);
#else
    __builtin_abort();
#endif
  }

  T value_{};
  sluice::status status_ = sluice::status::ok;
};

}  // namespace sluice
