// SPDX-License-Identifier: Apache-2.0
#include <sluice/stream/store/sources/redis.hpp>
#include <sluice/version.hpp>

#include <cstdio>

int main() {
  sluice::stream::redis_options o;
  o.unix_socket = "/nowhere/redis.sock";
  o.tls = true;
  o.retries = 0;
  sluice::stream::redis_source source(o);
#ifdef SLUICE_WITH_TLS
  const auto expected = sluice::status::connection_lost;
#else
  const auto expected = sluice::status::refused;
#endif
  const auto size = source.size("a");
  std::printf("%s: %.*s\n", to_string(size.status()), int(source.detail().size()), source.detail().data());
  if (size.status() != expected) return 1;
  std::printf("sluice %d.%d.%d\n", SLUICE_VERSION_MAJOR, SLUICE_VERSION_MINOR, SLUICE_VERSION_PATCH);
  return 0;
}
