// SPDX-License-Identifier: Apache-2.0
#include "calibration.hpp"
#include "default_text.hpp"
#include "session.hpp"
#include "windows.hpp"

#include <sluice/codec/any_codec.hpp>

#include <output_file.hpp>

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

namespace engine {

namespace {

struct calibrate_options : model_options {
  std::vector<std::string> texts, presets;
  std::string out, from;
  int context = 1024, captures = 12, suffix = 256, sensitivity_windows = 3;
  double target_kl = 0.010;
  bool no_sensitivities = false, predict = false;
};

void describe(option_list& app, calibrate_options& o) {
  describe_model(app, o);
  app.add_option(
      "TEXT", o.texts,
      "what the model will read: files of text, or a folder of files that end with .txt; many kinds of prose, "
      "and code; by default sluice's own documents");
  app.add_option("-o", o.out, "the profile to write; by default M.profile beside M.gguf");
  app.add_option("--context", o.context, "tokens of each capture")
      .range(int(query_statistics::kept + query_statistics::sinks), 1 << 20);
  app.add_option("--captures", o.captures, "places that are captured, spread evenly over all texts").range(1, 1024);
  app.add_option("--suffix", o.suffix, "tokens behind such a capture that are predicted").range(1, 1 << 16);
  app.add_option("--sensitivity-windows", o.sensitivity_windows,
                 "captures whose predictions are watched, of as many texts")
      .range(1, 1024);
  app.add_option("--target-kl", o.target_kl, "what level 1 may cost, in nats").range(1e-6, 10.0);
  app.add_flag(
      "--no-sensitivities", o.no_sensitivities,
      "estimate what errors cost from queries instead of measuring it: minutes less, a tenth to a quarter more bytes");
  app.add_flag("--predict", o.predict,
               "also fit what `smallest` predicts from: minutes more, and 256 bytes for each token of the vocabulary");
  app.add_option("--for", o.presets,
                 "codecs that want something of their own in a profile: kvtc16, cachegen_paper and others, parted by "
                 "commas")
      .delimiter(',');
  app.add_option("--from", o.from, "a profile of this model: only what --for names is learnt, and added to it");
}

int calibrate_model(const calibrate_options& o) {
  const std::string path = o.out.empty() ? profile_beside(o.model) : o.out;
  self_calibration how;
  how.context = o.context;
  how.target_kl = o.target_kl;
  how.sensitivity_windows = o.no_sensitivities || !o.from.empty() ? 0 : std::min(o.sensitivity_windows, o.captures);
  how.presets = o.presets;
  for (const std::string& name : o.presets)
    if (!sluice::preset_named(name.c_str())) throw usage_error("no codec is called " + name);
  if (!o.from.empty() && o.presets.empty()) throw usage_error("--from: --for says what to add");
  if (o.predict) how.prediction = sluice::codec::smallest::predictor::kind;
  how.kv = kv_type(o);
  const int captures = o.captures, suffix = how.sensitivity_windows > 0 ? o.suffix : 0;

  // Exact arithmetic: what 8-bit products do to the predictions would hide what a quiet layer's error does.
  stopwatch clock;
  session s(o, arithmetic::exact);
  std::vector<text_windows> texts;
  if (o.texts.empty()) texts.emplace_back(s.text, "the default text", std::string(default_text()));
  for (const text_file& f : read_texts(o.texts)) texts.emplace_back(s.text, f.path, f.text);
  const auto windows = spread_over(texts, captures, how.context + suffix);
  how.threads = s.threads.size();
  progress bar("calibrate");
  how.on_progress = [&](std::size_t done, std::size_t all) { bar.at(done, all); };
  calibrated made;
  if (o.from.empty()) {
    made = calibrate(s.net, windows, how);
    made.profile.set_name(name_of(o.model).c_str());
  } else {
    made.profile = load_profile(o.from, o.model, s);
    add_sections(s.net, windows, how, made.profile);
  }
  const std::vector<std::byte> bytes = made.profile.serialize();
  if (const auto loads = sluice::profile::parse(bytes); !loads)  // what nobody could load is not written
    throw data_error(std::string("the texts give no usable profile: ") + to_string(loads.status()));
  output_file file(path);
  file.write(bytes);
  if (!file.commit()) throw data_error(file.error());

  std::vector<double> loss;
  for (int j = 0; j < made.profile.passes; ++j) loss.push_back(made.profile.loss_of(j));
  char id[17];
  std::snprintf(id, sizeof id, "%016llx", static_cast<unsigned long long>(made.profile.fingerprint()));
  const double seconds = clock.seconds();
  if (o.json) {
    json report = {{"profile", path},       {"model", made.profile.name.data()}, {"fingerprint", id},
                   {"bytes", bytes.size()}, {"tokens", captures * how.context},  {"captures", captures},
                   {"texts", texts.size()}, {"target_kl", how.target_kl},        {"expected_loss", loss},
                   {"seconds", seconds}};
    if (how.sensitivity_windows > 0)
      report["sensitivity"] = {{"windows", how.sensitivity_windows},
                               {"suffix_tokens", suffix},
                               {"k", made.measured.k},
                               {"v", made.measured.v}};
    program::print(report);
    return 0;
  }
  std::printf("%s: %s, %d layers, fingerprint %s, %.2f MB, in %.0f s\n", path.c_str(), made.profile.name.data(),
              made.profile.shape.num_layers(), id, double(bytes.size()) / 1e6, seconds);
  std::printf("calibrated on %d tokens; expected loss in nats by level:", captures * how.context);
  for (const double x : loss) std::printf(" %.4f", x);
  std::printf("%s\n", how.sensitivity_windows > 0 ? "" : " (estimated: no sensitivities were measured)");
  return 0;
}

}  // namespace

void add_calibrate(program& p) {
  p.add<calibrate_options>("calibrate", "what sluice has to know of the model, measured on a text", describe,
                           calibrate_model);
}

}  // namespace engine
