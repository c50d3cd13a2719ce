// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/stream/plan/plan.hpp>

#include <cstddef>
#include <cstdint>
#include <span>

namespace sluice::stream {

// VeriCache (2605.17613): tokens are drafted on a coarse level of the cache while the refinement (or the exact copy) streams in;
// one pass over all drafted tokens with the fine cache then says which of them stand. What is committed is what the fine
// cache alone would have produced.

/// What a verification leaves: the first `accepted` drafted tokens stand, and `token` follows them.
struct verified {
  std::size_t accepted = 0;  ///< drafted tokens that stand
  std::int32_t token = -1;   ///< id of the one behind them, as the fine cache has it
  bool all = false;          ///< the whole draft stands: `token` is one more than was drafted
  /// Tokens that are certain now.
  std::size_t committed() const noexcept { return accepted + 1; }
};

/// The longest prefix on which both agree, and the verifier's token behind it. `target[i]` is what the fine cache says after
/// draft[0 .. i), so there is one more of them. Errors: invalid_argument (target.size() != draft.size() + 1).
inline result<verified> verify(std::span<const std::int32_t> draft, std::span<const std::int32_t> target) {
  if (target.size() != draft.size() + 1) return status::invalid_argument;
  std::size_t n = 0;
  while (n < draft.size() && draft[n] == target[n]) ++n;
  return verified{n, target[n], n == draft.size()};
}

/// Whether every chunk is computed or stands at `level` or better: drafting needs level 0, verifying the finest or exact.
inline bool all_at(const cost_model& cost, const request_progress& p, int level) noexcept {
  for (int c = 0; c < cost.num_chunks(); ++c)
    if (!usable(cost, p, c) || (!p.chunks[std::size_t(c)].computed && p.chunks[std::size_t(c)].ready < level))
      return false;
  return true;
}

/// How many tokens to draft so that the engine is busy until `level` has streamed in at this rate; at least 1, at most `most`.
inline int draft_tokens(const cost_model& cost, const request_progress& p, int level, double bytes_per_second,
                        double draft_seconds_per_token, int most) noexcept {
  double bytes = double(p.bytes_in_flight);
  for (int c = 0; c < cost.num_chunks(); ++c)
    if (!p.chunks[std::size_t(c)].computed)
      bytes += double(cost.bytes_between(c, p.chunks[std::size_t(c)].requested, level));
  if (!(bytes_per_second > 0) || !(draft_seconds_per_token > 0)) return 1;
  const double tokens = detail::ceil(bytes / bytes_per_second / draft_seconds_per_token);
  return tokens < most ? detail::max(int(tokens), 1) : detail::max(most, 1);
}

}  // namespace sluice::stream
