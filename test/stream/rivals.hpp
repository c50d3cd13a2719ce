// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <doctest/doctest.h>
#include <sluice/stream/store/source.hpp>

#include <random>
#include <thread>
#include <vector>

/// Bytes that no store can guess.
inline std::vector<std::byte> noise(std::size_t n, unsigned seed = 1) {
  std::mt19937 random(seed);
  std::vector<std::byte> b(n);
  for (std::byte& x : b) x = std::byte(random() & 255);
  return b;
}

/// Two clients put different values of different sizes under one key, again and again and at the same time: no put fails,
/// and what the store holds in the end is one of the two, whole.
template <class Source>
void rivals(Source& one, Source& other, std::string_view key, int rounds = 8) {
  const auto first = noise(1'500'000, 10), second = noise(1'200'001, 11);
  const auto put = [&](Source& s, const std::vector<std::byte>& value) {
    for (int i = 0; i < rounds; ++i) {
      const sluice::status done = s.put(key, value);
      CHECK_MESSAGE(done == sluice::status::ok, std::string(s.detail()));
    }
  };
  std::jthread at_once([&] { put(other, second); });
  put(one, first);
  at_once.join();
  for (Source* s : {&one, &other}) {
    const auto kept = sluice::stream::read_object(*s, key, 20);
    REQUIRE_MESSAGE(kept, std::string(s->detail()));
    CHECK((*kept == first || *kept == second));
  }
}
