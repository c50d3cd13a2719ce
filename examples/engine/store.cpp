// SPDX-License-Identifier: Apache-2.0
// The clients of all stores, for programs that know them by engine::store alone.
#include "store.hpp"

#include <sluice/stream/store/sources/hedged.hpp>
#include <sluice/stream/store/sources/tiered.hpp>

#include <store_url.hpp>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

namespace engine {

namespace {

int open_one(const std::string& url, bool create, const std::function<int(store&)>& f) {
  return with_store(url, [&](auto& source) {
    if constexpr (requires { source.create(); })
      if (const sluice::status made = create ? source.create() : sluice::status::ok; made != sluice::status::ok)
        throw data_error(sluice::stream::redacted(url) + ": " + in_words(made, source.detail()));
    source_of kept(source);
    return f(kept);
  });
}

// "URL,BYTES", as it is written on the command line.
std::pair<std::string, double> tier_of(const std::string& text) {
  const std::size_t comma = text.rfind(',');
  const std::string url = text.substr(0, comma);
  char* end = nullptr;
  double bytes = comma == text.npos ? 0 : std::strtod(text.c_str() + comma + 1, &end);
  if (end && *end)
    if (const std::size_t unit = std::string("KMG").find(*end); unit != std::string::npos) {
      for (std::size_t i = 0; i <= unit; ++i) bytes *= 1000;
      ++end;
    }
  if (!end || *end || !(bytes > 0) || !(bytes < 1e18))
    throw usage_error("--tier " + sluice::stream::redacted(url) + ": a tier is URL,BYTES such as DIR,500M");
  return {url, bytes};
}

// Opens them one in the other. How fast they are is not known: each is taken for a fourth of the speed of the one before.
int open_tiers(const std::vector<std::string>& names, bool create, std::vector<sluice::stream::tier<>>& open,
               const std::function<int(store&)>& f) {
  if (open.size() < names.size()) {
    const auto [url, bytes] = tier_of(names[open.size()]);
    return open_one(url, create, [&, bytes = bytes](store& s) {
      const double slower = std::pow(4.0, double(open.size()));
      open.push_back({&s, {bytes, 4e9 / slower, 5e-5 * slower, 0}});
      return open_tiers(names, create, open, f);
    });
  }
  sluice::stream::tiered_source<> all(open);
  if (const sluice::status s = all.open(); s != sluice::status::ok) {
    const std::string words = "the tiers: " + in_words(s, all.detail());
    if (s == sluice::status::refused && all.detail().empty())
      throw data_error(words + ": a web server or S3 does not list what it holds");
    std::fprintf(stderr, "engine: warning: %s\n", words.c_str());
  }
  source_of kept(all);
  const int code = f(kept);
  all.settle();
  return code;
}

}  // namespace

int open_store(const store_options& where, bool create, const std::function<int(store&)>& f) {
  if (where.store.empty() == where.tiers.empty() || (!where.tiers.empty() && !where.second.empty()))
    throw usage_error(
        "chunks are kept in --store URL, in --store URL --second URL, or in --tier URL,BYTES once or more");
  std::vector<sluice::stream::tier<>> open;
  if (!where.tiers.empty()) return open_tiers(where.tiers, create, open, f);
  return open_one(where.store, create, [&](store& first) {
    if (where.second.empty()) return f(first);
    return open_one(where.second, create, [&](store& other) {
      sluice::stream::hedged_source both(first, other);
      source_of kept(both);
      return f(kept);
    });
  });
}

}  // namespace engine
