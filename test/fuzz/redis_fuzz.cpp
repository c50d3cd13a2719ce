// SPDX-License-Identifier: Apache-2.0
// Answers of a Redis server: whatever bytes come, in whatever parts, reads and commands end, nothing is written outside
// their buffers, and bytes that are taken for a value's are those that the answer marks as such.
#include <sluice/stream/store/sources/redis.hpp>

#include <sys/socket.h>
#include <sys/un.h>
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

namespace {

void require(bool fact) {
  if (!fact) std::abort();
}

// A socket that clients find, in a folder that is gone when the process is.
struct listener {
  char folder[32] = "/tmp/sluice-fuzz-XXXXXX";
  std::string path;
  int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  listener() {
    require(::mkdtemp(folder) != nullptr);
    path = std::string(folder) + "/s";
    sockaddr_un a{};
    a.sun_family = AF_UNIX;
    std::memcpy(a.sun_path, path.data(), path.size());
    require(::bind(fd, reinterpret_cast<const sockaddr*>(&a), sizeof a) == 0 && ::listen(fd, 8) == 0);
  }
  ~listener() {
    ::close(fd);
    ::unlink(path.c_str());
    ::rmdir(folder);
  }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace sluice;
  using namespace sluice::stream;
  static const listener server;
  if (size < 2 || size > 4096) return 0;
  redis_options o;
  o.unix_socket = server.path;
  o.retry_budget = 0;
  o.piece_bytes = 1 + data[0] % 32;
  if (data[0] & 64) o.password = "secret", o.database = 1;
  const std::size_t cut = std::min<std::size_t>(data[1], size - 2);
  const std::string_view text(reinterpret_cast<const char*>(data) + 2, size - 2);

  redis_source source(o);
  constexpr std::byte mark{0xEE};
  std::vector<std::byte> a(40, mark), b(20, mark);  // the reads get their middles
  const ticket first = source.submit({"a", 0, std::span(a).subspan(10, 20)});
  const ticket second = source.submit({"b", 5, std::span(b).subspan(10, 5)});
  completion done[2];
  require(source.poll(done, 0) == 0);  // connected, and asked
  const int peer = ::accept(server.fd, nullptr, nullptr);
  require(peer >= 0);
  std::size_t n = 0;
  // In two parts; then nothing more comes.
  for (const std::string_view part : {text.substr(0, cut), text.substr(cut)}) {
    (void)!::send(peer, part.data(), part.size(), MSG_NOSIGNAL);
    if (n < 2) n += source.poll(std::span(done).subspan(n), 0);
    if (n < 2) n += source.poll(std::span(done).subspan(n), 0);
  }
  ::shutdown(peer, SHUT_WR);
  for (int i = 0; i < 50 && n < 2; ++i) n += source.poll(std::span(done).subspan(n), 1);
  require(n == 2);
  for (const completion& c : done) {
    require(c.which == first || c.which == second);
    const std::size_t wanted = c.which == first ? 20 : 5;
    require(c.bytes <= wanted && (c.state != status::ok || c.bytes == wanted));
    require(c.detail.find('\n') == c.detail.npos);
    require(o.password.empty() || c.detail.find(o.password) == c.detail.npos);
    const std::vector<std::byte>& all = c.which == first ? a : b;
    for (std::size_t i = 0; i < 10; ++i) require(all[i] == mark);
    for (std::size_t i = 10 + c.bytes; i < all.size(); ++i) require(all[i] == mark);
    const std::size_t piece = std::min(o.piece_bytes, wanted);
    if (c.bytes >= piece)
      require(text.find(std::string_view(reinterpret_cast<const char*>(all.data()) + 10, piece)) != text.npos);
  }
  ::close(peer);
  return 0;
}
