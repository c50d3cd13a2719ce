// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/stream/store/object.hpp>
#include <sluice/stream/store/sources/url.hpp>

#include <cstdlib>
#include <map>
#include <string>
#include <string_view>
#include <vector>

// What S3 adds to HTTP: where a bucket is, and requests that are signed.

namespace sluice::stream {

/// Who asks, and whom: what Amazon's own tools take from the environment.
struct s3_access {
  std::string region = "us-east-1";  ///< of the bucket; signatures name it, wherever the endpoint is
  std::string access_key = {};       ///< empty = requests are not signed, as public buckets allow
  std::string secret_key = {};       ///< signs; never sent
  std::string session_token = {};    ///< of temporary keys
  std::string endpoint = {};         ///< of s3://BUCKET: http[s]://HOST[:PORT]; empty = Amazon's

  /// AWS_REGION or AWS_DEFAULT_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_ENDPOINT_URL_S3 or
  /// AWS_ENDPOINT_URL.
  static s3_access from_environment() {
    const auto variable = [](const char* name, const std::string& otherwise = {}) {
      const char* value = std::getenv(name);
      return value && *value ? std::string(value) : otherwise;
    };
    return {variable("AWS_REGION", variable("AWS_DEFAULT_REGION", "us-east-1")), variable("AWS_ACCESS_KEY_ID"),
            variable("AWS_SECRET_ACCESS_KEY"), variable("AWS_SESSION_TOKEN"),
            variable("AWS_ENDPOINT_URL_S3", variable("AWS_ENDPOINT_URL"))};
  }
};

/// The address of an http or s3 store, without user and password. s3://BUCKET is BUCKET.s3.REGION.amazonaws.com (in its path
/// where a bucket's name makes no host name, or has dots, which certificates do not cover); at another endpoint it stands in
/// the path, as MinIO, Ceph and boto3 have it. Elsewhere a bucket that is part of the host is simply written as one:
/// s3+https://BUCKET.HOST/PREFIX. Errors: invalid_argument, with what is wrong in `why`.
inline result<std::string> address_of(const store_url& store, const s3_access& access, std::string* why = nullptr) {
  const auto place = [](bool tls, const std::string& host, int port) {
    const bool usual = port == 0 || port == (tls ? 443 : 80);
    return std::string(tls ? "https://" : "http://") + (host.find(':') == host.npos ? host : "[" + host + "]") +
           (usual ? "" : ":" + std::to_string(port));
  };
  if (store.bucket.empty()) return place(store.tls, store.host, store.port) + store.path;
  const std::string in_path = "/" + percent_encode(store.bucket) + store.path;
  if (!access.endpoint.empty()) {
    std::string words;
    const result<url> e = parse_url(access.endpoint, &words);
    const bool http = e && (e->scheme == "http" || e->scheme == "https");
    if (!http || e->host.empty() || e->has_user || e->has_query || e->has_fragment) {
      if (why) *why = "AWS_ENDPOINT_URL is not http[s]://HOST[:PORT]" + (words.empty() ? "" : ": " + words);
      return status::invalid_argument;
    }
    std::string path = e->path;
    while (path.ends_with('/')) path.pop_back();
    return place(e->scheme == "https", e->host, e->port) + path + in_path;
  }
  bool in_host = store.bucket.size() >= 3 && store.bucket.size() <= 63;
  for (const char c : store.bucket) in_host = in_host && ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-');
  const std::string amazon = "s3." + access.region + ".amazonaws.com" + (access.region.starts_with("cn-") ? ".cn" : "");
  return "https://" + (in_host ? store.bucket + "." + amazon + store.path : amazon + in_path);
}

/// A path as S3 signs it: every byte encoded that is neither unreserved nor a slash, once.
inline result<std::string> s3_path(std::string_view path) {
  const result<std::string> plain = percent_decode(path);
  if (!plain) return plain.status();
  return percent_encode(*plain, "/");
}

/// The Authorization header of a request without a query (Signature Version 4, AWS documentation "Authenticating Requests:
/// Using the Authorization Header"). `path` as s3_path() gives it; `headers` by their names in lower case, all of them are
/// signed, among them host, x-amz-date (YYYYMMDDTHHMMSSZ) and x-amz-content-sha256.
inline std::string s3_authorization(const s3_access& access, std::string_view method, std::string_view path,
                                    const std::map<std::string, std::string>& headers) {
  const auto bytes_of = [](std::string_view s) { return std::as_bytes(std::span(s.data(), s.size())); };
  const auto hmac = [&](std::span<const std::byte> key, std::string_view text) {  // RFC 2104
    const digest hashed = sha256().add(key).finish();
    if (key.size() > 64) key = hashed;
    std::vector<std::byte> inner(64, std::byte{0x36}), outer(64, std::byte{0x5c});
    for (std::size_t i = 0; i < key.size(); ++i) inner[i] ^= key[i], outer[i] ^= key[i];
    return sha256().add(outer).add(sha256().add(inner).add(bytes_of(text)).finish()).finish();
  };
  const auto value_of = [&](const char* name) {
    const auto found = headers.find(name);
    return found == headers.end() ? std::string() : found->second;
  };
  std::string names, canonical = std::string(method) + "\n" + std::string(path) + "\n\n";
  for (const auto& [name, value] : headers) {
    names += (names.empty() ? "" : ";") + name;
    canonical += name + ":" + value + "\n";
  }
  canonical += "\n" + names + "\n" + value_of("x-amz-content-sha256");
  const std::string time = value_of("x-amz-date"), day = time.substr(0, 8),
                    scope = day + "/" + access.region + "/s3/aws4_request";
  const std::string text =
      "AWS4-HMAC-SHA256\n" + time + "\n" + scope + "\n" + to_hex(sha256().add(bytes_of(canonical)).finish());
  digest key = hmac(bytes_of("AWS4" + access.secret_key), day);
  for (const std::string_view part :
       {std::string_view(access.region), std::string_view("s3"), std::string_view("aws4_request")})
    key = hmac(key, part);
  return "AWS4-HMAC-SHA256 Credential=" + access.access_key + "/" + scope + ",SignedHeaders=" + names +
         ",Signature=" + to_hex(hmac(key, text));
}

}  // namespace sluice::stream
