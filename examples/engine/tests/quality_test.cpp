// SPDX-License-Identifier: Apache-2.0
#include "../quality.hpp"
#include "../calibration.hpp"
#include "../kept.hpp"
#include "../needles.hpp"
#include "../observe.hpp"
#include "../windows.hpp"
#include "real_model.hpp"
#include "tiny_model.hpp"

#include <doctest/doctest.h>

#include <sys/wait.h>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

using namespace engine;

namespace {

// Words of a few letters, so that a random model's cache is not noise alone.
std::string make_text(int words, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::string text;
  for (int i = 0; i < words; ++i) {
    for (std::uint64_t n = 1 + random() % 5; n > 0; --n) text += char('a' + std::min(random() % 26, random() % 26));
    text += random() % 8 == 0 ? ". " : " ";
  }
  return text;
}

struct fixture {
  static constexpr int context = 160, suffix = 40, continued = 20;

  explicit fixture(const tiny::recipe& r) : file(tiny::make_gguf(r)) {}

  std::vector<std::vector<std::int32_t>> windows(int count, int tokens, std::uint64_t seed) const {
    return text_windows(text, "text", make_text(count * tokens, seed)).spread(count, tokens);
  }
  calibrated self(bool measured, double target_kl = 0.01) {
    return calibrate(net, windows(4, context + suffix, 1),
                     {.context = context, .target_kl = target_kl, .sensitivity_windows = measured ? 1 : 0});
  }
  // On the windows that self() calibrates on.
  suffix_quality judge_calibrated(const sluice::profile& p) {
    page_pool pages(net.config(), sluice::dtype::f16, 2 * page_pool::pages_for(context + suffix));
    coded_cache coded(p, "balanced");
    suffix_quality sum;
    for (const auto& ids : windows(4, context + suffix, 1)) {
      sequence seq(pages);
      net.forward(std::span(ids).first(context), seq);
      const matrix exact = predict(net, std::span(ids).subspan(context, suffix - 1), seq);
      seq.truncate(context);
      sum.add(judge_window(net, ids, seq, exact, {}, {}, {}, -1, coded));
    }
    return sum;
  }
  suffix_quality judge(const sluice::profile& p, const char* codec, int level = -1, int count = 2,
                       bool observe = false) {
    page_pool pages(net.config(), sluice::dtype::f16, 2 * page_pool::pages_for(context + suffix));
    coded_cache coded(p, codec);
    suffix_quality sum;
    kept_contexts computed(net, threads, "");
    for (const auto& ids : windows(count, context + suffix + 1, 2)) {
      sequence seq(pages);
      const computed_context exact = computed.run(ids, context, seq);
      const auto attention = observe ? std::span<const float>(exact.attention) : std::span<const float>();
      const auto greedy = continue_greedily(net, seq, ids[context], continued);
      sum.add(judge_window(net, ids, seq, exact.predicted, attention, {}, greedy, level, coded));
    }
    CHECK(pages.free_pages() == pages.pages());
    CHECK(sum.predicted == std::size_t(count * suffix));
    return sum;
  }

  tiny::temporary_file file;
  thread_pool threads{2};
  model net{file.path(), arithmetic::exact, threads};
  tokenizer text{net.directory()};
};

const tiny::recipe recipes[] = {
    {.arch = "llama", .layers = 3, .seed = 1},
    {.arch = "qwen2", .layers = 2, .own_head = true, .seed = 2},
    {.arch = "gemma3", .layers = 7, .heads = 3, .kv_heads = 1, .head_dim = 32, .window = 48, .seed = 3},
};

struct temporary_folder {
  temporary_folder() : path(::mkdtemp(name)) {}
  ~temporary_folder() { std::filesystem::remove_all(path); }
  char name[32] = "/tmp/sluice-engine-XXXXXX";
  std::string path;
};

// What a command says when it fails, with its exit code in front.
// What the command says on stderr, behind its exit code.
std::string complaint(const std::string& command, const std::vector<std::string>& words) {
  const tiny::temporary_file said("");
  std::string line = "'" SLUICE_ENGINE "' " + command;
  for (const std::string& w : words) line += " '" + w + "'";
  const int rc = std::system((line + " >/dev/null 2>'" + said.path() + "' </dev/null").c_str());
  const int code = WIFEXITED(rc) ? WEXITSTATUS(rc) : -1;
  if (code == 0) return "returned 0";
  std::ifstream in(said.path());
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  return std::to_string(code) + ": " + text.substr(text.starts_with("engine: ") ? 8 : 0);
}

bool has(const std::string& text, const std::string& part) { return text.find(part) != text.npos; }

}  // namespace

TEST_CASE("a model calibrated on itself loses less at every level, and nothing with the exact codec") {
  for (const tiny::recipe& r : recipes) {
    CAPTURE(r.arch);
    fixture f(r);
    const calibrated made = f.self(true);
    CHECK(made.profile.calibrated());
    CHECK(made.profile.shape == kv_shape(f.net.config()));
    for (const auto* s : {&made.measured.k, &made.measured.v}) {
      CHECK(int(s->size()) == r.layers);
      for (const double x : *s) CHECK(x > 0);
    }
    const suffix_quality q = f.judge(made.profile, "standard");
    REQUIRE(q.levels.size() == 4);
    for (std::size_t j = 0; j < 4; ++j) CHECK(q.levels[j].level == int(3 - j));  // from fine to coarse
    for (std::size_t j = 0; j < 3; ++j) {
      CHECK(q.levels[j].distance.kl() < q.levels[j + 1].distance.kl() / 3);
      CHECK(q.levels[j].bytes > q.levels[j + 1].bytes);
    }
    CHECK(q.levels[2].distance.kl() < 0.04);  // asked for: 0.01
    CHECK(q.levels[2].distance.kl() > 0.001);

    for (const char* lossless : {"exact", "raw"}) {
      const suffix_quality e = f.judge(made.profile, lossless);
      REQUIRE(e.levels.size() == 1);
      CHECK(e.levels[0].distance.kl() == 0);
      CHECK(e.levels[0].distance.top1() == 1);
      CHECK(e.levels[0].nll == e.nll);
      CHECK(e.levels[0].continued.equal == e.continued);
      CHECK(e.levels[0].continued.prefix == e.continued);
    }
    const suffix_quality guessed = f.judge(made.profile, "balanced", 1),
                         seen = f.judge(made.profile, "balanced", 1, 2, true);
    CHECK(guessed.levels[0].distance.kl() < 0.04);
    CHECK(seen.levels[0].distance.kl() < 0.04);
    CHECK(seen.levels[0].bytes != guessed.levels[0].bytes);
    CHECK(f.judge(made.profile, "plain8").levels[0].distance.kl() < 1e-3);
    const suffix_quality one = f.judge(made.profile, "standard", 1);
    REQUIRE(one.levels.size() == 1);
    CHECK(one.levels[0].bytes == q.levels[2].bytes);
    CHECK(one.levels[0].distance.kl() == q.levels[2].distance.kl());
  }
}

TEST_CASE("sections that presets want are learnt with a profile or added to one, which stays as it is") {
  fixture f(recipes[0]);
  const auto windows = f.windows(3, fixture::context, 1);
  self_calibration how{.context = fixture::context, .sensitivity_windows = 0};
  sluice::profile bare = calibrate(f.net, windows, how).profile;
  CHECK_THROWS_AS(f.judge(bare, "kvtc16"), std::runtime_error);
  how.presets = {"kvtc16", "kvquant4", "aatc3", "cachegen_paper"};
  const sluice::profile with = calibrate(f.net, windows, how).profile;
  const std::uint64_t before = bare.fingerprint();
  add_sections(f.net, windows, how, bare);
  CHECK(bare.fingerprint() == before);
  CHECK(bare.serialize() == with.serialize());
  for (const std::string& codec : how.presets) {
    CAPTURE(codec);
    CHECK(f.judge(bare, codec.c_str()).levels.at(0).distance.kl() < 1);
  }
  how.presets = {"kvtc17"};
  CHECK_THROWS_AS(add_sections(f.net, windows, how, bare), std::runtime_error);
}

TEST_CASE("the error of attention falls with that of the cache, and is none where there is none") {
  fixture f(recipes[0]);
  const auto ids = f.windows(1, fixture::context + fixture::suffix, 5).front();
  page_pool pages(f.net.config(), sluice::dtype::f16, 2 * page_pool::pages_for(fixture::context + fixture::suffix));
  sequence context(pages);
  f.net.forward(std::span(ids).first(fixture::context), context);
  const attention_probe probe(f.net, std::span(ids).subspan(fixture::context), context);
  CHECK(context.tokens() == fixture::context);
  const sluice::profile p = sluice::profile::uncalibrated(kv_shape(f.net.config()));
  double last = 0;
  for (const char* codec : {"exact", "int4"}) {  // heads of 16 take int8 no fewer bytes than f16
    CAPTURE(codec);
    coded_cache coded(p, codec, 100);  // frames of any length
    coded.encode(context.view(), std::span(ids).first(fixture::context));
    sequence decoded(pages);
    coded.decode(decoded);
    const double error = probe.of(decoded).relative();
    CHECK(decoded.tokens() == fixture::context);
    if (std::string(codec) == "exact")
      CHECK(error < 1e-6);
    else
      CHECK(error > 5 * last + 1e-4);
    CHECK(error < 0.5);
    last = error;
  }
}

TEST_CASE("calibration leaves no balance of K and V that takes fewer bytes on what it looked at") {
  fixture f(recipes[0]);
  const sluice::profile found = f.self(true).profile;
  const auto weights = sluice::detail::token_weight_model::of(found);
  REQUIRE(weights);
  // Bytes where level 1 loses 0.01: log nats are linear between levels 2 and 0.
  const auto bytes = [&](const sluice::profile& p) {
    const suffix_quality q = f.judge_calibrated(p);
    REQUIRE(q.levels.size() == 4);
    const auto &fine = q.levels[1], &level = q.levels[2], &coarse = q.levels[3];
    return double(level.bytes) + (double(fine.bytes) - double(coarse.bytes)) * std::log(level.distance.kl() / 0.01) /
                                     std::log(coarse.distance.kl() / fine.distance.kl());
  };
  const double least = bytes(found);
  for (const int by : {-12, 12}) {
    CAPTURE(by);
    sluice::detail::token_weight_model moved = *weights;
    for (sluice::detail::layer_weights& l : moved.layers) {
      l.offset[0] = std::int8_t(l.offset[0] + by);
      l.offset[1] = std::int8_t(l.offset[1] - by);
    }
    sluice::profile other = found;
    moved.put_into(other);
    CHECK(bytes(other) > 1.02 * least);
  }
}

TEST_CASE("the target decides how much level 1 loses, with sensitivities and without") {
  fixture f(recipes[0]);
  for (const bool measured : {true, false}) {
    const calibrated fine = f.self(measured, 0.002), coarse = f.self(measured, 0.05);
    CHECK(fine.measured.k.empty() == !measured);
    const suffix_quality a = f.judge(fine.profile, "standard", 1), b = f.judge(coarse.profile, "standard", 1);
    // Prices of the fallback are those of trained models, and this one is random: only the direction is right.
    CHECK(a.levels[0].distance.kl() < b.levels[0].distance.kl() / (measured ? 3 : 1));
    CHECK(a.levels[0].bytes > b.levels[0].bytes);
  }
  const suffix_quality none = f.judge(sluice::profile::uncalibrated(kv_shape(f.net.config())), "standard");
  CHECK(none.levels[0].distance.kl() < none.levels[3].distance.kl());
}

TEST_CASE("steps of a document follow what is measured on it") {
  fixture f(recipes[0]);
  const calibrated made = f.self(true);
  const auto ids = f.windows(1, fixture::context + fixture::suffix + 1, 5)[0];
  page_pool pages(f.net.config(), sluice::dtype::f16, 2 * page_pool::pages_for(fixture::context + fixture::suffix));
  sequence seq(pages);
  const matrix exact = kept_contexts(f.net, f.threads, "").run(ids, fixture::context, seq).predicted;
  const int free = pages.free_pages();
  document_probe probe(f.net, std::span(ids).first(fixture::context), seq);
  coded_cache balanced(made.profile, "balanced"), standard(made.profile, "standard");
  CHECK(probe.steps(standard, 0.010).told().empty());

  double coarser = -100, kl = 0;
  for (const double target : {0.006, 0.010, 0.016}) {
    CAPTURE(target);
    const sluice::document_steps steps = probe.steps(balanced, target);
    CHECK(double(steps.coarser) > coarser);
    coarser = double(steps.coarser);
    CHECK(steps.loss[1] == doctest::Approx(target).epsilon(1e-3));
    const suffix_quality q = judge_window(f.net, ids, seq, exact, {}, steps, {}, 1, balanced);
    CHECK(q.levels[0].expected / double(q.predicted) == doctest::Approx(target).epsilon(0.05));
    CHECK(q.levels[0].distance.kl() > kl);
    kl = q.levels[0].distance.kl();
  }
  CHECK(pages.free_pages() == free);
  CHECK(seq.tokens() == fixture::context);

  seq.truncate(48);  // too short to say anything
  CHECK(document_probe(f.net, std::span(ids).first(48), seq).steps(balanced, 0.010).told().empty());
}

TEST_CASE("measuring sensitivities leaves the cache as it was and does not depend on how the pages lie") {
  fixture f(recipes[2]);
  const auto ids = f.windows(1, fixture::context + fixture::suffix, 4)[0];
  const auto context = std::span(ids).first(fixture::context), suffix = std::span(ids).subspan(fixture::context);
  std::vector<matrix> metrics;
  for (int l = 0; l < f.net.config().layers; ++l) metrics.push_back(output_metric(f.net, l));
  sensitivities first;
  for (const int others : {0, 3}) {
    page_pool pages(f.net.config(), sluice::dtype::f16, 40);
    sequence other(pages), seq(pages);
    query_statistics seen(f.net, fixture::context);
    const forward_options options{
        .on_queries = [&](int layer, int position, std::span<const float> q) { seen.add(layer, position, q); }};
    REQUIRE(other.grow(others * page_pool::page_size) == sluice::status::ok);
    f.net.forward(context, seq, options);
    std::vector<std::byte> before;
    const auto rows = [&] {
      std::vector<std::byte> out;
      for (const sluice::plane p : {sluice::plane::key, sluice::plane::value})
        for (int l = 0; l < f.net.config().layers; ++l)
          for (int t = 0; t < seq.tokens(); ++t)
            out.insert(out.end(), seq.at(p, l, t), seq.at(p, l, t) + pages.token_stride());
      return out;
    };
    before = rows();
    int passes = 0;
    const sensitivities s = sensitivity_probe(f.net, seq, seen, metrics).measure(suffix, [&](int) { ++passes; });
    CHECK(passes == 1 + 2 * f.net.config().layers);
    CHECK(seq.tokens() == fixture::context);
    CHECK(rows() == before);
    if (first.k.empty()) first = s;
    CHECK(s.k == first.k);
    CHECK(s.v == first.v);
  }
}

TEST_CASE("observed attention is what a plain softmax gives, and embeddings have the mean square 1") {
  for (const tiny::recipe& r : recipes) {
    CAPTURE(r.arch);
    fixture f(r);
    const model_config& c = f.net.config();
    constexpr int n = 100;
    const auto ids = f.windows(1, n, 6)[0];
    page_pool pages(c, sluice::dtype::f32, page_pool::pages_for(n));
    sequence seq(pages);
    last_queries last(f.net, n);
    std::vector<matrix> all(std::size_t(c.layers));
    f.net.forward(ids, seq, {.on_queries = [&](int layer, int position, std::span<const float> q) {
                    last.add(layer, position, q);
                    all[std::size_t(layer)] = Eigen::Map<const matrix>(q.data(), n, c.heads * c.head_dim);
                  }});
    const std::vector<float> found = observed_attention(c, seq, last, f.threads);
    const int layer = c.layers - 1, d = c.head_dim, window = c.layer_window(layer);
    std::vector<double> sum(n), count(n);
    for (int t = n - last_queries::kept; t < n; ++t)
      for (int h = 0; h < c.heads; ++h) {
        std::vector<float> q(all[std::size_t(layer)].row(t).data() + h * d,
                             all[std::size_t(layer)].row(t).data() + (h + 1) * d);
        f.net.rotate(layer, q.data(), t);
        std::vector<double> p(std::size_t(t + 1));
        double total = 0;
        for (int i = window ? std::max(0, t + 1 - window) : 0; i <= t; ++i) {
          const auto* k =
              reinterpret_cast<const float*>(seq.at(sluice::plane::key, layer, i, h / (c.heads / c.kv_heads)));
          double score = 0;
          for (int j = 0; j < d; ++j) score += double(q[std::size_t(j)] * k[j]);
          total += p[std::size_t(i)] = std::exp(score / std::sqrt(double(d)));
        }
        for (int i = 0; i <= t; ++i)
          sum[std::size_t(i)] += p[std::size_t(i)] * p[std::size_t(i)] / total / total, ++count[std::size_t(i)];
      }
    for (int t = 0; t < n; ++t)
      CHECK(double(found[std::size_t(layer * n + t)]) ==
            doctest::Approx(sum[std::size_t(t)] / count[std::size_t(t)]).epsilon(1e-3));

    std::vector<float> row(std::size_t(c.dim));
    f.net.embedding_row(5, row.data());
    CHECK(Eigen::Map<const Eigen::ArrayXf>(row.data(), c.dim).square().mean() == doctest::Approx(1).epsilon(0.01));
    CHECK_THROWS(f.net.embedding_row(c.vocab, row.data()));
  }
}

TEST_CASE("windows are spread over the text and do not overlap") {
  fixture f(recipes[0]);
  const std::string text = make_text(400, 9);
  const std::vector<std::int32_t> all = f.text.encode(text);
  const text_windows w(f.text, "story", text);
  const auto windows = w.spread(5, 100);
  REQUIRE(windows.size() == 5);
  CHECK(std::equal(windows[0].begin(), windows[0].end(), all.begin()));
  CHECK(std::equal(windows[4].begin(), windows[4].end(), all.end() - 100));
  CHECK(std::equal(windows[1].begin(), windows[1].end(), all.begin() + std::ptrdiff_t((all.size() - 100) / 4)));
  CHECK(w.spread(1, 100, 7)[0][0] == all[7]);
  CHECK(w.spread(1, int(all.size())).size() == 1);
  CHECK_THROWS_WITH(w.spread(2, int(all.size())), doctest::Contains("story"));
  CHECK_THROWS(w.spread(1, 100, all.size() - 99));
  CHECK_THROWS(w.spread(1, 100, all.size() + 5));
}

TEST_CASE("needles lie at their depths, and every level is asked about the same haystack") {
  fixture f(recipes[0]);
  const std::string text = make_text(6000, 5);
  const std::vector<haystack> stacks = make_haystacks(f.text, text, 8, 1024, 11);
  REQUIRE(stacks.size() == 8);
  for (const haystack& h : stacks) {
    CAPTURE(h.tokens);
    const std::size_t at = h.text.find(h.secret);
    REQUIRE(at != h.text.npos);
    CHECK(h.text.find(h.secret, at + 1) == h.text.npos);
    CHECK(std::abs(double(at) / double(h.text.size()) - h.depth) < 0.2);
    CHECK(std::abs(int(f.text.encode(h.text).size()) - h.tokens) < 160);  // a sentence or two
    CHECK_FALSE(has(h.question, h.secret));
  }
  CHECK(stacks[0].tokens == 256);
  CHECK(stacks[7].tokens == 1024);
  CHECK(stacks[0].depth == 0);
  CHECK(stacks[7].depth == 1);
  CHECK(make_haystacks(f.text, text, 8, 1024, 11)[3].text == stacks[3].text);
  CHECK(make_haystacks(f.text, text, 8, 1024, 12)[3].secret != stacks[3].secret);

  model_options options;
  options.model = f.file.path();
  session s(options, arithmetic::exact);
  const sluice::profile p = sluice::profile::uncalibrated(kv_shape(s.net.config()));
  std::vector<coded_cache> coded;
  for (const char* codec : {"standard", "exact"}) coded.emplace_back(p, codec);
  const needle_result n = seek(s, stacks[1], -1, sluice::dtype::f16, coded);
  REQUIRE(n.codecs.size() == 2);
  REQUIRE(n.codecs[0].size() == 4);
  CHECK(n.codecs[0][0].bytes > n.codecs[0][3].bytes);
  REQUIRE(n.codecs[1].size() == 1);
  CHECK(n.codecs[1][0].found == n.exact);
}

TEST_CASE("what is kept of a context is what was computed, and is computed again where it is damaged") {
  fixture f(recipes[0]);
  const temporary_folder folder;
  const auto ids = f.windows(1, fixture::context + fixture::suffix + 1, 5)[0];
  page_pool pages(f.net.config(), sluice::dtype::f16, 4 * page_pool::pages_for(fixture::context + fixture::suffix));
  kept_contexts kept(f.net, f.threads, folder.path);
  sequence first(pages), second(pages), third(pages);
  const computed_context computed = kept.run(ids, fixture::context, first);
  const auto there = [&] { return *std::filesystem::directory_iterator(folder.path); };
  const auto size = there().file_size();
  const computed_context again = kept.run(ids, fixture::context, second);
  CHECK(again.predicted == computed.predicted);
  CHECK(again.attention == computed.attention);
  const auto bytes = [&](const sequence& s) {
    std::vector<std::byte> out;
    for (int t = 0; t < s.tokens(); ++t) {
      const std::byte* row = s.at(sluice::plane::value, 1, t);
      out.insert(out.end(), row, row + pages.token_stride());
    }
    return out;
  };
  CHECK(second.tokens() == fixture::context);
  CHECK(bytes(second) == bytes(first));
  std::fstream(there().path(), std::ios::binary | std::ios::in | std::ios::out).put('x');
  CHECK(kept.run(ids, fixture::context, third).predicted == computed.predicted);
  CHECK(bytes(third) == bytes(first));
  CHECK(there().file_size() == size);
}

TEST_CASE("windows are spread over all texts as far as their lengths allow") {
  fixture f(recipes[0]);
  std::vector<text_windows> texts;
  for (const int words : {400, 30, 400}) texts.emplace_back(f.text, "text", make_text(words, std::uint64_t(words)));
  const int room = texts[1].most(40);
  REQUIRE(room < 6);
  const auto windows = spread_over(texts, 18, 40);
  CHECK(windows.size() == 18);
  for (const auto& w : windows) CHECK(w.size() == 40);
  CHECK(spread_over(texts, 2, 40)[1] == texts[1].spread(1, 40)[0]);
  CHECK_THROWS_AS(spread_over(texts, 10000, 40), failure);
}

TEST_CASE("what is wrong with a call is said in words") {
  fixture f(recipes[0]), other(recipes[1]);
  const std::string& model = f.file.path();
  const tiny::temporary_file text(make_text(1500, 3)), little("a few words"), profile("");
  const std::vector<std::string> sizes = {"--context", "64", "--suffix", "16"};
  const auto with = [&](std::vector<std::string> words) {
    words.insert(words.end(), sizes.begin(), sizes.end());
    return words;
  };
  CHECK(has(complaint("calibrate", with({model, little.path(), "-o", profile.path()})), "1: " + little.path()));
  CHECK(has(complaint("calibrate", with({model, little.path(), "-o", profile.path()})), "windows of 80 need 960"));
  CHECK(has(complaint("calibrate", with({model, text.path(), "-o", "/nowhere/at/all"})), "1: /nowhere/at/all"));
  CHECK(has(complaint("calibrate", {model, text.path(), "--captures", "0"}), "2: --captures"));
  CHECK(has(complaint("calibrate", {text.path(), text.path(), "-o", profile.path()}), "1: "));
  CHECK(has(complaint("quality", with({model, text.path(), "--profile", profile.path()})), "not a sluice profile"));

  CHECK(complaint("calibrate", with({model, "--captures", "3", "-o", profile.path()})) ==
        "returned 0");  // its own text
  CHECK(complaint("calibrate", with({model, text.path(), "--captures", "3", "-o", profile.path()})) == "returned 0");
  CHECK(sluice::profile::load(profile.path().c_str()).has_value());
  const auto added = [&](std::vector<std::string> words) {
    words.insert(words.begin(),
                 {model, text.path(), "--captures", "3", "-o", profile.path(), "--from", profile.path()});
    return complaint("calibrate", with(std::move(words)));
  };
  CHECK(has(added({}), "2: --from"));
  CHECK(has(added({"--for", "kvtc17"}), "2: no codec is called kvtc17"));
  CHECK(added({"--for", "kvtc16,aatc3"}) == "returned 0");
  CHECK(complaint("quality", {model, text.path(), "--profile", profile.path(), "--windows", "1", "--context", "64",
                              "--suffix", "16", "--chunk-tokens", "64", "--codec", "kvtc16"}) == "returned 0");
  const auto judged = [&](std::vector<std::string> words) {
    words.insert(words.begin(), {model, text.path(), "--profile", profile.path()});
    return complaint("quality", with(std::move(words)));
  };
  CHECK(judged({"--windows", "2", "--needles", "2", "--needle-context", "256"}) == "returned 0");
  CHECK(judged({"--windows", "1", "--level", "1", "--json"}) == "returned 0");
  CHECK(judged({text.path(), "--codec", "standard,plain8", "--continuations", "1", "--continuation-tokens", "8"}) ==
        "returned 0");
  CHECK(has(judged({"--codec", "standard,plain9"}), "2: no codec is called plain9"));
  CHECK(has(judged({"--windows", "1000"}), "1: " + text.path()));
  CHECK(has(judged({"--codec", "standart"}), "2: no codec is called standart"));
  CHECK(has(judged({"--level", "5"}), "1: there is no level 5"));
  CHECK(has(judged({"--level", "9"}), "2: --level"));
  CHECK(has(complaint("quality", with({other.file.path(), text.path(), "--profile", profile.path(), "--windows", "1"})),
            "another shape"));
}

TEST_CASE("SmolLM2 with the committed profile: level 1 hardly changes the predictions") {
  const std::string path = real_model("smol.gguf");
  const auto profile = sluice::profile::load(SLUICE_SOURCE_DIR "/test/data/smollm2.profile");
  std::ifstream in(SLUICE_SOURCE_DIR "/test/data/sample.txt", std::ios::binary);
  if (path.empty() || !profile || !in) {
    MESSAGE("skipped: no smol.gguf in SLUICE_MODELS or build/models (cmake -P cmake/models.cmake), or no profile");
    return;
  }
  thread_pool threads(2);
  model net(path, arithmetic::exact, threads);
  const tokenizer text(net.directory());
  const auto ids = text_windows(text, "sample.txt", {std::istreambuf_iterator<char>(in), {}}).spread(1, 449)[0];
  page_pool pages(net.config(), sluice::dtype::f16, 2 * page_pool::pages_for(448));
  coded_cache coded(*profile, "standard");
  sequence context(pages);
  const matrix exact = kept_contexts(net, threads, "").run(ids, 320, context).predicted;
  const suffix_quality q = judge_window(net, ids, context, exact, {}, {}, {}, -1, coded);
  REQUIRE(q.levels.size() == 4);
  CHECK(q.levels[2].distance.kl() < 0.02);
  CHECK(q.levels[2].distance.top1() > 0.9);
  CHECK(8 * double(q.levels[2].bytes) / double(q.elements) < 2.2);
  for (std::size_t j = 0; j < 3; ++j) CHECK(q.levels[j].distance.kl() < q.levels[j + 1].distance.kl());
}
