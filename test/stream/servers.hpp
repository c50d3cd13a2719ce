// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <thread>
#include <vector>

/// Servers that a test starts for itself and that end with it, and the folder they live in.
namespace servers {

/// A folder that is gone when the test is.
struct temporary_folder {
  std::string path;
  temporary_folder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "sluice-XXXXXX").string();
    if (::mkdtemp(pattern.data())) path = pattern;
  }
  temporary_folder(const temporary_folder&) = delete;
  temporary_folder& operator=(const temporary_folder&) = delete;
  ~temporary_folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
};

inline sockaddr_in loopback(int port) {
  sockaddr_in a{};
  a.sin_family = AF_INET;
  a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  a.sin_port = htons(std::uint16_t(port));
  return a;
}
/// A listening socket on a free port; closed on exec.
inline int listen_somewhere(int& port) {
  const int s = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in a = loopback(0);
  socklen_t n = sizeof a;
  if (::bind(s, reinterpret_cast<sockaddr*>(&a), n) != 0 || ::listen(s, 64) != 0 ||
      ::getsockname(s, reinterpret_cast<sockaddr*>(&a), &n) != 0)
    std::abort();
  port = ntohs(a.sin_port);
  return s;
}
/// A port that nobody listens on, below those that outgoing connections get: no client of another test takes it before the
/// server that it is meant for has started.
inline int free_port() {
  static std::mt19937 random(std::random_device{}());
  for (;;) {
    const int port = 10'000 + int(random() % 20'000);
    const int s = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const sockaddr_in a = loopback(port);
    const bool free = ::bind(s, reinterpret_cast<const sockaddr*>(&a), sizeof a) == 0;
    ::close(s);
    if (free) return port;
  }
}
inline int connect_to(int port) {
  const int s = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const sockaddr_in a = loopback(port);
  if (::connect(s, reinterpret_cast<const sockaddr*>(&a), sizeof a) == 0) return s;
  ::close(s);
  return -1;
}

/// A program by name, in the folders where servers are; empty where it is not installed.
inline std::string find_program(const std::string& name) {
  const char* path = std::getenv("PATH");
  std::string folders = std::string(path ? path : "") + ":/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin:";
  for (std::size_t at = 0, end; (end = folders.find(':', at)) != folders.npos; at = end + 1) {
    const std::string file = folders.substr(at, end - at) + "/" + name;
    if (::access(file.c_str(), X_OK) == 0) return file;
  }
  return {};
}

/// A running server. It ends when this does, or when the test dies.
class server {
 public:
  server(const std::vector<std::string>& command, int port) : port_(port) {
    std::vector<char*> words;
    for (const std::string& w : command) words.push_back(const_cast<char*>(w.c_str()));
    words.push_back(nullptr);
    pid_ = ::fork();
    if (pid_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      const int null = ::open("/dev/null", O_RDWR);
      for (int fd : {0, 1, 2}) ::dup2(null, fd);
      ::execv(words[0], words.data());
      ::_exit(127);
    }
    for (int i = 0; i < 500 && !up(); ++i) ::usleep(10'000);
  }
  server(const server&) = delete;
  server& operator=(const server&) = delete;
  ~server() {
    ::kill(pid_, SIGTERM);
    for (int i = 0; i < 200; ++i) {
      if (::waitpid(pid_, nullptr, WNOHANG) == pid_) return;
      ::usleep(10'000);
    }
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  bool up() const {
    const int s = connect_to(port_);
    if (s >= 0) ::close(s);
    return s >= 0;
  }
  int port() const { return port_; }
  void signal(int which) const { ::kill(pid_, which); }

 private:
  pid_t pid_ = -1;
  int port_;
};

/// `extra`: further arguments such as "--maxmemory", "10mb".
inline std::vector<std::string> redis_command(const std::string& folder, int port,
                                              std::vector<std::string> extra = {}) {
  std::vector<std::string> c{find_program("redis-server"),
                             "--port",
                             std::to_string(port),
                             "--bind",
                             "127.0.0.1",
                             "--save",
                             "",
                             "--appendonly",
                             "no",
                             "--daemonize",
                             "no",
                             "--dir",
                             folder,
                             "--loglevel",
                             "warning"};
  c.insert(c.end(), extra.begin(), extra.end());
  return c;
}

/// A web server that keeps objects under /objects/ (GET with ranges, PUT), and under /locked/ for those in the folder's file
/// `users`, and has a few places that misbehave.
inline std::vector<std::string> nginx_command(const std::string& folder, int port,
                                              const std::string& address = "127.0.0.1") {
  std::filesystem::create_directories(folder + "/www/objects");
  std::ofstream(folder + "/nginx.conf") << "daemon off; master_process off; pid " << folder << "/nginx.pid; error_log "
                                        << folder << "/error.log;\nevents {}\nhttp {\n  access_log off; "
                                        << "client_max_body_size 64m;\n"
                                        << "  client_body_temp_path " << folder << "/body; proxy_temp_path " << folder
                                        << "/proxy; fastcgi_temp_path " << folder << "/fcgi; uwsgi_temp_path " << folder
                                        << "/uwsgi; scgi_temp_path " << folder << "/scgi;\n"
                                        << R"(  server {
    listen )" << address << ":" << port << R"( backlog=1024;
    root )" << folder << R"(/www;
    location /objects/ { dav_methods PUT DELETE; }
    location /moved/ { rewrite ^/moved/(.*)$ /objects/$1 redirect; }
    location /loop/ { return 302 /loop/again; }
    location /file/ { return 302 file:///etc/passwd; }
    location /busy/ { return 503; }
    location /forbidden/ { return 403; }
    location /noranges/ { alias )" << folder
                                        << R"(/www/objects/; max_ranges 0; }
    location /full/ { return 507; }
    location /locked/ { auth_basic locked; auth_basic_user_file )"
                                        << folder << R"(/users; alias )" << folder
                                        << R"(/www/objects/; dav_methods PUT; }
  }
}
)";
  return {find_program("nginx"), "-c", folder + "/nginx.conf", "-p", folder, "-e", folder + "/error.log"};
}

inline std::size_t open_descriptors() {
  std::size_t n = 0;
  for ([[maybe_unused]] const auto& e : std::filesystem::directory_iterator("/proc/self/fd")) ++n;
  return n;
}

}  // namespace servers
