// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/rans/tables.hpp>
#include <sluice/warp/targets.hpp>
#if !SLUICE_LINKS_KERNELS
#include <sluice/warp/host.hpp>
#endif

#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

#define SLUICE_FUNCTIONS                                                           \
  namespace rans {                                                                 \
  SLUICE_KERNEL void decode_values(decode_job* jobs, std::size_t count) noexcept;  \
  SLUICE_KERNEL void decode_digits(decode_job* jobs, std::size_t count) noexcept;  \
  SLUICE_KERNEL void decode_symbols(decode_job* jobs, std::size_t count) noexcept; \
  SLUICE_KERNEL void encode_values(encode_job* jobs, std::size_t count) noexcept;  \
  SLUICE_KERNEL void encode_digits(encode_job* jobs, std::size_t count) noexcept;  \
  SLUICE_KERNEL void encode_symbols(encode_job* jobs, std::size_t count) noexcept; \
  }
#define SLUICE_BODY <sluice/codec/rans/rans_body.inl>
#include <sluice/warp/foreach_target.inl>

namespace sluice::detail::inline SLUICE_HOST_ABI {

/// Decodes base passes (tables = base_block[]) into values; jobs are independent and each says whether it is ok.
inline void decode_base(std::span<decode_job> jobs, isa which = isa::best) noexcept {
  SLUICE_RETURN_ON(which, rans::decode_values(jobs.data(), jobs.size()))
}

/// Decodes refinements (tables = ternary_block[]): values become 3 * value + digit.
inline void decode_ternary(std::span<decode_job> jobs, isa which = isa::best) noexcept {
  SLUICE_RETURN_ON(which, rans::decode_digits(jobs.data(), jobs.size()))
}

/// Decodes raw symbols (tables = base_block[], its digits ignored) into job.symbols.
inline void decode_symbols(std::span<decode_job> jobs, isa which = isa::best) noexcept {
  SLUICE_RETURN_ON(which, rans::decode_symbols(jobs.data(), jobs.size()))
}

/// Encodes base passes, to the same bytes on every instruction set. Not ok where a table cannot express a value.
inline void encode_base(std::span<encode_job> jobs, isa which = isa::best) noexcept {
  SLUICE_RETURN_ON(which, rans::encode_values(jobs.data(), jobs.size()))
}

/// Encodes refinements: job.digits under the parents in job.values.
inline void encode_ternary(std::span<encode_job> jobs, isa which = isa::best) noexcept {
  SLUICE_RETURN_ON(which, rans::encode_digits(jobs.data(), jobs.size()))
}

/// Encodes raw symbols from job.symbols.
inline void encode_symbols(std::span<encode_job> jobs, isa which = isa::best) noexcept {
  SLUICE_RETURN_ON(which, rans::encode_symbols(jobs.data(), jobs.size()))
}

}  // namespace sluice::detail::inline SLUICE_HOST_ABI
