// SPDX-License-Identifier: Apache-2.0
#include "calibration.hpp"
#include "session.hpp"
#include "windows.hpp"

#include <output_file.hpp>

#include <cstdio>
#include <string>
#include <vector>

namespace engine {

int calibrate_command(int argc, char** argv) {
  const arguments args =
      parse_arguments(argc, argv, {"-o", "--context", "--captures", "--suffix", "--target-kl"}, {"--no-sensitivities"});
  if (args.operands.size() != 2) throw usage_error("engine calibrate MODEL TEXT [-o M.profile]");
  const std::string path = args.text("-o", profile_beside(args.operands[0]));
  self_calibration how;
  how.context = int(args.integer("--context", 1024, query_statistics::kept + query_statistics::sinks, 1 << 20));
  how.target_kl = real_option(args, "--target-kl", 0.010, 1e-6, 10);
  how.measure_sensitivities = !args.has("--no-sensitivities");
  how.kv = kv_type(args);
  const int captures = int(args.integer("--captures", 12, 1, 1024));
  const int suffix = how.measure_sensitivities ? int(args.integer("--suffix", 256, 1, 1 << 16)) : 0;

  // Exact arithmetic: what 8-bit products do to the predictions would hide what a quiet layer's error does.
  stopwatch clock;
  session s(args, args.operands[0], arithmetic::exact);
  const text_windows text(s.text, args.operands[1], read_text(args.operands[1]));
  const auto windows = text.spread(captures, how.context + suffix);
  how.threads = s.threads.size();
  progress bar("calibrate");
  how.on_progress = [&](std::size_t done, std::size_t all) { bar.at(done, all); };
  calibrated made = calibrate(s.net, windows, how);
  made.profile.set_name(args.operands[0].substr(args.operands[0].rfind('/') + 1).c_str());
  const std::vector<std::byte> bytes = made.profile.serialize();
  output_file file(path);
  file.write(bytes);
  if (!file.commit()) throw data_error(file.error());

  std::vector<double> loss(std::size_t(made.profile.passes), 0.0);
  for (const sluice::plane_profile& p : made.profile.planes)
    for (std::size_t j = 0; j < loss.size(); ++j) loss[j] += double(p.loss[j]);
  char id[17];
  std::snprintf(id, sizeof id, "%016llx", static_cast<unsigned long long>(made.profile.fingerprint()));
  const double seconds = clock.seconds();
  if (args.has("--json")) {
    json report = {{"profile", path},
                   {"model", made.profile.name.data()},
                   {"fingerprint", id},
                   {"bytes", bytes.size()},
                   {"tokens", captures * how.context},
                   {"captures", captures},
                   {"target_kl", how.target_kl},
                   {"expected_loss", loss},
                   {"seconds", seconds}};
    if (how.measure_sensitivities)
      report["sensitivity"] = {{"suffix_tokens", suffix}, {"k", made.measured.k}, {"v", made.measured.v}};
    std::puts(report.dump(2).c_str());
    return 0;
  }
  std::printf("%s: %s, %d layers, fingerprint %s, %.2f MB, in %.0f s\n", path.c_str(), made.profile.name.data(),
              made.profile.shape.num_layers(), id, double(bytes.size()) / 1e6, seconds);
  std::printf("calibrated on %d tokens; expected loss in nats by level:", captures * how.context);
  for (const double x : loss) std::printf(" %.4f", x);
  std::printf("%s\n", how.measure_sensitivities ? "" : " (estimated: no sensitivities were measured)");
  return 0;
}

}  // namespace engine
