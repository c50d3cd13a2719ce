// SPDX-License-Identifier: Apache-2.0
// The `sluice` command: compresses captured KV caches and takes them apart again.

#include <commands.hpp>
#include <sluice/version.hpp>

#include <string_view>

#define SLUICE_TEXT(x) #x
#define SLUICE_NUMBER(x) SLUICE_TEXT(x)

int main(int argc, char** argv) {
  program p("sluice", "sluice compresses the KV cache of language models.");
  add_calibrate(p);
  add_code(p);
  add_inspect(p);
  add_transfer(p);
  add_simulate(p);
  p.app().set_version_flag("--version", "sluice " SLUICE_NUMBER(SLUICE_VERSION_MAJOR) "." SLUICE_NUMBER(
                                            SLUICE_VERSION_MINOR) "." SLUICE_NUMBER(SLUICE_VERSION_PATCH)
                                        ", format " SLUICE_NUMBER(SLUICE_FORMAT_VERSION_MAJOR) "." SLUICE_NUMBER(
                                            SLUICE_FORMAT_VERSION_MINOR));
  p.app().footer(
      "sluice COMMAND --help tells all of a command; every command takes --json.\n"
      "Exit codes: 0 done, 1 bad data or the work failed, 2 wrong call.");
  // `sluice help` and `sluice help COMMAND`, as others have it.
  char ask[] = "--help";
  char* help[] = {argv[0], argc > 2 ? argv[2] : ask, ask, nullptr};
  if (argc > 1 && std::string_view(argv[1]) == "help") return p.run(argc > 2 ? 3 : 2, help);
  return p.run(argc, argv);
}
