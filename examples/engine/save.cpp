// SPDX-License-Identifier: Apache-2.0
#include "chat.hpp"
#include "prefix_cache.hpp"
#include "session.hpp"

#include <store_url.hpp>

#include <Eigen/Dense>

#include <cstdio>
#include <string>
#include <vector>

namespace engine {

namespace {

// Seconds a token, and more for every token before it: a line through the batches of a prefill.
struct batch_times {
  std::vector<int> position;
  std::vector<double> begin;

  std::pair<double, double> fit(int tokens, double end) const {
    const auto n = Eigen::Index(position.size());
    Eigen::MatrixXd a(n, 2);
    Eigen::VectorXd seconds(n);
    for (Eigen::Index i = 0; i < n; ++i) {
      const auto k = std::size_t(i);
      const int next = i + 1 < n ? position[k + 1] : tokens, count = next - position[k];
      a.row(i) << count, count * (position[k] + count / 2.0);
      seconds(i) = (i + 1 < n ? begin[k + 1] : end) - begin[k];
    }
    const Eigen::VectorXd x = n > 1 ? Eigen::VectorXd(a.colPivHouseholderQr().solve(seconds)) : Eigen::VectorXd();
    if (n < 2 || x(0) <= 0 || x(1) < 0) return {end / tokens, 0.0};
    return {x(0), x(1)};
  }
};

int save(const arguments& args, store& kept) {
  const std::string path = args.operand("MODEL"), text = read_text(args.required("--prompt-file"));
  const int levels = int(args.integer("--levels", sluice::max_passes, 1, sluice::max_passes));

  session s(args, path);
  prefix_cache prefixes(s.net, load_profile(args, path, s.net), kept, s.threads);
  const std::vector<std::int32_t> ids = document_of(args, s.text, text);
  page_pool pages(s.net.config(), kv_type(args), 2 * page_pool::pages_for(int(ids.size())));
  sequence seq(pages), back(pages);
  progress bar("prefill");
  batch_times times;
  stopwatch clock;
  double elapsed = 0;
  forward_options prefill = with_progress(bar, s.net, ids.size());
  prefill.on_hidden = [&, draw = prefill.on_hidden](int layer, int position, std::span<const float> x) {
    draw(layer, position, x);
    if (layer != 0) return;
    times.position.push_back(position);
    times.begin.push_back(elapsed += clock.seconds());
  };
  s.net.forward(ids, seq, prefill);
  const double prefill_seconds = elapsed + clock.seconds();
  const save_report r = prefixes.save(ids, seq, levels, args.has("--exact-copies"));

  // What was written is read back once: whoever resumes finds it sound, and knows what decoding costs.
  const restore_report read = prefixes.restore(ids, back, sluice::max_passes);
  if (read.tokens != int(ids.size()) || !read.missing.empty())
    throw data_error("what was stored does not read back" +
                     (read.missing.empty() ? std::string() : std::string(": ") + to_string(read.missing[0].why)));
  const auto [per_token, per_token_position] = times.fit(int(ids.size()), prefill_seconds);
  const double values = double(r.raw_bytes) / double(size_of(pages.type()));
  const std::string note = json{{"tokens", ids.size()},
                                {"prefill_seconds", prefill_seconds},
                                {"seconds_per_token", per_token},
                                {"seconds_per_token_position", per_token_position},
                                {"decode_seconds_per_value", read.decode_seconds * s.threads.size() / values}}
                               .dump();
  const sluice::status noted = kept.put(prefixes.name_of(ids) + ".json", std::as_bytes(std::span(note)));
  if (noted != sluice::status::ok) throw data_error(std::string("the store: ") + to_string(noted));

  const double ratio = double(r.raw_bytes) / double(r.bytes);
  if (args.has("--json")) {
    std::puts(json{{"model", path},
                   {"tokens", ids.size()},
                   {"chunks", r.chunks},
                   {"chunks_already_there", r.already_there},
                   {"bytes", r.bytes},
                   {"exact_bytes", r.exact_bytes},
                   {"raw_bytes", r.raw_bytes},
                   {"ratio", ratio},
                   {"prefill_seconds", prefill_seconds},
                   {"encode_seconds", r.encode_seconds},
                   {"write_seconds", r.write_seconds}}
                  .dump(2)
                  .c_str());
  } else {
    std::printf("%zu tokens: prefill %.3f s, encoding %.3f s, writing %.3f s\n", ids.size(), prefill_seconds,
                r.encode_seconds, r.write_seconds);
    std::printf("%d chunks (%d were there), %.2f MB for %.2f MB of pages: %.2f times smaller, all levels\n", r.chunks,
                r.already_there, double(r.bytes) / 1e6, double(r.raw_bytes) / 1e6, ratio);
  }
  return 0;
}

}  // namespace

int save_command(int argc, char** argv) {
  const arguments args = parse_arguments(
      argc, argv, {"--prompt-file", "--store", "--profile", "--levels", "--max-tokens"}, {"--exact-copies"});
  return with_store(args.required("--store"), [&](auto& source) {
    if constexpr (requires { source.create(); })
      if (const sluice::status made = source.create(); made != sluice::status::ok)
        throw data_error(args.text("--store") + ": " + to_string(made));
    store_of kept(source);
    return save(args, kept);
  });
}

}  // namespace engine
