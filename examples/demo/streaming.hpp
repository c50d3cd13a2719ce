// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <facts.hpp>
#include <resume.hpp>

#include <string>
#include <vector>

/// What a link or the engine did for a while.
struct stretch {
  double begin = 0, end = 0;  ///< seconds
  int level = 0;              ///< of a fetch; above the last level = the raw copy
  bool compute = false;
};

/// One policy on one link.
struct streamed {
  std::string policy;
  double seconds = 0;  ///< until the cache is handed over
  double loss = 0;     ///< nats
  bool met = false;    ///< the deadline
  double bytes = 0;
  int computed_tokens = 0;
  std::vector<stretch> timeline;
};

struct streamed_link {
  std::string name;
  std::vector<streamed> policies;
};

/// A long context, made of chunks that cost what the sample does, over three links.
struct streaming {
  int tokens = 0, chunks = 0;
  std::size_t raw_bytes = 0;
  double deadline = 0, tokens_per_second = 0;  ///< of prefill
  bool measured = false;                       ///< tokens_per_second, in this run
  std::vector<streamed_link> links;
};

/// Simulates; `trace` is a recorded link. Throws std::runtime_error where it cannot be read.
streaming stream(const facts& f, const conversation& c, const std::string& trace);

void print(const streaming& s);
std::string streaming_section(const streaming& s);
