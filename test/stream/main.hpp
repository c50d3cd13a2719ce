// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <doctest/doctest.h>
#include <stream/servers.hpp>

#include <cstdio>
#include <initializer_list>

namespace servers {

/// Runs a program's tests. Where one of the servers that they start is not installed, says so and returns 77: skipped.
inline int run_tests(int argc, char** argv, std::initializer_list<const char*> needed) {
  for (const char* program : needed)
    if (find_program(program).empty()) {
      std::printf("skipped: %s is not installed\n", program);
      return 77;
    }
  doctest::Context context(argc, argv);
  return context.run();
}

}  // namespace servers
