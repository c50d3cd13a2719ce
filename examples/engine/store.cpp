// SPDX-License-Identifier: Apache-2.0
// The clients of all stores, for programs that know them by engine::store alone.
#include "store.hpp"

#include <store_url.hpp>

namespace engine {

int open_store(const std::string& url, bool create, const std::function<int(store&)>& f) {
  return with_store(url, [&](auto& source) {
    if constexpr (requires { source.create(); })
      if (const sluice::status made = create ? source.create() : sluice::status::ok; made != sluice::status::ok)
        throw data_error(sluice::stream::redacted(url) + ": " + in_words(made, source.detail()));
    store_of kept(source);
    return f(kept);
  });
}

}  // namespace engine
