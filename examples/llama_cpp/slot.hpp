// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "chunks.hpp"
#include "packed.hpp"
#include "plan.hpp"
#include "state.hpp"

#include <sluice/codec/fit.hpp>
#include <sluice/model/pairs.hpp>
#include <sluice/model/profile.hpp>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <span>
#include <utility>
#include <vector>

// States of llama.cpp, smaller: pack() and unpack(), from bytes to bytes. An engine includes this header alone.

namespace slot {

/// How to pack and to unpack.
struct options {
  int level = 1;          ///< of quality, 0 the coarsest and 3 the finest
  bool lossless = false;  ///< the same bytes back, without a profile
  /// Order of rotary pairs in the model's keys, which its architecture says (model.hpp); none = whichever fits.
  sluice::rope_pairing pairs = sluice::rope_pairing::none;
  int threads = 1;                                              ///< changes the time it takes, not the bytes
  std::function<void(std::size_t, std::size_t)> on_progress{};  ///< chunks done, of all
  double fit_bound = sluice::default_fit_bound;                 ///< see fit()
};

/// A profile as a state needs it.
struct fitted {
  sluice::profile profile;  ///< with pairs in the state's order
  bool turned = false;      ///< whether llama.cpp turned quantised rows by Hadamard matrices
  double ratio = 1;         ///< how many times the bits that the profile promises: about 1
};

namespace detail {

// The bits that a profile promises and those that chunks from all over the state come to, as fit_report::ratio().
inline sluice::result<double> ratio_of(const state& s, std::byte* bytes, const sluice::profile& profile, bool turned) {
  const auto plan = make_plan(s, &profile);
  if (!plan) return plan.status();
  std::vector<const chunk*> coded;
  for (const chunk& c : plan->chunks)
    if (!c.verbatim && plan->parts[std::size_t(c.part)].profile == &profile && c.tokens > 8) coded.push_back(&c);
  if (coded.size() > 4) coded = {coded[0], coded[coded.size() / 3], coded[2 * coded.size() / 3], coded.back()};
  sluice::fit_bits keys, values;
  for (const chunk* c : coded) {
    const part& p = s.parts[std::size_t(c->part)];
    const part_plan& how = plan->parts[std::size_t(c->part)];
    std::vector<sluice::kv_view> views;
    dense_chunk dense(p, how, how.how == coding::quantised ? *c : chunk{}, turned);
    if (how.how == coding::quantised) {
      dense.load(bytes);
      views.assign(dense.views().begin(), dense.views().end());
    } else {
      views_of(p, how, *c, bytes, views);
    }
    const auto r = sluice::fit(views, profile);
    if (!r) return r.status();
    keys.expected += r->keys.expected, keys.measured += r->keys.measured;
    values.expected += r->values.expected, values.measured += r->values.measured;
  }
  return std::max(keys.ratio(), values.ratio());
}

// The order of a model's rotary pairs; none where nothing is rotated.
inline sluice::rope_pairing pairs_of(const sluice::model_shape& shape) {
  sluice::rope_pairing order = sluice::rope_pairing::none;
  for (const sluice::rope& r : shape.ropes)
    if (r.pairing != sluice::rope_pairing::none) order = r.pairing;
  return order;
}

// Whether rows are quantised and nothing says whether they were turned before.
inline bool unsaid_turns(const state& s) {
  return std::any_of(s.parts.begin(), s.parts.end(),
                     [](const part& p) { return p.k[0].type == type_q8_0 && p.turn[0] < 0; });
}

}  // namespace detail

/// The profile as this state needs it: with rotary pairs in the order that its keys have, which is tried out where
/// `o.pairs` does not say it; and whether quantised rows are turned, which LLAMA_ATTN_ROT_DISABLE switches off in
/// llama.cpp and nothing in the state tells. A profile without calibration is taken as it is.
/// `tried` becomes the best ratio, where the profile does not fit too.
/// Errors: wrong_shape (a profile of another model), profile_does_not_fit; those of sluice::fit().
inline sluice::result<fitted> fit(const state& s, std::span<const std::byte> bytes, const sluice::profile& profile,
                                  const options& o = {}, double* tried = nullptr) {
  using sluice::rope_pairing;
  auto* const base = const_cast<std::byte*>(bytes.data());  // views can be written to; an encoder does not
  const rope_pairing own = detail::pairs_of(profile.shape);
  const bool pairs_matter = own != rope_pairing::none;
  std::vector<rope_pairing> orders{own};
  if (pairs_matter && o.pairs != rope_pairing::none)
    orders = {o.pairs};
  else if (pairs_matter && profile.calibrated())
    orders = {own, own == rope_pairing::half ? rope_pairing::interleaved : rope_pairing::half};
  fitted best;
  best.ratio = 1e9;
  for (const rope_pairing order : orders) {
    sluice::profile p = profile;
    if (order != own) {
      auto other = sluice::with_pairs(profile, order);
      if (!other) return other.status();
      p = *std::move(other);
    }
    for (const bool turned : {true, false}) {
      if (!turned && !detail::unsaid_turns(s)) continue;
      const auto ratio = detail::ratio_of(s, base, p, turned);
      if (!ratio) return ratio.status();
      if (*ratio < best.ratio) best = {p, turned && detail::unsaid_turns(s), *ratio};
      if (tried) *tried = best.ratio;
      if (best.ratio <= o.fit_bound) return best;
    }
  }
  return sluice::status::profile_does_not_fit;
}

/// Packs a state. Bytes are handed over as they come: bool write(std::span<const std::byte>), false ends it with io_error.
/// `with` comes from fit(), or is null where options::lossless.
/// Errors: wrong_shape, and those of encoder::encode().
template <class Write>
sluice::status pack(const state& s, std::span<const std::byte> bytes, const fitted* with, const options& o,
                    const Write& write) {
  using sluice::status;
  if (!o.lossless && (!with || o.level < 0 || o.level >= sluice::max_passes)) return status::invalid_argument;
  const sluice::profile* profile = o.lossless ? nullptr : &with->profile;
  auto plan = detail::make_plan(s, profile);
  if (!plan) return plan.status();
  if (profile && std::none_of(plan->parts.begin(), plan->parts.end(),
                              [&](const detail::part_plan& p) { return p.profile == profile; })) {
    profile = nullptr;  // types that no codec with loss takes
    plan = detail::make_plan(s, nullptr);
  }
  const bool turned = profile && with->turned;
  if (plan->chunks.size() > UINT32_MAX) return status::too_large;

  std::vector<std::byte> own;
  if (profile && !profile->calibrated()) own = profile->serialize();  // small, and nobody has to keep it
  std::uint64_t skeleton = 0;
  detail::each_piece(s, [&](std::uint64_t, std::uint64_t n) { skeleton += n; });
  std::vector<std::byte> out;
  for (const char c : detail::packed_magic) detail::put(out, c);
  detail::put(out, detail::packed_version);
  detail::put(out, std::uint8_t((profile == nullptr) | turned << 1 | s.how.values << 2 | s.how.turns << 3));
  detail::put(out, s.how.cell_extra);
  detail::put(out, std::uint8_t(profile ? detail::pairs_of(profile->shape) : sluice::rope_pairing::none));
  detail::put(out, std::uint8_t(o.level));
  detail::put(out, std::uint16_t{0});
  detail::put(out, s.size);
  detail::put(out, skeleton);
  detail::put(out, profile && own.empty() ? profile->fingerprint() : std::uint64_t{0});
  detail::put(out, std::uint32_t(own.size()));
  detail::put(out, std::uint32_t(plan->chunks.size()));

  detail::running_checksum sum;
  const auto send = [&](std::span<const std::byte> x) { return sum.add(x), write(x); };
  if (!send(out) || (!own.empty() && !send(own))) return status::io_error;
  out.clear();
  detail::each_piece(s, [&](std::uint64_t at, std::uint64_t n) {
    const auto piece = bytes.subspan(std::size_t(at), std::size_t(n));
    out.insert(out.end(), piece.begin(), piece.end());
  });
  if (!send(out)) return status::io_error;

  // Some chunks at a time, so that no more of the packed state is in memory than these.
  auto* const base = const_cast<std::byte*>(bytes.data());
  const std::size_t batch = std::size_t(std::max(o.threads, 1)) * 4;
  std::vector<detail::coders<detail::encoder_of>> coders(std::size_t(std::max(o.threads, 1)));
  std::vector<std::vector<std::byte>> frames(batch);
  std::vector<status> states(batch);
  std::atomic<std::size_t> done{0};
  for (std::size_t begin = 0; begin < plan->chunks.size(); begin += batch) {
    const std::size_t end = std::min(begin + batch, plan->chunks.size());
    detail::share(o.threads, begin, end, [&](int worker, std::size_t i) {
      states[i - begin] = detail::encode_chunk(s, *plan, plan->chunks[i], base, turned, o.level + 1,
                                               coders[std::size_t(worker)], frames[i - begin]);
      const std::size_t n = ++done;
      if (o.on_progress && worker == 0) o.on_progress(n, plan->chunks.size());
    });
    for (std::size_t i = begin; i < end; ++i) {
      if (states[i - begin] != status::ok) return states[i - begin];
      if (frames[i - begin].size() > UINT32_MAX) return status::too_large;
      std::vector<std::byte> size;
      detail::put(size, std::uint32_t(frames[i - begin].size()));
      if (!send(size) || !send(frames[i - begin])) return status::io_error;
    }
  }
  out.clear();
  detail::put(out, sum.value());
  return write(std::span<const std::byte>(out)) ? status::ok : status::io_error;
}

/// Unpacks into `out`, which has packed_header::size bytes; they are llama.cpp's where this returns ok, and nothing else.
/// `profile` is the one that pack() was given, in any order of pairs, or null where the header wants none.
/// Errors: output_too_small, wrong_profile, wrong_shape, corrupt_header, truncated, corrupt_tile and other words of decoders.
inline sluice::status unpack(const packed_header& h, const sluice::profile* profile, std::span<std::byte> out,
                             const options& o = {}) {
  using sluice::status;
  if (out.size() < h.size) return status::output_too_small;
  const auto s = detail::read_skeleton(h.skeleton, h.size, h.how);
  if (!s) return s.status();
  if (s->size != h.size) return status::corrupt_header;
  sluice::profile own;
  if (!h.profile.empty()) {
    auto parsed = sluice::profile::parse(h.profile);
    if (!parsed) return parsed.status();
    own = *std::move(parsed);
  } else if (!h.lossless) {
    if (!profile) return status::wrong_profile;
    own = *profile;
    if (own.fingerprint() != h.fingerprint) {
      auto other = sluice::with_pairs(*profile, h.pairs);
      if (!other || other->fingerprint() != h.fingerprint) return status::wrong_profile;
      own = *std::move(other);
    }
  }
  const auto plan = detail::make_plan(*s, h.lossless ? nullptr : &own);
  if (!plan) return plan.status();
  if (plan->chunks.size() != h.chunks) return status::corrupt_header;

  std::vector<std::span<const std::byte>> frames;
  for (std::size_t at = 0; frames.size() < h.chunks;) {
    std::uint32_t n;
    std::memcpy(&n, h.frames.data() + at, 4);
    frames.push_back(h.frames.subspan(at + 4, n));
    at += 4 + std::size_t{n};
  }
  std::size_t from = 0;
  detail::each_piece(*s, [&](std::uint64_t at, std::uint64_t n) {
    std::memcpy(out.data() + at, h.skeleton.data() + from, std::size_t(n));
    from += std::size_t(n);
  });
  std::vector<detail::coders<detail::decoder_of>> coders(std::size_t(std::max(o.threads, 1)));
  std::atomic<status> worst{status::ok};
  std::atomic<std::size_t> done{0};
  detail::share(o.threads, 0, plan->chunks.size(), [&](int worker, std::size_t i) {
    if (worst != status::ok) return;
    const status st =
        detail::decode_chunk(*s, *plan, plan->chunks[i], frames[i], h.turned, coders[std::size_t(worker)], out.data());
    if (st != status::ok) worst.store(st);
    const std::size_t n = ++done;
    if (o.on_progress && worker == 0) o.on_progress(n, plan->chunks.size());
  });
  return worst;
}

/// Packs a state that is in memory; `profile` is not looked at where options::lossless.
/// Errors: those of parse(), fit() and pack(); out_of_memory.
inline sluice::result<std::vector<std::byte>> pack(std::span<const std::byte> bytes, const sluice::profile* profile,
                                                   const options& o = {}) {
  const auto s = parse(bytes);
  if (!s) return s.status();
  fitted with;
  if (!o.lossless) {
    if (!profile) return sluice::status::invalid_argument;
    auto f = fit(*s, bytes, *profile, o);
    if (!f) return f.status();
    with = *std::move(f);
  }
  std::vector<std::byte> out;
  const sluice::status st = pack(*s, bytes, &with, o, [&](std::span<const std::byte> x) {
    out.insert(out.end(), x.begin(), x.end());
    return true;
  });
  if (st != sluice::status::ok) return st;
  return out;
}

/// The state again. Errors: those of read_header() and the other unpack(); out_of_memory.
inline sluice::result<std::vector<std::byte>> unpack(std::span<const std::byte> packed, const sluice::profile* profile,
                                                     const options& o = {}) {
  const auto h = read_header(packed);
  if (!h) return h.status();
  std::vector<std::byte> out;
  try {
    out.resize(std::size_t(h->size));
  } catch (const std::exception&) {  // a size that nobody has memory for
    return sluice::status::out_of_memory;
  }
  if (const sluice::status st = unpack(*h, profile, out, o); st != sluice::status::ok) return st;
  return out;
}

}  // namespace slot
