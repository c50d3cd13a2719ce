// SPDX-License-Identifier: Apache-2.0
#include "streamed.hpp"
#include "everything_at.hpp"

#include <sluice/stream/plan/any_policy.hpp>
#include <sluice/stream/plan/by_name.hpp>
#include <sluice/stream/run/loops.hpp>
#include <sluice/stream/run/page_decoder.hpp>
#include <sluice/stream/store/chunk.hpp>
#include <sluice/stream/store/sources/shaped.hpp>

#include <algorithm>
#include <condition_variable>
#include <limits>
#include <mutex>
#include <stdexcept>
#include <thread>

namespace engine {

namespace {

sluice::stream::cost_rates rates_of(const machine_costs& costs) {
  return {.recompute_seconds_per_token = costs.seconds_per_token,
          .recompute_seconds_per_token_position = costs.seconds_per_token_position,
          .project_seconds_per_token = costs.project_seconds_per_token,
          .decode_seconds_per_value = costs.decode_seconds_per_value,
          .exact_decode_seconds_per_value = costs.decode_seconds_per_value / 3};
}

// Chunk by chunk; or, in several parts, for each part of the layers unit by unit. `seq`: what chunks are decoded into.
sluice::stream::cost_model cost_of(const prefix_cache& prefixes, std::span<const located_chunk> chunks,
                                   const machine_costs& costs, const sequence& seq, std::size_t document_tokens,
                                   std::span<const sluice::stream::layer_range> parts, int compute_layers) {
  const sluice::profile& profile = prefixes.profile();
  const auto values = [&](const located_chunk& c, int layers) {
    return std::uint64_t(c.end - c.begin) * std::uint64_t(seq.pool().num_planes() * layers * seq.pool().width());
  };
  const auto loss = sluice::stream::context_loss::of(profile, double(document_tokens));
  std::vector<sluice::stream::chunk_cost> all;
  if (compute_layers > 0) {
    const auto layers = std::size_t(seq.pool().layers());
    for (const located_chunk& c : chunks) {
      if (c.state == sluice::status::ok) {
        all.push_back(sluice::stream::chunk_above(c.index, compute_layers, profile, double(document_tokens)));
        continue;
      }
      all.push_back(sluice::stream::chunk_of(c.begin, c.end - c.begin, values(c, int(layers)), {}, 0, loss));
      all.back().bytes.assign(std::size_t(loss.levels() + 1) * layers, 0);
      all.back().kinds.assign(layers, sluice::stream::payload::absent);
    }
    return sluice::stream::cost_model::make(std::move(all), rates_of(costs), loss.levels(), int(layers)).value();
  }
  for (const located_chunk& c : chunks)
    if (parts.empty())
      all.push_back(c.state == sluice::status::ok
                        ? sluice::stream::chunk_of(c.index, c.exact_bytes, loss)
                        : sluice::stream::chunk_of(c.begin, c.end - c.begin, values(c, seq.pool().layers()), {},
                                                   c.exact_bytes, loss));
  for (const sluice::stream::layer_range& part : parts)
    for (const located_chunk& c : chunks) {
      const auto of_part = sluice::stream::context_loss::of(profile, double(document_tokens), part);
      all.push_back(
          c.state == sluice::status::ok
              ? sluice::stream::unit_of(c.index, part, profile, double(document_tokens))
              : sluice::stream::chunk_of(c.begin, c.end - c.begin, values(c, part.end - part.begin), {}, 0, of_part));
      all.back().layers = part;
    }
  if (seq.pool().num_planes() == 1)  // hidden states
    for (sluice::stream::chunk_cost& c : all)
      if (c.kinds.empty()) c.kinds = {sluice::stream::payload::hidden};
  return sluice::stream::cost_model::make(std::move(all), rates_of(costs), loss.levels()).value();
}

// The engine's two halves of the work.
struct page_sink {
  model* net;
  sequence* seq;
  std::span<const std::int32_t> ids;
  const sluice::stream::cost_model* cost;
  std::span<const located_chunk> chunks;
  sluice::stream::page_decoder<prefix_cache::codec, prefix_cache::exact> pages;
  std::vector<int> levels;  // of each chunk (or unit), what its pages hold: coarser than asked for where the object is
  const sequence* hidden = nullptr;  // whose pages are filled, where chunks hold hidden states
  // Of each chunk that is computed part by part: what enters the next layer.
  struct residual {
    int layer = 0;
    std::vector<float> hidden;
  };
  std::vector<residual> above{};

  std::size_t chunk_of(int unit) const { return std::size_t(unit) % chunks.size(); }

  sluice::page_status decode(int unit, int level, std::span<const std::byte> frame) {
    sluice::page_status done = pages.decode(unit, level, frame);
    if (done.outside > 0)
      done.worst = sluice::status::absent, done.missing = {};  // what is computed next may look at it
    int& held = levels[std::size_t(unit)];
    const located_chunk& c = chunks[chunk_of(unit)];
    const bool part = cost->chunk(unit).layers != sluice::stream::layer_range{} || cost->num_layers() > 1;
    if (level == cost->exact_level())
      held = level;
    else if (done.degraded > 0)  // a frame with holes does not tell by how much
      held = part ? 0 : std::max(0, sluice::sound_level(c.index, frame, std::min(level, c.levels() - 1)));
    else if (done || done.missing)
      held = std::min(level, c.levels() - 1);
    return done;
  }
  // Gives up between two layers where the link was faster. Of a damaged chunk only what it misses is computed, as far up as
  // that lies, on what stands around it. Parts go on from where the part below has ended, if it was
  // computed, else from the text over the layers that are there.
  sluice::status compute(const sluice::stream::step& what, const std::stop_token& stop) {
    struct given_up {};
    const sluice::stream::chunk_cost& c = cost->chunk(what.chunk);
    const bool patch = what.what == sluice::stream::action::patch;
    if (patch && hidden) {
      project(*net, *hidden, int(c.position), c.tokens, *seq);
      return sluice::status::ok;
    }
    const sluice::gap all{.position = c.position, .tokens = c.tokens};
    const sluice::gap& missing = what.missing ? what.missing : all;
    forward_options options{.position = int(missing.position)};
    if (what.missing) options.end_layer = missing.end_layer;
    if (patch) options.end_layer = int(std::ranges::count(c.kinds, sluice::stream::payload::absent));  // the lowest
    residual reached;
    options.on_hidden = [&](int layer, int, std::span<const float> x) {
      if (stop.stop_requested()) throw given_up{};
      if (layer == options.end_layer) reached = {layer, {x.begin(), x.end()}};
    };
    if (c.layers != sluice::stream::layer_range{}) {
      above.resize(chunks.size());
      const residual& below = above[chunk_of(what.chunk)];
      options.end_layer = c.layers.end;
      options.stores_from = c.layers.begin;
      if (below.layer == c.layers.begin) options.first_layer = below.layer, options.hidden = below.hidden;
    }
    try {
      net->forward(ids.subspan(std::size_t(missing.position), std::size_t(missing.tokens)), *seq, options);
    } catch (given_up) {
      return sluice::status::cancelled;
    }
    if (c.layers != sluice::stream::layer_range{}) above[chunk_of(what.chunk)] = std::move(reached);
    return sluice::status::ok;
  }
};

using meanwhile_t = std::function<void(const std::function<void(int layer)>& wait_for)>;

template <class Policy>
sluice::stream::report run(const sluice::stream::cost_model& cost, std::span<const sluice::stream::stored_chunk> names,
                           store& from, double deadline_seconds, page_sink& sink, const Policy& p,
                           const meanwhile_t* meanwhile) {
  const sluice::stream::planner<Policy> plan(cost, p);
  sluice::stream::link_history link;
  sluice::stream::executor e(plan, from, names, link, deadline_seconds);
  if constexpr (!Policy::refines)
    if (meanwhile) {
      const bool all_cores = sink.net->threads() >= int(std::thread::hardware_concurrency());
      sluice::stream::layer_run layers(
          e, sink, all_cores ? sluice::stream::decoder_cores::shared : sluice::stream::decoder_cores::apart);
      (*meanwhile)([&](int layer) {
        if (const sluice::status s = layers.wait_for(layer); s != sluice::status::ok)
          throw std::runtime_error(std::string("computing: ") + to_string(s));
      });
      return layers.finish();
    }
  return run_threaded(e, sink);
}

// The draft level of all chunks, then the fine one.
struct draft_first {
  static constexpr const char* name = "draft_first";
  static constexpr bool refines = true;
  int draft = 0, fine = 0;

  sluice::stream::step link(const sluice::stream::cost_model& cost, const sluice::stream::link_history&,
                            const sluice::stream::request_progress& p) const noexcept {
    for (const int level : {draft, fine})
      for (int c = 0; c < cost.num_chunks(); ++c)
        if (p.chunks[std::size_t(c)].requested < level && can_fetch(cost, p, c))
          return sluice::stream::fetch(cost, c, level);
    return {};
  }
  sluice::stream::step compute(const sluice::stream::cost_model&, const sluice::stream::link_history&,
                               const sluice::stream::request_progress&) const noexcept {
    return {};
  }
};

// Two copies of the cache. What is computed is computed for the coarse one, before anything is drafted on it.
struct draft_sink {
  page_sink coarse, fine;
  int fine_level;
  int to_draft, to_fill;              // chunks that are missing yet
  std::vector<char> drafted, filled;  // by chunk
  std::mutex mutex{};                 // of the counts
  std::condition_variable changed{};
  bool ended = false;

  sluice::page_status decode(int chunk, int level, std::span<const std::byte> frame) {
    const auto c = std::size_t(chunk);
    sluice::page_status done{};
    // A link that is faster than the decoder leaves nothing to draft from but this.
    if (level < fine_level || !drafted[c]) {
      done = coarse.decode(chunk, level, frame);
      if (sound(done)) count(drafted, c, to_draft);
    }
    if (level >= fine_level && sound(done)) {
      done = fine.decode(chunk, level, frame);
      if (done) count(filled, c, to_fill);
    }
    return done;
  }
  sluice::status compute(const sluice::stream::step& what, const std::stop_token& stop) {
    const sluice::status s = coarse.compute(what, stop);
    if (s == sluice::status::ok) count(drafted, std::size_t(what.chunk), to_draft);
    return s;
  }
  static bool sound(const sluice::page_status& s) {
    return s.worst == sluice::status::ok || s.worst == sluice::status::degraded;
  }
  void count(std::vector<char>& which, std::size_t c, int& left) {
    const std::lock_guard lock(mutex);
    left -= !std::exchange(which[c], char(true));
    changed.notify_all();
  }
};

struct drafting {
  sequence* coarse;
  int level;
  const std::function<void(const std::function<bool()>& there)>* meanwhile;
};

// A thread of its own fetches, this one drafts.
sluice::stream::report run(const sluice::stream::cost_model& cost, std::span<const sluice::stream::stored_chunk> names,
                           store& from, draft_sink& sink, const drafting& d) {
  const sluice::stream::planner<draft_first> plan(cost, {d.level, sink.fine_level});
  sluice::stream::link_history link;
  sluice::stream::executor e(plan, from, names, link, std::numeric_limits<float>::max());
  {
    const std::jthread fetcher([&] {
      run_threaded(e, sink);
      const std::lock_guard lock(sink.mutex);
      sink.ended = true;
      sink.changed.notify_all();
    });
    std::unique_lock lock(sink.mutex);
    sink.changed.wait(lock, [&] { return sink.to_draft == 0 || sink.ended; });
    const bool drafted = sink.to_draft == 0;
    lock.unlock();
    if (drafted)
      (*d.meanwhile)([&] {
        const std::lock_guard counts(sink.mutex);
        return sink.to_fill == 0 || sink.ended;
      });
  }
  return e.result();
}

// Of the units of each chunk: the coarsest, and what was computed of it; faults name chunks.
void sum_up_parts(sluice::stream::report& r, std::span<const located_chunk> chunks) {
  std::vector<sluice::stream::chunk_report> sum;
  r.recomputed_tokens = 0;
  for (std::size_t c = 0; c < chunks.size(); ++c) {
    sluice::stream::chunk_report& k = sum.emplace_back(r.chunks[c]);
    bool any = k.computed;
    for (std::size_t u = c + chunks.size(); u < r.chunks.size(); u += chunks.size()) {
      const sluice::stream::chunk_report& unit = r.chunks[u];
      any |= unit.computed;
      if (!unit.computed) k.level = k.computed ? unit.level : std::min(k.level, unit.level);
      k.computed &= unit.computed;
      if (unit.state != sluice::status::ok) k.state = unit.state;
    }
    if (any) r.recomputed_tokens += chunks[c].end - chunks[c].begin;
  }
  r.chunks = std::move(sum);
  for (sluice::stream::fault& f : r.faults)
    if (f.chunk >= 0) f.chunk %= int(chunks.size());
}

stream_result stream(model& net, prefix_cache& prefixes, store& from, std::span<const std::int32_t> ids, sequence& seq,
                     const machine_costs& measured, const stream_options& options, const meanwhile_t* meanwhile,
                     const drafting* draft = nullptr) {
  const auto clock = sluice::stream::steady_clock_seconds{};
  const double begin = clock(), deadline = options.deadline_seconds;
  const double spare = deadline - measured.prefill_seconds(double(ids.size()));
  const double wait = draft ? patience{}.silent_seconds : std::max(spare, deadline / 2);
  sluice::stream::shaped_source shaped(from, options.link ? *options.link : sluice::stream::link_trace());
  source_of slow(shaped);
  store& source = options.link ? static_cast<store&>(slow) : from;
  const located_prefix found = prefixes.locate(ids, !meanwhile, {wait, wait});
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
  sequence& filled = options.hidden ? *options.hidden : seq;  // what chunks are decoded into
  for (sequence* s : {&seq, options.hidden})
    if (s && s->grow(int(ids.size())) != sluice::status::ok) throw std::runtime_error("the KV cache is full");
  std::vector<sluice::stream::layer_range> parts;
  const int layers = seq.pool().layers(), num_parts = std::clamp(options.layer_parts, 1, layers);
  for (int i = 0; meanwhile && i < num_parts; ++i)
    parts.push_back({i * layers / num_parts, (i + 1) * layers / num_parts});
  const sluice::stream::cost_model cost = cost_of(prefixes, chunks, out.saved ? out.saved->costs : measured, filled,
                                                  ids.size(), parts, options.compute_layers);
  std::vector<sluice::stream::stored_chunk> names;
  const auto name_parts = [&](const located_chunk& c, const sluice::stream::layer_range& part) {
    names.push_back(
        {c.key, c.exact_key, c.head,
         c.state == sluice::status::ok ? sluice::stream::parts_of(c.index, part) : std::vector<sluice::byte_range>()});
  };
  if (options.compute_layers > 0)
    for (const located_chunk& c : chunks) name_parts(c, {options.compute_layers, layers});
  else if (parts.empty())
    for (const located_chunk& c : chunks) names.push_back({c.key, c.exact_key});
  for (const sluice::stream::layer_range& part : parts)
    for (const located_chunk& c : chunks) name_parts(c, part);
  const sluice::kv_view view = filled.view();
  page_sink sink{&net,
                 &seq,
                 ids,
                 &cost,
                 chunks,
                 {prefixes.profile(), cost, {&view, 1}, ids},
                 std::vector<int>(names.size(), -1),
                 options.hidden};
  out.raw_bytes = ids.size() * seq.pool().values_of_token() * std::size_t(seq.pool().element_stride());
  out.locate_seconds = clock() - begin;
  const double left = std::max(0.0, deadline - out.locate_seconds);
  if (draft) {
    const int fine_level = exact ? cost.exact_level() : cost.num_levels() - 1;
    if (draft->level >= fine_level) throw std::runtime_error("nothing finer than the draft's level is stored");
    if (draft->coarse->grow(int(ids.size())) != sluice::status::ok) throw std::runtime_error("the KV cache is full");
    const sluice::kv_view coarse_view = draft->coarse->view();
    draft_sink both{
        {&net, draft->coarse, ids, &cost, chunks, {prefixes.profile(), cost, {&coarse_view, 1}, ids}, sink.levels},
        std::move(sink),
        fine_level,
        out.chunks,
        out.chunks,
        std::vector<char>(chunks.size()),
        std::vector<char>(chunks.size())};
    out.report = run(cost, names, source, both, *draft);
    if (out.report.outcome != sluice::status::ok)
      throw std::runtime_error(std::string("computing: ") + to_string(out.report.outcome));
    for (std::size_t c = 0; c < chunks.size(); ++c) {
      const bool computed = !both.filled[c];
      out.report.chunks[c] = {.level = computed ? -1 : fine_level, .computed = computed, .state = sluice::status::ok};
      if (!computed) continue;
      const missing_run all{chunks[c].begin, chunks[c].end - chunks[c].begin};
      compute(net, ids, seq, {all});
      out.report.recomputed_tokens += all.tokens;
    }
    return out;
  }
  exact &= options.compute_layers == 0;
  if (options.policy == "always_raw" && (!exact || meanwhile))
    throw std::runtime_error(meanwhile || options.compute_layers > 0
                                 ? "policy always_raw: exact copies do not come layer by layer"
                                 : "policy always_raw: the store has no exact copies (save --exact-copies)");
  const bool known =
      options.level >= 0 || sluice::stream::with_policy(options.policy, [&](auto policy) {
        if constexpr (requires { policy.level; })  // of cake: the exact copy unless told
          if (!exact || meanwhile) policy.level = cost.num_levels() - 1;
        constexpr bool refines = sluice::stream::refining_policy<decltype(policy)>;
        if (refines && meanwhile)
          throw std::runtime_error("policy " + options.policy + ": refines what the engine may be reading");
        out.report = run(cost, names, source, left, sink, sluice::stream::erased(policy), meanwhile);
      });
  if (!known) throw std::runtime_error("there is no policy " + options.policy);
  if (options.level >= 0) {
    const everything_at policy{std::min(options.level, cost.num_levels() - 1)};
    out.report = run(cost, names, source, left, sink, sluice::stream::erased(policy), nullptr);
  }
  if (out.report.outcome != sluice::status::ok)
    throw std::runtime_error(std::string("computing: ") + to_string(out.report.outcome));
  for (std::size_t c = 0; c < names.size(); ++c) {
    sluice::stream::chunk_report& r = out.report.chunks[c];
    if (!r.computed) r.level = sink.levels[c];
  }
  if (meanwhile) sum_up_parts(out.report, chunks);
  return out;
}

}  // namespace

stream_result stream_prefix(model& net, prefix_cache& prefixes, store& from, std::span<const std::int32_t> ids,
                            sequence& seq, const machine_costs& measured, const stream_options& options) {
  return stream(net, prefixes, from, ids, seq, measured, options, nullptr);
}

stream_result stream_layers(model& net, prefix_cache& prefixes, store& from, std::span<const std::int32_t> ids,
                            sequence& seq, const machine_costs& measured, const stream_options& options,
                            const std::function<void(const std::function<void(int layer)>& wait_for)>& meanwhile) {
  return stream(net, prefixes, from, ids, seq, measured, options, &meanwhile);
}

stream_result stream_draft(model& net, prefix_cache& prefixes, store& from, std::span<const std::int32_t> ids,
                           sequence& seq, sequence& coarse, const machine_costs& measured,
                           const stream_options& options, int draft_level,
                           const std::function<void(const std::function<bool()>& there)>& meanwhile) {
  const drafting draft{&coarse, draft_level, &meanwhile};
  return stream(net, prefixes, from, ids, seq, measured, options, nullptr, &draft);
}

}  // namespace engine
