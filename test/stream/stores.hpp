// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/stream/store/sources/http.hpp>
#include <sluice/stream/store/sources/redis.hpp>
#include <stream/context.hpp>
#include <stream/servers.hpp>

#include <string>

/// The committed capture in a redis-server and behind a web server, which live as long as the test.
struct stores {
  servers::temporary_folder folder;
  servers::server redis{servers::redis_command(folder.path, port[0], {"--bind", address, "--protected-mode", "no"}),
                        port[0]};
  servers::server nginx{servers::nginx_command(folder.path, port[1], address), port[1]};
  static inline std::string address = "127.0.0.1";  // that they listen on, if set before the first use
  static inline const int port[] = {servers::free_port(), servers::free_port()};

  stores() {
    REQUIRE(redis.up());
    REQUIRE(nginx.up());
    sluice::stream::redis_source r({.port = redis.port()});
    context::store(r);
    sluice::stream::http_source h({.url = url(nginx.port())});
    context::store(h);
  }
  static std::string url(int at, const std::string& place = "objects") {
    return "http://127.0.0.1:" + std::to_string(at) + "/" + place;
  }
  static stores& all() {
    static stores s;
    return s;
  }
};
