// SPDX-License-Identifier: Apache-2.0
#include "streamed.hpp"

#include <sluice/stream/plan/by_name.hpp>
#include <sluice/stream/run/loops.hpp>
#include <sluice/stream/run/page_decoder.hpp>
#include <sluice/stream/store/chunk.hpp>
#include <sluice/stream/store/sources/shaped.hpp>

#include <stdexcept>

namespace engine {

namespace {

sluice::stream::cost_model cost_of(const prefix_cache& prefixes, std::span<const located_chunk> chunks,
                                   const machine_costs& costs, const sequence& seq, std::size_t document_tokens) {
  const auto loss = sluice::stream::context_loss::of(prefixes.profile(), double(document_tokens));
  std::vector<sluice::stream::chunk_cost> all;
  for (const located_chunk& c : chunks) {
    const int tokens = c.end - c.begin;
    const auto values =
        std::uint64_t(tokens) * 2 * std::uint64_t(seq.pool().layers() * seq.pool().kv_heads() * seq.pool().head_dim());
    all.push_back(c.state == sluice::status::ok
                      ? sluice::stream::chunk_of(c.index, c.exact_bytes, loss)
                      : sluice::stream::chunk_of(c.begin, tokens, values, {}, c.exact_bytes, loss));
  }
  const sluice::stream::cost_rates rates{.recompute_seconds_per_token = costs.seconds_per_token,
                                         .recompute_seconds_per_token_position = costs.seconds_per_token_position,
                                         .decode_seconds_per_value = costs.decode_seconds_per_value,
                                         .exact_decode_seconds_per_value = costs.decode_seconds_per_value / 3};
  return sluice::stream::cost_model::make(std::move(all), rates, loss.levels()).value();
}

// The engine's two halves of the work.
struct page_sink {
  model* net;
  sequence* seq;
  std::span<const std::int32_t> ids;
  const sluice::stream::cost_model* cost;
  std::span<const located_chunk> chunks;
  sluice::stream::page_decoder<prefix_cache::codec, prefix_cache::exact> pages;
  std::vector<int> levels;  // of each chunk, what its pages hold: coarser than asked for where the object is

  sluice::page_status decode(int chunk, int level, std::span<const std::byte> frame) {
    sluice::page_status done = pages.decode(chunk, level, frame);
    if (done.outside > 0) done.worst = sluice::status::absent;  // what the engine computes next may look at it
    int& held = levels[std::size_t(chunk)];
    const located_chunk& c = chunks[std::size_t(chunk)];
    if (level == cost->exact_level())
      held = level;
    else if (done.worst == sluice::status::degraded)
      held = std::max(0, sluice::sound_level(c.index, frame, std::min(level, c.levels() - 1)));
    else if (done)
      held = std::min(level, c.levels() - 1);
    return done;
  }
  // Gives up between two layers where the link was faster.
  sluice::status compute(const sluice::stream::step& what, const std::stop_token& stop) {
    struct given_up {};
    const sluice::stream::chunk_cost& c = cost->chunk(what.chunk);
    try {
      net->forward(ids.subspan(std::size_t(c.position), std::size_t(c.tokens)), *seq,
                   {.on_hidden =
                        [&stop](int, int, std::span<const float>) {
                          if (stop.stop_requested()) throw given_up{};
                        },
                    .position = int(c.position)});
    } catch (given_up) {
      return sluice::status::cancelled;
    }
    return sluice::status::ok;
  }
};

// Any policy behind one type, so that the executor is compiled for those that refine and those that do not, and not for
// each. Borrows the policy.
template <bool Refines>
struct any_policy {
  using asked = sluice::stream::step (*)(const void*, const sluice::stream::cost_model&,
                                         const sluice::stream::link_history&, const sluice::stream::request_progress&);
  static constexpr const char* name = "any";
  static constexpr bool refines = Refines;

  template <class Policy>
  static any_policy of(const Policy& p) {
    return {&p,
            [](const void* self, const auto& cost, const auto& link, const auto& now) {
              return static_cast<const Policy*>(self)->link(cost, link, now);
            },
            [](const void* self, const auto& cost, const auto& link, const auto& now) {
              return static_cast<const Policy*>(self)->compute(cost, link, now);
            }};
  }
  sluice::stream::step link(const sluice::stream::cost_model& cost, const sluice::stream::link_history& link,
                            const sluice::stream::request_progress& now) const {
    return link_of(policy, cost, link, now);
  }
  sluice::stream::step compute(const sluice::stream::cost_model& cost, const sluice::stream::link_history& link,
                               const sluice::stream::request_progress& now) const {
    return compute_of(policy, cost, link, now);
  }

  const void* policy;
  asked link_of, compute_of;
};

template <class Policy>
sluice::stream::report run(const sluice::stream::cost_model& cost, std::span<const located_chunk> chunks, store& from,
                           double deadline_seconds, page_sink& sink, const Policy& p) {
  std::vector<sluice::stream::stored_chunk> names;
  for (const located_chunk& c : chunks) names.push_back({c.key, c.exact_key});
  const sluice::stream::planner<Policy> plan(cost, p);
  sluice::stream::link_history link;
  sluice::stream::executor e(plan, from, names, link, deadline_seconds);
  return run_threaded(e, sink);
}

}  // namespace

stream_result stream_prefix(model& net, prefix_cache& prefixes, store& from, std::span<const std::int32_t> ids,
                            sequence& seq, const machine_costs& measured, const stream_options& options) {
  const auto clock = sluice::stream::steady_clock_seconds{};
  const double begin = clock(), deadline = options.deadline_seconds;
  const double spare = deadline - measured.prefill_seconds(double(ids.size()));
  const double wait = std::max(spare, deadline / 2);
  sluice::stream::shaped_source shaped(from, options.link ? *options.link : sluice::stream::link_trace());
  store_of slow(shaped);
  store& source = options.link ? static_cast<store&>(slow) : from;
  const located_prefix found = prefixes.locate(ids, true, {wait, wait});
  const std::vector<located_chunk>& chunks = found.chunks;

  stream_result out;
  out.saved = read_note(found.note, chunks.empty() ? std::string() : sluice::stream::to_hex(chunks.back().key));
  out.note_damaged = !out.saved && !found.note.empty();
  out.chunks = int(chunks.size());
  bool exact = true;
  for (const located_chunk& c : chunks) {
    out.stored += c.state == sluice::status::ok;
    exact &= c.exact_bytes > 0;
    if (c.state != sluice::status::ok && c.state != sluice::status::not_found)
      append(out.unread, {c.begin, c.end - c.begin, c.state, c.detail});
  }
  if (seq.grow(int(ids.size())) != sluice::status::ok) throw std::runtime_error("the KV cache is full");
  const sluice::stream::cost_model cost =
      cost_of(prefixes, chunks, out.saved ? out.saved->costs : measured, seq, ids.size());
  const sluice::kv_view view = seq.view();
  page_sink sink{
      &net, &seq, ids, &cost, chunks, {prefixes.profile(), cost, {&view, 1}, ids}, std::vector<int>(chunks.size(), -1)};
  out.raw_bytes = ids.size() * std::size_t(2 * seq.pool().layers()) * std::size_t(seq.pool().token_stride());
  out.locate_seconds = clock() - begin;
  const double left = std::max(0.0, deadline - out.locate_seconds);
  if (options.policy == "always_raw" && !exact)
    throw std::runtime_error("policy always_raw: the store has no exact copies (save --exact-copies)");
  const bool known = sluice::stream::with_policy(options.policy, [&](auto policy) {
    if constexpr (requires { policy.level; })  // of cake: the exact copy unless told
      if (!exact) policy.level = cost.num_levels() - 1;
    constexpr bool refines = sluice::stream::refining_policy<decltype(policy)>;
    out.report = run(cost, chunks, source, left, sink, any_policy<refines>::of(policy));
  });
  if (!known) throw std::runtime_error("there is no policy " + options.policy);
  if (out.report.outcome != sluice::status::ok)
    throw std::runtime_error(std::string("computing: ") + to_string(out.report.outcome));
  for (std::size_t c = 0; c < chunks.size(); ++c) {
    sluice::stream::chunk_report& r = out.report.chunks[c];
    if (!r.computed) r.level = sink.levels[c];
  }
  return out;
}

}  // namespace engine
