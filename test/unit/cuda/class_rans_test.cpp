// SPDX-License-Identifier: Apache-2.0
// The entropy stage of class_rans on the emulator, and what it is planned with.
#include <cuda_on_host.hpp>

#include <doctest/doctest.h>
#include <support/cuda_class_rans_checks.hpp>

#include <fstream>
#include <iterator>
#include <string>

namespace {

using namespace sluice;
namespace checks = class_rans_checks;

constexpr unsigned seed = 20251129;

checks::bytes read(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  REQUIRE_MESSAGE(in.good(), path);
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  const auto* p = reinterpret_cast<const std::byte*>(text.data());
  return {p, p + text.size()};
}

}  // namespace

TEST_CASE("class_rans kernel: golden frames at every level") {
  const struct {
    const char *frame, *profile;
    bool described;
  } frames[] = {{"standard", "small", true},       {"standard_cut", "small", true},
                {"standard_later", "small", true}, {"standard_truncated", "small", true},
                {"uncalibrated", "plain", true},   {"smollm2", "smollm2", true},
                {"hybrid", "hybrid", true}};
  const std::string folder = SLUICE_SOURCE_DIR "/test/golden/";
  for (const auto& f : frames) {
    CAPTURE(std::string(f.frame));
    const result<profile> p = profile::parse(read(folder + f.profile + ".profile"));
    REQUIRE(p.has_value());
    const checks::tiles all = checks::tiles_of(*p, read(folder + f.frame + ".slc"), f.described);
    CHECK(!all.items.empty());
    CHECK(checks::check(all) == 0);
  }
}

TEST_CASE("class_rans kernel: tiles of all shapes, any order of threads") {
  MESSAGE("seed ", seed);
  for (const auto how : {cuda_on_host::order::up, cuda_on_host::order::down, cuda_on_host::order::random}) {
    cuda_on_host::the_machine.how = how;
    checks::round_trips(seed + unsigned(how), 8, {.offset = unsigned(how) * 7});
  }
  cuda_on_host::the_machine.how = cuda_on_host::order::up;
}

TEST_CASE("class_rans kernel: classes without slots") {
  MESSAGE("seed ", seed);
  for (int slots : {0, 1, 7}) {
    CAPTURE(slots);
    checks::setting how;
    how.shape.slots = slots;
    how.shape.shared =
        std::size_t(cuda::class_rans_shape::luts_at(how.shape.warps)) + std::size_t(slots) * sizeof(cuda::class_lut);
    checks::round_trips(seed + 10 + unsigned(slots), 4, how);
  }
}

TEST_CASE("class_rans kernel: changed sections are refused where a host refuses") {
  MESSAGE("seed ", seed);
  checks::mutations(seed, 8, 500, {.offset = 3});
}
