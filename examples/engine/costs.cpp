// SPDX-License-Identifier: Apache-2.0
#include "costs.hpp"

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>

namespace engine {

machine_costs batch_times::fit(int tokens, double end) const {
  // Least squares of seconds = x * tokens + y * (tokens * their mean position).
  const std::size_t n = position_.size();
  double aa = 0, ab = 0, bb = 0, as = 0, bs = 0;
  for (std::size_t i = 0; i < n; ++i) {
    const int next = i + 1 < n ? position_[i + 1] : tokens, count = next - position_[i];
    const double a = count, b = count * (position_[i] + count / 2.0);
    const double seconds = (i + 1 < n ? begin_[i + 1] : end) - begin_[i];
    aa += a * a, ab += a * b, bb += b * b, as += a * seconds, bs += b * seconds;
  }
  const double determinant = aa * bb - ab * ab;
  if (!(determinant > 1e-9 * aa * bb)) return {end / tokens, 0, 0};
  const double x = (bb * as - ab * bs) / determinant, y = (aa * bs - ab * as) / determinant;
  if (x <= 0 || y < 0) return {end / tokens, 0, 0};
  return {x, y, 0};
}

machine_costs measure_costs(model& net, prefix_cache& prefixes, page_pool& pages, std::span<const std::int32_t> ids,
                            page_pool* hidden_pages) {
  const int tokens = int(ids.size()), n = std::min(tokens, std::clamp(tokens / 16, 16, 64));
  sequence scratch(pages);
  if (n == 0 || scratch.grow(tokens) != sluice::status::ok) return {};
  const auto seconds = [&](int position) {
    const auto begin = std::chrono::steady_clock::now();
    net.forward(ids.first(std::size_t(n)), scratch, {.position = position});
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  };
  (void)seconds(0);  // weights come into memory
  const double first = seconds(0), last = tokens > 2 * n ? seconds(tokens - n) : first;
  machine_costs c;
  if (tokens > 2 * n) c.seconds_per_token_position = std::max(0.0, (last - first) / n / (tokens - n));
  c.seconds_per_token = first / n;
  if (!hidden_pages) {
    c.decode_seconds_per_value = prefixes.measure_decoding(scratch, n);
    return c;
  }
  sequence hidden(*hidden_pages);
  net.forward(ids.first(std::size_t(n)), scratch, {.on_hidden = keep_hidden(net, hidden), .position = 0});
  c.decode_seconds_per_value = prefixes.measure_decoding(hidden, n);
  c.project_seconds_per_token = measure_projecting(net, hidden, n, scratch);
  return c;
}

double measure_projecting(model& net, const sequence& hidden, int tokens, sequence& seq) {
  const auto begin = std::chrono::steady_clock::now();
  project(net, hidden, 0, tokens, seq);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() / tokens;
}

std::string write_note(const std::string& name, std::size_t tokens, double prefill_seconds, const machine_costs& c) {
  return nlohmann::ordered_json{{"of", name},
                                {"tokens", tokens},
                                {"prefill_seconds", prefill_seconds},
                                {"seconds_per_token", c.seconds_per_token},
                                {"seconds_per_token_position", c.seconds_per_token_position},
                                {"decode_seconds_per_value", c.decode_seconds_per_value},
                                {"project_seconds_per_token", c.project_seconds_per_token}}
      .dump();
}

std::optional<note> read_note(std::span<const std::byte> bytes, const std::string& name) {
  const char* text = reinterpret_cast<const char*>(bytes.data());
  const auto saved = nlohmann::ordered_json::parse(text, text + bytes.size(), nullptr, false);
  if (!saved.is_object() || !saved.contains("of") || saved["of"] != name) return {};
  const auto number = [&](const char* key, double otherwise = -1) {
    const auto value = saved.find(key);
    return value != saved.end() && value->is_number() ? value->get<double>() : otherwise;
  };
  const note n{number("prefill_seconds"),
               {number("seconds_per_token"), number("seconds_per_token_position"), number("decode_seconds_per_value"),
                number("project_seconds_per_token", 0)}};
  const auto sane = [](double x, double low) { return x >= low && x < 1e6; };
  const machine_costs& c = n.costs;
  if (!sane(n.prefill_seconds, 0) || !sane(c.seconds_per_token, 1e-12) || !sane(c.seconds_per_token_position, 0) ||
      !sane(c.decode_seconds_per_value, 0) || !sane(c.project_seconds_per_token, 0))
    return {};
  return n;
}

}  // namespace engine
