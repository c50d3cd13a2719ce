// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/rans/tables.hpp>
#include <sluice/warp/host.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

#define SLUICE_BODY <sluice/codec/rans/rans_body.inl>
#include <sluice/warp/foreach_target.inl>

namespace sluice::detail::inline SLUICE_HOST_ABI {

template <alphabet A>
inline void decode_codes(std::span<decode_job> jobs, isa which) noexcept {
  switch (usable_isa(which)) {
#if SLUICE_X86_TARGETS
    case isa::avx512: return avx512::rans::decode_codes<A>(jobs.data(), jobs.size());
    case isa::avx2: return avx2::rans::decode_codes<A>(jobs.data(), jobs.size());
#endif
    default: return portable::rans::decode_codes<A>(jobs.data(), jobs.size());
  }
}

template <alphabet A>
inline void encode_codes(std::span<encode_job> jobs, isa which) noexcept {
  switch (usable_isa(which)) {
#if SLUICE_X86_TARGETS
    case isa::avx512: return avx512::rans::encode_codes<A>(jobs.data(), jobs.size());
    case isa::avx2: return avx2::rans::encode_codes<A>(jobs.data(), jobs.size());
#endif
    default: return portable::rans::encode_codes<A>(jobs.data(), jobs.size());
  }
}

/// Decodes base passes (tables = base_block[]) into values; jobs are independent and each says whether it is ok.
inline void decode_base(std::span<decode_job> jobs, isa which = isa::best) noexcept {
  decode_codes<alphabet::values>(jobs, which);
}

/// Decodes refinements (tables = ternary_block[]): values become 3 * value + digit.
inline void decode_ternary(std::span<decode_job> jobs, isa which = isa::best) noexcept {
  decode_codes<alphabet::digits>(jobs, which);
}

/// Decodes raw symbols (tables = base_block[], its digits ignored) into job.symbols.
inline void decode_symbols(std::span<decode_job> jobs, isa which = isa::best) noexcept {
  decode_codes<alphabet::symbols>(jobs, which);
}

/// Encodes base passes, to the same bytes on every instruction set. Not ok where a table cannot express a value.
inline void encode_base(std::span<encode_job> jobs, isa which = isa::best) noexcept {
  encode_codes<alphabet::values>(jobs, which);
}

/// Encodes refinements: job.digits under the parents in job.values.
inline void encode_ternary(std::span<encode_job> jobs, isa which = isa::best) noexcept {
  encode_codes<alphabet::digits>(jobs, which);
}

/// Encodes raw symbols from job.symbols.
inline void encode_symbols(std::span<encode_job> jobs, isa which = isa::best) noexcept {
  encode_codes<alphabet::symbols>(jobs, which);
}

}  // namespace sluice::detail::inline SLUICE_HOST_ABI
