// SPDX-License-Identifier: Apache-2.0
// The `sluice` command: compresses captured KV caches and takes them apart again.

#include <commands.hpp>
#include <sluice/version.hpp>

#include <string>

int main(int argc, char** argv) {
  program p("sluice", "sluice compresses the KV cache of language models.");
  add_calibrate(p);
  add_code(p);
  add_inspect(p);
  add_transfer(p);
  add_simulate(p);
  add_slot(p);
  const auto number = [](int major, int minor) { return std::to_string(major) + "." + std::to_string(minor); };
  p.version("sluice " + number(SLUICE_VERSION_MAJOR, SLUICE_VERSION_MINOR) + "." +
                std::to_string(SLUICE_VERSION_PATCH) + ", format " +
                number(SLUICE_FORMAT_VERSION_MAJOR, SLUICE_FORMAT_VERSION_MINOR),
            "version of the command and of the format that it writes");
  p.footer(
      "sluice COMMAND --help tells all of a command; every command takes --json.\n"
      "Exit codes: 0 done, 1 bad data or the work failed, 2 wrong call.");
  return p.run(argc, argv);
}
