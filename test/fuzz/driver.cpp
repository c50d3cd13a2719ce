// SPDX-License-Identifier: Apache-2.0
// Stands in for libFuzzer in the ordinary tests: runs one target over every file of its corpus and over a fixed sequence
// of mutations of them. NAME_replay CORPUS [SEED [EXECUTIONS]]; where it dies it names and writes down the input.
#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

// A finding of a sanitizer ends in SIGABRT, where the input can be written down.
extern "C" void __asan_init() __attribute__((weak));
extern "C" const char* __asan_default_options() { return "abort_on_error=1:detect_leaks=1"; }
extern "C" const char* __ubsan_default_options() { return "abort_on_error=1:print_stacktrace=1"; }

namespace {

using input = std::vector<std::uint8_t>;

input current;
std::string origin;

// Not async-signal-safe in theory; the process is lost anyway and the input is worth the attempt.
void write_down_input() {
  std::fprintf(stderr, "\nfailing input: %s, %zu bytes, written to failing-input\n", origin.c_str(), current.size());
  if (std::FILE* f = std::fopen("failing-input", "wb")) {
    std::fwrite(current.data(), 1, current.size(), f);
    std::fclose(f);
  }
}

extern "C" void on_signal(int number) {
  write_down_input();
  std::signal(number, SIG_DFL);
  std::raise(number);
}

void run(input data, std::string from) {
  current = std::move(data);
  origin = std::move(from);
  // An exact allocation: a read one byte past the end is visible to the sanitizer.
  std::vector<std::uint8_t> exact(current.begin(), current.end());
  exact.shrink_to_fit();
  LLVMFuzzerTestOneInput(exact.data(), exact.size());
}

input mutate(const std::vector<input>& seeds, std::mt19937_64& random) {
  const auto below = [&](std::size_t n) { return n == 0 ? std::size_t{0} : std::size_t(random() % n); };
  input data = seeds[below(seeds.size())];
  for (std::size_t edits = 1 + below(4); edits > 0; --edits) {
    const std::size_t at = below(data.size());
    switch (below(8)) {
      case 0:  // one bit
        if (!data.empty()) data[at] = std::uint8_t(data[at] ^ (1u << below(8)));
        break;
      case 1:  // one byte
        if (!data.empty()) data[at] = std::uint8_t(random());
        break;
      case 2:  // a cut
        data.resize(at);
        break;
      case 3:  // bytes taken out
        data.erase(data.begin() + std::ptrdiff_t(at), data.begin() + std::ptrdiff_t(at + below(data.size() - at)));
        break;
      case 4: {  // bytes of any input put in
        const input& other = seeds[below(seeds.size())];
        const std::size_t from = below(other.size());
        const std::size_t n = std::min<std::size_t>(below(64), other.size() - from);
        const input piece(other.begin() + std::ptrdiff_t(from), other.begin() + std::ptrdiff_t(from + n));
        data.insert(data.begin() + std::ptrdiff_t(at), piece.begin(), piece.end());
        break;
      }
      case 5: {  // an interesting integer
        static constexpr std::uint64_t values[] = {0,          1,          0x7f,       0x80,       0xff,
                                                   0x7fff,     0x8000,     0xffff,     0x7fffffff, 0x80000000,
                                                   0xffffffff, 1ull << 40, ~0ull >> 1, 1ull << 63, ~0ull};
        const std::uint64_t value = values[below(std::size(values))];
        const std::size_t width = std::size_t{1} << below(4);
        if (data.size() >= width) std::memcpy(data.data() + below(data.size() - width + 1), &value, width);
        break;
      }
      case 6:  // two ranges change places
        if (!data.empty())
          std::swap_ranges(data.begin(), data.begin() + std::ptrdiff_t(std::min(at, data.size() - at)),
                           data.begin() + std::ptrdiff_t(at));
        break;
      default:  // a small step up or down
        if (!data.empty()) data[at] = std::uint8_t(data[at] + (random() & 1 ? 1 : 255));
        break;
    }
  }
  return data;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return std::fprintf(stderr, "usage: %s CORPUS [SEED [EXECUTIONS]]\n", argv[0]), 2;
  const std::uint64_t seed = argc > 2 ? std::strtoull(argv[2], nullptr, 0) : 1;
  const std::uint64_t executions = argc > 3 ? std::strtoull(argv[3], nullptr, 0) : 100000;
  const double seconds = argc > 3 ? 1e9 : 6;

  std::signal(SIGABRT, on_signal);
  if (!__asan_init)
    for (const int number : {SIGSEGV, SIGBUS, SIGFPE, SIGILL}) std::signal(number, on_signal);

  std::vector<input> seeds{{}};
  std::vector<std::filesystem::path> files;
  std::error_code error;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(argv[1], error))
    if (entry.is_regular_file()) files.push_back(entry.path());
  std::sort(files.begin(), files.end());  // the order of a directory is not the same everywhere, the mutations must be
  run({}, "the empty input");
  for (const auto& file : files) {
    std::ifstream stream(file, std::ios::binary);
    seeds.emplace_back(std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>());
    run(seeds.back(), file.string());
  }

  std::mt19937_64 random(seed);
  const auto begin = std::chrono::steady_clock::now();
  std::uint64_t done = 0;
  for (; done < executions; ++done) {
    const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - begin;
    if (spent.count() > seconds) break;
    run(mutate(seeds, random), "mutation " + std::to_string(done) + " of seed " + std::to_string(seed));
  }
  std::printf("%zu corpus files, %llu mutations, seed %llu\n", files.size(), static_cast<unsigned long long>(done),
              static_cast<unsigned long long>(seed));
  return 0;
}
