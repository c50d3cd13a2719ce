// SPDX-License-Identifier: Apache-2.0
// The one translation unit that holds doctest's own code: it takes longer to compile than most tests.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
