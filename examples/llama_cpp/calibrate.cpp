// SPDX-License-Identifier: Apache-2.0
// slot calibrate: the profile of a model from states that llama.cpp saved and from its weights. Nothing is run.

#include "slot.hpp"
#include "slot_command.hpp"
#include "weights.hpp"

#include <commands.hpp>
#include <output_file.hpp>
#include <sluice/calibrate/calibrate.hpp>

#include <cstdio>
#include <cstdlib>
#include <deque>

namespace {

using sluice::status;

struct calibrate_arguments {
  std::vector<std::string> slots;
  std::string out, model, name;
  double target_kl = sluice::calibration_options{}.target_kl;
  int threads = default_threads();
  bool as_json = false;
};

void describe(option_list& c, calibrate_arguments& a) {
  c.add_option("SLOT", a.slots, "states that llama.cpp saved; 8 x 1,024 tokens of what the model will read, or more")
      .required();
  c.add_option("-m,--model", a.model, "the GGUF file of the model").required();
  c.add_option("-o,--output", a.out, "the profile to write; by default M.profile beside M.gguf");
  c.add_option("--target-kl", a.target_kl, "nats of KL divergence at level 1, roughly").range(1e-9, 10.0);
  c.add_option("--threads", a.threads, "changes the time it takes, not the profile").range(1, 256);
  c.add_option("--name", a.name, "of the model, for people; without, that in the model file");
  c.add_flag("--json", a.as_json, "the result as JSON");
  c.footer(
      "`engine calibrate MODEL.gguf`, which runs the model, makes a better profile of the models that it knows; this "
      "one is "
      "for all others.");
}

// What weights tell of each layer; empty where they are not to be had.
struct layer_facts {
  std::vector<float> q2;
  slot::matrix wo;
};

int calibrate(const calibrate_arguments& a) {
  const engine::mapped_file model_bytes = [&] {
    try {
      return engine::mapped_file(a.model);
    } catch (const engine::file_error& e) {
      throw data_error(a.model + ": " + e.what());
    }
  }();
  const engine::gguf gguf(model_bytes.bytes(), true);
  const slot::model_facts model = slot::read_model(gguf);
  if (!model.shape) throw data_error(a.model + ": it does not tell " + model.missing);
  const sluice::model_shape& shape = *model.shape;
  const sluice::profile plain = sluice::profile::uncalibrated(shape);

  std::vector<layer_facts> facts(shape.layers.size());
  for (int l = 0; l < shape.num_layers(); ++l)
    if (const auto w = slot::read_attention(gguf, l, shape.layers[std::size_t(l)])) {
      if (!std::getenv("NO_Q2")) facts[std::size_t(l)].q2 = slot::query_energy(*w, shape.layers[std::size_t(l)]);
      if (!std::getenv("NO_WO")) facts[std::size_t(l)].wo = slot::output_metric(*w, shape.layers[std::size_t(l)]);
    }

  sluice::calibration_options o;
  o.target_kl = a.target_kl, o.threads = a.threads;
  sluice::calibrator calibrator(shape, o);
  progress bar("calibrating");
  std::size_t done = 0;
  std::int64_t tokens = 0;
  for (const bool second : {false, true})
    for (const std::string& path : a.slots) {
      const engine::mapped_file file(path);
      const auto state = slot::parse(file.bytes());
      if (!state) throw data_error(path + ": " + sluice::to_string(state.status()));
      auto plan = slot::detail::make_plan(*state, &plain, INT64_MAX);
      if (!plan) throw data_error(path + ": " + sluice::to_string(plan.status()) + " from " + a.model);
      for (const slot::detail::chunk& c : plan->chunks) {
        const slot::part& p = state->parts[std::size_t(c.part)];
        const slot::detail::part_plan& how = plan->parts[std::size_t(c.part)];
        if (c.verbatim || how.profile != &plain) continue;
        if (!second && p.cache == 0) tokens += c.tokens;
        slot::detail::dense_chunk dense(p, how, how.how == slot::detail::coding::quantised ? c : slot::detail::chunk{},
                                        true);
        std::vector<sluice::kv_view> views;
        if (how.how == slot::detail::coding::quantised) {
          dense.load(file.bytes().data());
          views.assign(dense.views().begin(), dense.views().end());
        } else {
          slot::detail::views_of(p, how, c, const_cast<std::byte*>(file.bytes().data()), views);
        }
        for (const sluice::kv_view& v : views) {
          const layer_facts& f = facts[std::size_t(v.layer_id(0))];
          const sluice::capture_layer known{f.q2.empty() ? nullptr : f.q2.data(), f.wo.size() ? f.wo.data() : nullptr,
                                            nullptr};
          const sluice::capture capture{v, {&known, 1}, 0, 0};
          if (const status s = second ? calibrator.measure(capture) : calibrator.add(capture); s != status::ok)
            throw data_error(path + ": no profile can be made of it: " + sluice::to_string(s));
        }
      }
      bar.at(++done, 2 * a.slots.size());
    }
  auto made = calibrator.finish();
  if (!made) throw data_error(a.slots[0] + ": no profile can be made of it: " + sluice::to_string(made.status()));
  made->set_name((a.name.empty() ? model.name : a.name).c_str());
  const std::vector<std::byte> bytes = made->serialize();
  const std::string path = a.out.empty() ? profile_beside(a.model) : a.out;
  output_file file(path);
  file.write(bytes);
  if (!file.commit()) throw data_error(file.error());
  std::vector<double> loss(std::size_t(made->passes), 0.0);
  for (const sluice::plane_profile& p : made->planes)
    for (std::size_t j = 0; j < loss.size(); ++j) loss[j] += double(p.loss[j]);
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
