// SPDX-License-Identifier: Apache-2.0
#include <resume.hpp>
#include <svg.hpp>

#include <nlohmann/json.hpp>

#include <sys/wait.h>
#include <cstdio>
#include <filesystem>
#include <stdexcept>

namespace {

using json = nlohmann::ordered_json;
using svg::escape;
using svg::format;

constexpr int max_tokens = 2048;

std::string quoted(const std::string& word) {
  std::string s = "'";
  for (const char c : word) s += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return s + "'";
}

json run(const std::vector<std::string>& words) {
  std::string command, out;
  for (const std::string& w : words) command += quoted(w) + " ";
  std::FILE* pipe = ::popen(command.c_str(), "r");
  if (!pipe) throw std::runtime_error("cannot run " + words[0]);
  char buffer[4096];
  for (std::size_t n; (n = std::fread(buffer, 1, sizeof buffer, pipe)) > 0;) out.append(buffer, n);
  const int rc = ::pclose(pipe);
  if (!WIFEXITED(rc) || WEXITSTATUS(rc) != 0) throw std::runtime_error(words[0] + " " + words[1] + " failed");
  return json::parse(out);
}

std::string shortened(const std::string& s, std::size_t most) {
  if (s.size() <= most) return s;
  while (most > 0 && (static_cast<unsigned char>(s[most]) & 0xc0) == 0x80) --most;  // between characters
  return s.substr(0, most) + "...";
}

}  // namespace

std::string first_sentence(const std::string& text) {
  const std::size_t begin = text.find_first_not_of(" \n");
  if (begin == text.npos) return {};
  std::size_t end = text.find('\n', begin);
  for (const char* stop : {". ", "? ", "! "})
    if (const std::size_t at = text.find(stop, begin); at != text.npos) end = std::min(end, at + 1);
  return text.substr(begin, end == text.npos ? end : end - begin);
}

conversation converse(const engine_call& call) {
  conversation c;
  c.document = std::filesystem::path(call.document).filename().string();
  c.question = "What does this text describe?";
  std::filesystem::remove_all(call.store);
  const std::vector<std::string> common = {call.model,  "--prompt-file", call.document,
                                           "--profile", call.profile,    "--store",
                                           call.store,  "--max-tokens",  std::to_string(max_tokens),
                                           "--json"};
  const auto with = [&](const char* command, std::vector<std::string> more) {
    std::vector<std::string> words = {call.engine, command};
    words.insert(words.end(), common.begin(), common.end());
    words.insert(words.end(), more.begin(), more.end());
    return run(words);
  };
  const json saved = with("save", {});
  c.tokens = saved["tokens"];
  c.chunks = saved["chunks"];
  c.raw_bytes = saved["raw_bytes"];
  c.prefill_seconds = saved["prefill_seconds"];
  c.encode_seconds = saved["encode_seconds"];
  for (int level = 3; level >= 0; --level) {
    const json r =
        with("resume", {"--level", std::to_string(level), "--question", c.question, "--compare", "--tokens", "48"});
    const json& exact = r["compare"];
    c.question_tokens = r["question_tokens"];
    c.exact_answer = exact["answer"];
    c.levels.push_back({level, r["bytes"], r["ratio"], r["first_token_seconds"], exact["first_token_seconds"],
                        exact["kl"], exact["top1"], exact["judged_tokens"], r["answer"]});
  }
  return c;
}

void print(const conversation& c) {
  if (c.levels.empty()) return;
  std::printf("\nA CONVERSATION, PUT DOWN AND TAKEN UP AGAIN\n");
  std::printf("%d tokens of %s read once (%.2f s) and saved; then, in a new process for each level, the question\n",
              c.tokens, c.document.c_str(), c.prefill_seconds);
  std::printf("\"%s\". KL and top-1: against the exact cache, on %d tokens.\n\n", c.question.c_str(),
              c.levels.front().judged_tokens);
  std::printf("            bytes  smaller  first token  full prefill   sooner       KL   top-1  answer begins\n");
  for (const resumed& r : c.levels)
    std::printf("level %d  %8zu %7.2fx %9.0f ms %10.0f ms %7.1fx %8.4f %6.1f %%  %s\n", r.level, r.bytes, r.ratio,
                1e3 * r.first_token_seconds, 1e3 * r.prefill_seconds, r.prefill_seconds / r.first_token_seconds, r.kl,
                100 * r.top1, shortened(first_sentence(r.answer), 60).c_str());
  std::printf("exact    %8zu                                                              %s\n", c.raw_bytes,
              shortened(first_sentence(c.exact_answer), 60).c_str());
}

std::string conversation_section(const conversation& c) {
  if (c.levels.empty()) return {};
  std::string h = format(
      "<h2>A conversation, put down and taken up again</h2>\n<p>An engine read %d tokens of <code>%s</code> once, "
      "which "
      "took %.2f s, and saved its cache in %d chunks. For each level a new process fetched them, decoded them into "
      "fresh "
      "pages, computed only the %d tokens of the question “%s”, and answered.</p>\n",
      c.tokens, escape(c.document).c_str(), c.prefill_seconds, c.chunks, c.question_tokens, escape(c.question).c_str());

  // First token: one bar each, and the full prefill behind them.
  constexpr double width = 860, left = 92, right = width - 120, row = 30;
  double longest = 0;
  for (const resumed& r : c.levels) longest = std::max({longest, r.prefill_seconds, r.first_token_seconds});
  const svg::scale x{0, longest, left, right};
  const double height = 20 + row * double(c.levels.size() + 1) + 10;
  svg::canvas plot(width, height, "Time to the first token of the answer: full prefill against each level");
  const auto bar = [&](double y, const std::string& name, double seconds, const std::string& css) {
    plot.text(left - 10, y + 15, name, "end", "name");
    plot.rect(left, y, x(seconds) - left, row - 10, "fill " + css);
    plot.text(x(seconds) + 8, y + 15, format("%.0f ms", 1e3 * seconds), "start", "label");
  };
  double sum = 0;
  for (const resumed& r : c.levels) sum += r.prefill_seconds;
  bar(14, "compute", sum / double(c.levels.size()), "raw");
  for (std::size_t i = 0; i < c.levels.size(); ++i)
    bar(14 + row * double(i + 1), format("level %d", c.levels[i].level), c.levels[i].first_token_seconds,
        format("l%d", std::min(c.levels[i].level, 3)));
  h += "<figure>" + plot.str() + "</figure>\n";

  h += "<div class=\"scroll\"><table><tr><th></th><th>bytes</th><th>times<br>smaller</th><th>first<br>token, ms</th>"
       "<th>times<br>sooner</th><th>KL,<br>nats</th><th>top-1</th><th class=\"what\">the answer begins</th></tr>\n";
  for (const resumed& r : c.levels)
    h += format(
             "<tr class=\"level\"><td>level %d</td><td>%zu</td><td>%.2f</td><td>%.0f</td><td>%.1f</td><td>%.4f</td>"
             "<td>%.1f %%</td>",
             r.level, r.bytes, r.ratio, 1e3 * r.first_token_seconds, r.prefill_seconds / r.first_token_seconds, r.kl,
             100 * r.top1) +
         "<td class=\"what\" style=\"white-space:normal\">" + escape(first_sentence(r.answer)) + "</td></tr>\n";
  h += format("<tr><td>exact</td><td>%zu</td><td>1</td><td>%.0f</td><td>1</td><td>0</td><td>100 %%</td>", c.raw_bytes,
              1e3 * sum / double(c.levels.size())) +
       "<td class=\"what\" style=\"white-space:normal\">" + escape(first_sentence(c.exact_answer)) +
       "</td></tr></table></div>\n";
  return h + format(
                 "<p class=\"note\">All cores; the model is in memory on both sides. KL and top-1 compare the "
                 "predictions of "
                 "the restored cache with those of the exact one, over the question and the exact answer (%d "
                 "tokens).</p>\n",
                 c.levels.front().judged_tokens);
}
