// SPDX-License-Identifier: Apache-2.0
#include <capture_file.hpp>
#include <command.hpp>
#include <output_file.hpp>

#include <cstdio>
#include <fstream>
#include <thread>

namespace {

void read_sensitivities(const std::string& path, const sluice::model_shape& shape, sluice::calibration_options& o) {
  std::ifstream in(path);
  if (!in) throw data_error(path + ": cannot be opened");
  const json s = json::parse(in, nullptr, false);
  for (const char* which : {"k", "v"}) {
    auto& list = *which == 'k' ? o.sensitivity_k : o.sensitivity_v;
    if (!s.is_object() || !s.contains(which) || !s[which].is_array() || int(s[which].size()) != shape.num_layers())
      throw data_error(path + ": needs \"k\" and \"v\", lists of one number for each of " +
                       std::to_string(shape.num_layers()) + " layers");
    for (const json& x : s[which]) {
      if (!x.is_number()) throw data_error(path + ": holds something that is no number");
      list.push_back(x.get<double>());
    }
  }
}

void open(capture_file& file, const std::string& path) {
  if (const auto wrong = file.open(path)) throw data_error(*wrong);
}

}  // namespace

int calibrate_command(int argc, char** argv) {
  const arguments a(argc, argv, {"--sensitivity", "--heads-per-basis", "--target-kl", "--threads", "--name", "-o"},
                    {"--json", "--shape-only"});
  const std::string out = a.required("-o");
  if (a.operands.empty()) throw usage_error("give at least one capture");
  capture_file first;
  open(first, a.operands[0]);
  sluice::profile profile;
  std::int64_t tokens = 0;
  if (a.has("--shape-only")) {
    profile = sluice::profile::uncalibrated(first.shape());
  } else {
    sluice::calibration_options o;
    o.heads_per_basis = int(a.integer("--heads-per-basis", 0, 0, 4));
    o.threads = int(a.integer("--threads", std::max(1u, std::thread::hardware_concurrency()), 1, 256));
    if (a.has("--target-kl")) {
      char* end = nullptr;
      o.target_kl = std::strtod(a.text("--target-kl").c_str(), &end);
      if (*end || !(o.target_kl > 0 && o.target_kl < 10)) throw usage_error("--target-kl must be a small positive number");
    }
    if (a.has("--sensitivity")) read_sensitivities(a.text("--sensitivity"), first.shape(), o);
    sluice::calibrator c(first.shape(), o);
    progress bar("calibrating");
    std::size_t done = 0;
    for (int pass = 0; pass < 2; ++pass)
      for (const std::string& path : a.operands) {
        capture_file file;
        open(file, path);
        if (!(file.shape() == first.shape())) throw data_error(path + ": another model than " + a.operands[0]);
        if (!pass) tokens += file.tokens();
        for (const sluice::capture& x : file.captures())
          if (const sluice::status s = pass ? c.measure(x) : c.add(x); s != sluice::status::ok)
            throw data_error(path + ": " + sluice::to_string(s));
        bar.at(++done, 2 * a.operands.size());
      }
    sluice::result<sluice::profile> r = c.finish();
    if (!r) throw data_error(std::string("calibration: ") + sluice::to_string(r.status()));
    profile = std::move(*r);
  }
  profile.set_name(a.text("--name", first.model()).c_str());
  const auto bytes = profile.serialize();
  output_file file(out);
  file.write(bytes);
  if (!file.commit()) throw data_error(file.error());

  std::vector<double> loss(std::size_t(profile.passes), 0.0);
  for (const sluice::plane_profile& p : profile.planes)
    for (std::size_t j = 0; j < loss.size(); ++j) loss[j] += double(p.loss[j]);
  char id[17];
  std::snprintf(id, sizeof id, "%016llx", static_cast<unsigned long long>(profile.fingerprint()));
  if (a.has("--json")) {
    std::printf("%s\n", json{{"profile", out}, {"model", profile.name.data()}, {"fingerprint", id},
                             {"layers", profile.shape.num_layers()}, {"calibrated", profile.calibrated()},
                             {"tokens", tokens}, {"bytes", bytes.size()}, {"expected_loss", loss}}
                            .dump(1)
                            .c_str());
    return 0;
  }
  std::printf("%s: %s, %d layers, fingerprint %s, %.2f MB\n", out.c_str(), profile.name.data(),
              profile.shape.num_layers(), id, double(bytes.size()) / 1e6);
  if (profile.calibrated()) {
    std::printf("calibrated on %lld tokens; expected loss in nats by level:", static_cast<long long>(tokens));
    for (double x : loss) std::printf(" %.4f", x);
    std::printf("%s\n", a.has("--sensitivity") ? "" : " (estimated: no sensitivities were given)");
  } else {
    std::printf("not calibrated: streams take about twice the bytes at equal quality\n");
  }
  return 0;
}
