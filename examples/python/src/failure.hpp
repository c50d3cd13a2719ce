// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/status.hpp>

#include <string>
#include <utility>

/// What Python sees as sluice.Error: a status, and in words what about it.
struct failure {
  sluice::status code;
  std::string words;
  explicit failure(sluice::status s) : code(s), words(to_string(s)) {}
  failure(sluice::status s, std::string text) : code(s), words(std::move(text)) {}
};

/// Throws what is not ok.
inline void check(sluice::status s) {
  if (s != sluice::status::ok) throw failure(s);
}
template <class T>
T value_of(sluice::result<T>&& r) {
  check(r.status());
  return std::move(*r);
}

/// The enumerator's own name, which Python users compare with.
inline const char* name_of(sluice::status s) noexcept {
  switch (s) {
#define SLUICE_NAME(x) \
  case sluice::status::x: return #x
    SLUICE_NAME(ok);
    SLUICE_NAME(invalid_argument);
    SLUICE_NAME(output_too_small);
    SLUICE_NAME(workspace_too_small);
    SLUICE_NAME(invalid_view);
    SLUICE_NAME(page_out_of_range);
    SLUICE_NAME(unsupported_type);
    SLUICE_NAME(wrong_profile);
    SLUICE_NAME(wrong_shape);
    SLUICE_NAME(wrong_codec);
    SLUICE_NAME(wrong_version);
    SLUICE_NAME(wrong_positions);
    SLUICE_NAME(level_not_present);
    SLUICE_NAME(wrong_key);
    SLUICE_NAME(position_not_found);
    SLUICE_NAME(wrong_side_info);
    SLUICE_NAME(profile_does_not_fit);
    SLUICE_NAME(not_a_frame);
    SLUICE_NAME(truncated);
    SLUICE_NAME(corrupt_header);
    SLUICE_NAME(corrupt_index);
    SLUICE_NAME(corrupt_tile);
    SLUICE_NAME(too_large);
    SLUICE_NAME(degraded);
    SLUICE_NAME(absent);
    SLUICE_NAME(not_a_profile);
    SLUICE_NAME(corrupt_profile);
    SLUICE_NAME(missing_section);
    SLUICE_NAME(too_few_tokens);
    SLUICE_NAME(constant_values);
    SLUICE_NAME(values_out_of_range);
    SLUICE_NAME(io_error);
    SLUICE_NAME(out_of_memory);
    SLUICE_NAME(parse_error);
    SLUICE_NAME(not_found);
    SLUICE_NAME(no_space);
    SLUICE_NAME(timed_out);
    SLUICE_NAME(connection_lost);
    SLUICE_NAME(wrong_length);
    SLUICE_NAME(refused);
    SLUICE_NAME(cancelled);
    SLUICE_NAME(cuda_error);
    SLUICE_NAME(not_kept);
#undef SLUICE_NAME
  }
  return "unknown";
}
