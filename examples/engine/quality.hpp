// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cache.hpp"
#include "coded_cache.hpp"
#include "distribution.hpp"
#include "model.hpp"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

// What a decoded cache does to the model's predictions: the suffix of a context is computed on the exact cache and on the
// cache at every level.

namespace engine {

/// The levels to look at: one, or with -1 all there are; from fine to coarse, the order of truncation. Throws
/// std::runtime_error where the one is not there.
inline std::vector<int> levels_of(int wanted, int there) {
  if (wanted >= there) throw std::runtime_error("there is no level " + std::to_string(wanted));
  std::vector<int> out;
  for (int j = there; j-- > 0;)
    if (wanted < 0 || j == wanted) out.push_back(j);
  return out;
}

/// How far greedy continuations agree.
struct agreement {
  std::size_t equal = 0;   ///< tokens that are the same at the same place
  std::size_t prefix = 0;  ///< tokens before the first that differs
};
agreement agree(std::span<const std::int32_t> a, std::span<const std::int32_t> b);

/// Measures what codecs lose on a document itself: its first half is coded, and what is predicted behind it is compared.
class document_probe {
 public:
  static constexpr int most = 256;  ///< tokens that are predicted

  /// Predicts with the exact cache of a context, which is in a sequence, and borrows all three. The sequence's pool has room
  /// for half of the context and what is predicted. Errors: throws std::runtime_error.
  document_probe(model& net, std::span<const std::int32_t> ids, const sequence& context);

  /// Steps for a codec to lose `target` nats at the level whose loss is meant to be nearest to it. Moves nothing where the
  /// codec's steps cannot move, or where a context is too short to say anything.
  sluice::document_steps steps(coded_cache& coded, double target);

 private:
  double lost(coded_cache& coded, int level);

  model* net_;
  std::span<const std::int32_t> before_, after_;
  const sequence* context_;
  matrix exact_;
};

/// What attention gives the first tokens behind a context, layer by layer, the input of each layer being that of the exact
/// cache: the error of a cache where it arises, before later layers make it more or less.
class attention_probe {
 public:
  static constexpr std::size_t most = 32;  ///< tokens

  /// How far two caches are apart: sums of squares.
  struct distance {
    double error = 0, exact = 0;
    double relative() const { return exact > 0 ? std::sqrt(error / exact) : 0; }
  };

  /// Borrows the model and the tokens behind the context, whose exact cache the sequence holds; it is left as it was.
  attention_probe(model& net, std::span<const std::int32_t> suffix, sequence& context);

  /// Of a sequence that holds another copy of the context, and room for those tokens.
  distance of(sequence& decoded) const;

 private:
  model* net_;
  std::span<const std::int32_t> ids_;
  std::vector<std::vector<float>> entering_, attended_;  // [layer]
};

/// Sums over windows.
struct suffix_quality {
  struct at_level {
    int level = 0;
    std::size_t bytes = 0;
    double nll = 0, expected = 0;  ///< expected: nats by the frames, summed over predicted tokens; 0 = not known
    double decode_seconds = 0;     ///< of one thread's processor time
    attention_probe::distance attention{};
    distance_sum distance{};
    agreement continued{};  ///< with the continuation of the exact cache
  };
  std::size_t elements = 0;        ///< of the contexts' caches
  std::size_t predicted = 0;       ///< tokens
  std::size_t continued = 0;       ///< tokens of greedy continuations
  double nll = 0;                  ///< of the suffix, on the exact cache
  double encode_seconds = 0;       ///< of one thread's processor time, all levels
  std::vector<at_level> levels{};  ///< from fine to coarse

  void add(const suffix_quality& other);
};

/// Judges one window: a context, whose exact cache is in a sequence, a suffix and one token more, the last that is
/// predicted. `exact` is what is predicted there, `attention` and `steps` what encoders are told of it, `greedy` what
/// continue_greedily() gave behind the first token of the suffix, if that is to be judged; both may be empty. `probe` may be
/// null. The sequence's pool has room for another context and what follows. With `hidden`, the context's hidden states in a
/// pool that has room for them twice, these are coded and projected; bits are still those of a value of K and V.
/// Errors: throws std::runtime_error.
suffix_quality judge_window(model& net, std::span<const std::int32_t> ids, const sequence& context, const matrix& exact,
                            std::span<const float> attention, const sluice::document_steps& steps,
                            std::span<const std::int32_t> greedy, int level, coded_cache& coded,
                            const attention_probe* probe = nullptr, const sequence* hidden = nullptr);

/// The `count` likeliest tokens, one after another, behind the sequence and one token more, `first`. Leaves the sequence as
/// it was.
std::vector<std::int32_t> continue_greedily(model& net, sequence& seq, std::int32_t first, int count);

}  // namespace engine
