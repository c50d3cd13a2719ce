// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <command.hpp>

#include <sluice/stream/source/file.hpp>
#ifdef SLUICE_WITH_HTTP
#include <sluice/stream/source/http.hpp>
#endif
#ifdef SLUICE_WITH_REDIS
#include <sluice/stream/source/redis.hpp>
#endif

#include <cstdlib>
#include <string>
#include <string_view>

/// What store_url() understands, for usage texts.
inline constexpr char store_urls[] =
    "DIR | redis://[:PASSWORD@]HOST[:PORT][/DB] | http(s)://HOST/PATH | s3+http(s)://HOST/BUCKET/PATH";

/// Opens the store behind a URL and returns f(source), whose type is the source's own. S3 takes keys and region from
/// AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION. Errors: throws usage_error where this build lacks the client.
template <class F>
auto with_store(const std::string& url, F&& f) {
  const auto starts = [&](std::string_view s) { return url.starts_with(s); };
  if (starts("redis://")) {
#ifdef SLUICE_WITH_REDIS
    sluice::stream::redis_options o;
    std::string rest = url.substr(8);
    if (const std::size_t at = rest.rfind('@'); at != rest.npos) {
      const std::size_t colon = rest.find(':');
      if (colon < at) o.password = rest.substr(colon + 1, at - colon - 1);
      rest = rest.substr(at + 1);
    }
    if (const std::size_t slash = rest.find('/'); slash != rest.npos) {
      if (slash + 1 < rest.size())
        o.database =
            int(arguments::parse("the database of " + url, std::string_view(rest).substr(slash + 1), 0, 1 << 20));
      rest.resize(slash);
    }
    if (const std::size_t colon = rest.rfind(':'); colon != rest.npos) {
      o.port = int(arguments::parse("the port of " + url, std::string_view(rest).substr(colon + 1), 1, 65535));
      rest.resize(colon);
    }
    if (!rest.empty()) o.host = rest;
    sluice::stream::redis_source source(o);
    return f(source);
#else
    throw usage_error("built without hiredis: " + url);
#endif
  }
  if (starts("http://") || starts("https://") || starts("s3+http://") || starts("s3+https://")) {
#ifdef SLUICE_WITH_HTTP
    sluice::stream::http_options o;
    o.url = starts("s3+") ? url.substr(3) : url;
    if (starts("s3+")) {
      const auto variable = [](const char* name, const char* otherwise) {
        const char* value = std::getenv(name);
        return std::string(value ? value : otherwise);
      };
      o.sigv4 = "aws:amz:" + variable("AWS_REGION", "us-east-1") + ":s3";
      o.user = variable("AWS_ACCESS_KEY_ID", "");
      o.password = variable("AWS_SECRET_ACCESS_KEY", "");
    }
    sluice::stream::http_source source(o);
    return f(source);
#else
    throw usage_error("built without libcurl: " + url);
#endif
  }
  if (url.find("://") != url.npos && !starts("file://")) throw usage_error("a store is " + std::string(store_urls));
  sluice::stream::file_source source(starts("file://") ? url.substr(7) : url);
  return f(source);
}
