// SPDX-License-Identifier: Apache-2.0
// The clients of all stores, for programs that know them by engine::store alone.
#include "store.hpp"

#include <sluice/stream/store/sources/hedged.hpp>

#include <store_url.hpp>

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

}  // namespace

int open_store(const std::string& url, const std::string& second, bool create, const std::function<int(store&)>& f) {
  return open_one(url, create, [&](store& first) {
    if (second.empty()) return f(first);
    return open_one(second, create, [&](store& other) {
      sluice::stream::hedged_source both(first, other);
      source_of kept(both);
      return f(kept);
    });
  });
}

}  // namespace engine
