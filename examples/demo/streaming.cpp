// SPDX-License-Identifier: Apache-2.0
#include <streaming.hpp>
#include <svg.hpp>

#include <sluice/stream/plan/by_name.hpp>
#include <sluice/stream/store/chunk.hpp>
#include <sluice/stream/study/simulator.hpp>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>
#include <stdexcept>

namespace {

using svg::escape;
using svg::format;

constexpr int chunks = 16;
constexpr double deadline = 1.5;
constexpr double usual_tokens_per_second = 1500;  // of SmolLM2 on two cores, where this run measured nothing
constexpr const char* shown[] = {"always_raw", "always_recompute", "cachegen", "cake", "progressive_cake"};
constexpr const char* names[] = {"raw", "recompute", "cachegen", "cake", "progressive_cake"};

sluice::stream::link_trace read_trace(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  const auto trace = sluice::stream::parse_link_trace(text);
  if (!in || !trace) throw std::runtime_error(path + ": no link trace");
  return *trace;
}

sluice::stream::cost_model cost_of(const facts& f, double seconds_per_token) {
  sluice::stream::context_loss loss{{}, double(chunks) * f.tokens};
  std::vector<std::uint64_t> bytes;
  for (int l = 0; l < f.levels; ++l) {
    loss.nats.push_back(f.level(l).expected_kl);
    bytes.push_back(f.level(l).bytes);
  }
  std::vector<sluice::stream::chunk_cost> all;
  for (int i = 0; i < chunks; ++i)
    all.push_back(sluice::stream::chunk_of(std::int64_t(i) * f.tokens, f.tokens, std::uint64_t(f.values()), bytes,
                                           f.raw_bytes, loss));
  const auto seconds_per_value = [&](const codec_row& r) { return 2 / r.decode_rate; };  // rates are of f16
  return sluice::stream::cost_model::make(std::move(all),
                                          {.recompute_seconds_per_token = seconds_per_token,
                                           .decode_seconds_per_value = seconds_per_value(f.level(f.chosen_level())),
                                           .exact_decode_seconds_per_value = seconds_per_value(f.raw())},
                                          f.levels)
      .value();
}

}  // namespace

streaming stream(const facts& f, const conversation& c, const std::string& trace) {
  streaming out;
  out.chunks = chunks;
  out.tokens = chunks * f.tokens;
  out.raw_bytes = chunks * f.raw_bytes;
  out.deadline = deadline;
  out.measured = c.prefill_seconds > 0;
  out.tokens_per_second = out.measured ? c.tokens / c.prefill_seconds : usual_tokens_per_second;
  const sluice::stream::cost_model cost = cost_of(f, 1 / out.tokens_per_second);

  using sluice::stream::link_trace;
  const std::pair<const char*, link_trace> links[] = {
      {"4G in a tram (recorded)", read_trace(trace)},
      {"1 Gbit/s, a tenth of it from 0.2 s on", link_trace::make({{0.2, 125e6, 0.002}, {59.8, 12.5e6, 0.002}}).value()},
      {"10 Gbit/s", link_trace::constant(1.25e9, 0.0005)}};
  for (const auto& [name, link] : links) {
    streamed_link& to = out.links.emplace_back();
    to.name = name;
    for (std::size_t i = 0; i < std::size(shown); ++i)
      sluice::stream::with_policy(shown[i], [&](auto policy) {
        const sluice::stream::simulated_request request{0, deadline, &cost};
        const auto result = sluice::stream::simulate({&request, 1}, link, policy, {.keep_steps = true});
        const sluice::stream::outcome& o = result.value().front();
        streamed& s = to.policies.emplace_back();
        s.policy = names[i];
        s.seconds = o.seconds;
        s.loss = o.loss;
        s.met = o.met;
        s.bytes = o.bytes;
        s.computed_tokens = int(o.recomputed_tokens);
        for (const sluice::stream::activity& a : o.activities)
          s.timeline.push_back(
              {a.begin_seconds, a.end_seconds, a.what.level, a.what.what != sluice::stream::action::fetch});
      });
  }
  return out;
}

void print(const streaming& s) {
  std::printf("\nOVER A LINK, BY PLAN (simulated)\n");
  std::printf(
      "%d tokens in %d chunks like the sample, %.0f MB of f16, wanted within %.1f s; computing them takes %.1f s%s\n\n",
      s.tokens, s.chunks, double(s.raw_bytes) / 1e6, s.deadline, s.tokens / s.tokens_per_second,
      s.measured ? "" : " (assumed)");
  for (const streamed_link& l : s.links) {
    std::printf("%s\n", l.name.c_str());
    for (const streamed& p : l.policies)
      std::printf("  %-17s %7.2f s%s  KL %.4f  %6.1f MB  %5d tokens computed\n", p.policy.c_str(), p.seconds,
                  p.met ? "      " : "  late", p.loss, p.bytes / 1e6, p.computed_tokens);
  }
}

std::string streaming_section(const streaming& s) {
  std::string h = format(
      "<h2>Over a link, a plan decides what comes and what is computed</h2>\n<p>A context of %d tokens, %d chunks that "
      "cost "
      "what the sample costs (%.0f MB of f16), wanted within %.1f s. Computing it takes %.1f s (%s). Simulated with "
      "the "
      "planner that a real stream uses. Upper bars: what the link carries; lower bars: what the engine computes. The "
      "dot is "
      "the moment the cache is handed over, the dashed line the deadline.</p>\n",
      s.tokens, s.chunks, double(s.raw_bytes) / 1e6, s.deadline, s.tokens / s.tokens_per_second,
      s.measured ? "prefill speed as measured above" : "prefill speed assumed");
  constexpr double width = 860, left = 130, right = width - 190, lane = 11, row = 2 * lane + 16;
  for (const streamed_link& l : s.links) {
    double longest = 2 * s.deadline;
    for (const streamed& p : l.policies)
      if (std::isfinite(p.seconds)) longest = std::max(longest, std::min(p.seconds, 3 * s.deadline));
    const svg::scale x{0, longest, left, right};
    const double top = 34, bottom = top + row * double(l.policies.size());
    svg::canvas c(width, bottom + 34, "Timeline of five policies on " + l.name);
    c.text(0, 16, l.name, "start", "name");
    for (const double t : svg::ticks(longest, 6)) {
      c.line(x(t), top - 6, x(t), bottom, "grid");
      c.text(x(t), bottom + 18, format("%g s", t), "middle", "tick");
    }
    for (std::size_t i = 0; i < l.policies.size(); ++i) {
      const streamed& p = l.policies[i];
      const double y = top + row * double(i);
      c.text(left - 10, y + lane + 5, p.policy, "end", "label");
      for (const stretch& a : p.timeline) {
        const double from = std::min(a.begin, longest), to = std::min(a.end, longest);
        const std::string css = a.compute ? "fill both" : a.level > 3 ? "fill raw" : format("fill l%d", a.level);
        c.rect(x(from), y + (a.compute ? lane + 1 : 0), x(to) - x(from), lane, css,
               a.compute     ? format("computed, %.2f to %.2f s", a.begin, a.end)
               : a.level > 3 ? format("raw, %.2f to %.2f s", a.begin, a.end)
                             : format("level %d, %.2f to %.2f s", a.level, a.begin, a.end));
      }
      if (p.seconds <= longest) c.circle(x(p.seconds), y + lane, 5, p.met ? "dot exact" : "dot over");
      c.text(right + 12, y + lane + 5, format("%.2f s%s, KL %.4f", p.seconds, p.met ? "" : " (late)", p.loss), "start",
             "label");
    }
    c.line(x(s.deadline), top - 10, x(s.deadline), bottom, "deadline");
    h += "<figure>" + c.str() + "</figure>\n";
  }
  return h +
         "<p class=\"note\">Blues, light to dark: levels 0 to 3; grey above: raw; grey below: computed by the engine. "
         "KL: what "
         "calibration expects, in nats; tokens that are computed or raw lose nothing.</p>\n";
}
