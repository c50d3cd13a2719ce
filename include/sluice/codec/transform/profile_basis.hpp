// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <cstdint>

namespace sluice {

/// Transform policy: values are coded as they stand in the cache.
struct identity_transform {
  static constexpr std::uint8_t id = 0;
  static constexpr bool decorrelates = false;
};

/// Transform policy: undo the rotary embedding of K, subtract the mean, multiply by the profile's weighted basis.
/// The profile holds the decoder's matrix; the encoder inverts it. A profile without matrices (uncalibrated) means
/// identity per head, with mean and step carried in each tile. Source: KVTC (arXiv 2511.01815) for PCA on KV; the
/// weights (query second moments, output projection) and the joint basis over heads are measured choices.
struct profile_basis {
  static constexpr std::uint8_t id = 1;
  static constexpr bool decorrelates = true;
};

template <class T>
concept transform_policy = requires {
  { T::id } -> std::convertible_to<std::uint8_t>;
  { T::decorrelates } -> std::convertible_to<bool>;
};

}  // namespace sluice
