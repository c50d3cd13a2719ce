// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <command.hpp>

#include <sluice/stream/store/sources/file.hpp>
#include <sluice/stream/store/sources/url.hpp>
#ifdef SLUICE_WITH_HTTP
#include <sluice/stream/store/sources/http.hpp>
#endif
#ifdef SLUICE_WITH_REDIS
#include <sluice/stream/store/sources/redis.hpp>
#endif

#include <cstdlib>
#include <string>

/// What with_store() understands, for usage texts.
inline constexpr const char* store_urls = sluice::stream::store_url_forms;

/// Opens the store behind a URL and returns f(source), whose type is the source's own. S3 takes keys, region and endpoint
/// from the environment, as Amazon's tools do; AWS_CA_BUNDLE, CURL_CA_BUNDLE or SSL_CERT_FILE name certificates to trust. Print
/// sluice::stream::redacted(url), never the URL. Errors: throws usage_error for what is no store, or none that this build has
/// the client for.
template <class F>
auto with_store(const std::string& url, F&& f) {
  using namespace sluice::stream;
  std::string why;
  const sluice::result<store_url> store = parse_store_url(url, &why);
  const auto wrong = [&](const std::string& words) { return usage_error(redacted(url) + ": " + words); };
  if (!store) throw wrong(why);
  if (store->kind == store_kind::folder) {
    file_source source(store->folder);
    return f(source);
  }
  if (store->kind == store_kind::redis) {
#ifdef SLUICE_WITH_REDIS
    redis_source source(redis_options_of(*store));
    return f(source);
#else
    throw wrong("built without the Redis client");
#endif
  }
#ifdef SLUICE_WITH_HTTP
  http_options o;
  if (store->kind == store_kind::s3) o.s3 = s3_access::from_environment();
  const sluice::result<std::string> address = address_of(*store, o.s3.value_or(s3_access{}), &why);
  if (!address) throw wrong(why);
  o.url = *address;
  o.user = store->user;
  o.password = store->password;
  for (const char* name : {"AWS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"})
    if (const char* file = std::getenv(name); file && o.ca_file.empty()) o.ca_file = file;
  http_source source(o);
  return f(source);
#else
  throw wrong("built without libcurl");
#endif
}
