// SPDX-License-Identifier: Apache-2.0
// slot calibrate: the profile of a model from states that llama.cpp saved and from its weights. Nothing is run.

#include "slot.hpp"
#include "slot_command.hpp"
#include "weights.hpp"

#include <commands.hpp>
#include <output_file.hpp>
#include <sluice/calibrate/calibrate.hpp>

#include <algorithm>
#include <cstdio>
#include <deque>
#include <optional>

namespace {

using sluice::status;

struct calibrate_arguments {
  std::vector<std::string> slots;
  std::string out, model, name;
  // Less than the calibrator's own default: without measured sensitivities a model may lose several times what it is told.
  double target_kl = 0.004;
  int threads = default_threads();
  bool as_json = false;
};

void describe(option_list& c, calibrate_arguments& a) {
  c.add_option("SLOT", a.slots, "states that llama.cpp saved; 8 x 1,024 tokens of what the model will read, or more")
      .required();
  c.add_option("-m,--model", a.model, "the GGUF file of the model").required();
  c.add_option("-o,--output", a.out, "the profile to write; by default M.profile beside M.gguf");
  c.add_option("--target-kl", a.target_kl,
               "nats of KL divergence at level 1, as far as can be told without running the model: 2 to 10 times as "
               "many happen")
      .range(1e-9, 10.0);
  c.add_option("--threads", a.threads, "changes the time it takes, not the profile").range(1, 256);
  c.add_option("--name", a.name, "of the model, for people; without, that in the model file");
  c.add_flag("--json", a.as_json, "the result as JSON");
  c.footer(
      "`engine calibrate MODEL.gguf`, which runs the model, makes a better profile of the models that it knows; this "
      "one is "
      "for all others.");
}

// What is known of the queries that read a run of tokens in one layer.
struct seen_queries {
  std::vector<float> q2;
  std::vector<sluice::f16> last;
};

// A run of tokens of one sequence in one slot, all layers of one cache.
struct token_run {
  const slot::part* part = nullptr;
  const slot::detail::part_plan* plan = nullptr;
  slot::detail::chunk chunk;
  const std::byte* bytes = nullptr;
  std::vector<seen_queries> layers{};  // of the part
};

constexpr int kept_queries = 32;  // of the last tokens, as the calibrator wants them
constexpr int looked_at = 256;    // tokens whose queries are guessed

// Views of a run; rows of q8_0 are turned back into memory of their own.
class run_views {
 public:
  explicit run_views(const token_run& r)
      : dense_(*r.part, *r.plan, quantised(r) ? r.chunk : slot::detail::chunk{}, true) {
    if (quantised(r)) {
      dense_.load(r.bytes);
      all_.assign(dense_.views().begin(), dense_.views().end());
    } else {
      slot::detail::views_of(*r.part, *r.plan, r.chunk, const_cast<std::byte*>(r.bytes), all_);
    }
    // Layers of one shape become one view, whose layers are calibrated side by side.
    bool same = true;
    for (const sluice::kv_view& v : all_) {
      same = same && v.num_kv_heads == all_[0].num_kv_heads && v.k.head_dim == all_[0].k.head_dim &&
             v.v.head_dim == all_[0].v.head_dim && v.k.type == all_[0].k.type && v.v.type == all_[0].v.type;
      k_.push_back(v.k.base), v_.push_back(v.v.base);
    }
    if (!same) return;
    sluice::kv_view joined = all_[0];
    joined.num_layers = int(all_.size());
    joined.layer_ids = r.plan->layers.data();
    joined.k.layer_bases = k_.data();
    if (joined.v.present()) joined.v.layer_bases = v_.data();
    joined_ = {joined};
  }
  run_views(const run_views&) = delete;
  run_views& operator=(const run_views&) = delete;

  /// One for each layer.
  std::span<const sluice::kv_view> layers() const noexcept { return all_; }
  /// As few as there are shapes of layers.
  std::span<const sluice::kv_view> joined() const noexcept { return joined_.empty() ? all_ : joined_; }

 private:
  static bool quantised(const token_run& r) noexcept { return r.plan->how == slot::detail::coding::quantised; }
  slot::detail::dense_chunk dense_;
  std::vector<sluice::kv_view> all_, joined_;
  std::vector<std::byte*> k_, v_;
};

// Guesses the queries of the last tokens of a run, in one layer.
void guess(const slot::query_guess& guess, const sluice::kv_view& v, const sluice::rope* rope, seen_queries& to) {
  const int n = int(std::min<std::int64_t>(v.tokens, looked_at)), dim = v.k.head_dim;
  const std::int64_t first = v.tokens - n;
  slot::matrix k(n, v.num_kv_heads * dim), values(n, v.num_kv_heads * v.v.head_dim);
  const int pairs = rope ? sluice::rotary_dims(*rope, dim) / 2 : 0;
  std::vector<double> frequencies(std::size_t(pairs), 0.0);
  if (pairs) sluice::rope_frequencies(*rope, dim, frequencies);
  for (int t = 0; t < n; ++t)
    for (int h = 0; h < v.num_kv_heads; ++h) {
      for (int e = 0; e < dim; ++e)
        k(t, h * dim + e) = sluice::load_element(v.at(sluice::plane::key, 0, first + t, h, e), v.k.type);
      for (int e = 0; e < v.v.head_dim; ++e)
        values(t, h * v.v.head_dim + e) =
            sluice::load_element(v.at(sluice::plane::value, 0, first + t, h, e), v.v.type);
      if (pairs) rotate(&k(t, h * dim), *rope, frequencies, v.position + first + t, sluice::rotation::inverse);
    }
  slot::matrix q = guess(k, values);
  const Eigen::Index group = guess.heads() / v.num_kv_heads;
  to.q2.assign(std::size_t(v.num_kv_heads * dim), 0.f);
  for (Eigen::Index h = 0; h < guess.heads(); ++h)
    for (int e = 0; e < dim; ++e)
      to.q2[std::size_t(h / group * dim + e)] += q.col(h * dim + e).squaredNorm() / float(n * group);
  if (n < 2 * kept_queries) return;
  for (int t = n - kept_queries; t < n; ++t)
    for (Eigen::Index h = 0; h < guess.heads(); ++h) {
      if (pairs) rotate(&q(t, h * dim), *rope, frequencies, v.position + first + t);
      for (int e = 0; e < dim; ++e) to.last.push_back(sluice::from_float<sluice::f16>(q(t, h * dim + e)));
    }
}

int calibrate(const calibrate_arguments& a) {
  const model_file file_of_model(a.model);
  const engine::gguf& gguf = file_of_model.tensors();
  const slot::model_facts model = slot::read_model(gguf);
  if (!model.shape) throw data_error(a.model + ": it does not tell " + model.missing);
  const sluice::model_shape& shape = *model.shape;
  const sluice::profile plain = sluice::profile::uncalibrated(shape);

  // All runs of all slots.
  std::deque<engine::mapped_file> files;
  std::deque<slot::state> states;
  std::deque<slot::detail::plan> plans;
  std::vector<token_run> runs;
  std::int64_t tokens = 0;
  for (const std::string& path : a.slots) {
    files.emplace_back(path);
    auto state = slot::parse(files.back().bytes());
    if (!state) throw data_error(path + ": " + sluice::to_string(state.status()));
    states.push_back(*std::move(state));
    auto plan = slot::detail::make_plan(states.back(), &plain, INT64_MAX);
    if (!plan) throw data_error(path + ": " + sluice::to_string(plan.status()) + " from " + a.model);
    plans.push_back(*std::move(plan));
    for (const slot::detail::chunk& c : plans.back().chunks) {
      const slot::part& p = states.back().parts[std::size_t(c.part)];
      const slot::detail::part_plan& how = plans.back().parts[std::size_t(c.part)];
      if (c.verbatim || how.profile != &plain) continue;
      if (p.cache == 0) tokens += c.tokens;
      runs.push_back({&p, &how, c, files.back().bytes().data(), std::vector<seen_queries>(p.k.size())});
    }
  }
  if (runs.empty()) throw data_error(a.slots[0] + ": holds no cells of types that can be calibrated on");

  progress bar("calibrating");
  const std::size_t all = shape.layers.size() + 2 * runs.size();
  std::size_t done = 0;
  std::vector<slot::matrix> output(shape.layers.size());
  std::vector<int> heads(shape.layers.size(), 0);
  for (int l = 0; l < shape.num_layers(); ++l) {
    const sluice::layer_shape& s = shape.layers[std::size_t(l)];
    const auto w = s.head_dim_v ? slot::read_attention(gguf, l, s) : std::nullopt;
    if (w) {
      output[std::size_t(l)] = slot::output_metric(*w, s);
      const slot::query_guess queries(*w, s);
      heads[std::size_t(l)] = int(queries.heads());
      for (token_run& r : runs)
        for (std::size_t i = 0; i < r.plan->layers.size(); ++i)
          if (r.plan->layers[i] == l)
            guess(queries, run_views(r).layers()[i],
                  shape.ropes.empty() ? nullptr : &shape.ropes[std::size_t(s.rope_index)], r.layers[i]);
    }
    bar.at(++done, all);
  }

  sluice::calibration_options o;
  o.target_kl = a.target_kl, o.threads = a.threads;
  sluice::calibrator calibrator(shape, o);
  for (const bool second : {false, true})
    for (token_run& r : runs) {
      const run_views views(r);
      for (const sluice::kv_view& v : views.joined()) {
        std::vector<sluice::capture_layer> known(std::size_t(v.num_layers), sluice::capture_layer{});
        bool queries = true;
        for (int i = 0; i < v.num_layers; ++i) {
          const std::size_t at = std::size_t(v.layer_ids + i - r.plan->layers.data());
          const seen_queries& s = r.layers[at];
          const slot::matrix& wo = output[std::size_t(v.layer_id(i))];
          known[std::size_t(i)] = {s.q2.empty() ? nullptr : s.q2.data(), wo.size() ? wo.data() : nullptr,
                                   s.last.empty() ? nullptr : s.last.data()};
          queries =
              queries && !s.last.empty() && heads[std::size_t(v.layer_id(i))] == heads[std::size_t(v.layer_id(0))];
        }
        if (!queries)
          for (sluice::capture_layer& k : known) k.queries = nullptr;
        const sluice::capture capture{v, known, queries ? kept_queries : 0,
                                      queries ? heads[std::size_t(v.layer_id(0))] : 0};
        if (const status s = second ? calibrator.measure(capture) : calibrator.add(capture); s != status::ok)
          throw data_error(a.slots[0] + ": no profile can be made of it: " + sluice::to_string(s));
      }
      bar.at(++done, all);
    }
  auto made = calibrator.finish();
  if (!made) throw data_error(a.slots[0] + ": no profile can be made of it: " + sluice::to_string(made.status()));
  made->set_name((a.name.empty() ? model.name : a.name).c_str());
  const std::vector<std::byte> bytes = made->serialize();
  const std::string path = a.out.empty() ? profile_beside(a.model) : a.out;
  output_file file(path);
  file.write(bytes);
  if (!file.commit()) throw data_error(file.error());
  std::vector<double> loss;
  for (int j = 0; j < made->passes; ++j) loss.push_back(made->loss_of(j));
  if (a.as_json) {
    program::print({{"profile", path},
                    {"model", made->name.data()},
                    {"tokens", tokens},
                    {"bytes", bytes.size()},
                    {"expected_loss", loss}});
    return 0;
  }
  std::printf("%s: %s, %d layers, calibrated on %lld tokens\n", path.c_str(), made->name.data(), shape.num_layers(),
              static_cast<long long>(tokens));
  return 0;
}

}  // namespace

void add_slot_calibrate(program& p) {
  p.add<calibrate_arguments>("slot calibrate", "Makes a profile from states that llama.cpp saved.", describe,
                             calibrate);
}
