// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/status.hpp>
#include <sluice/stream/store/sources/words.hpp>

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <utility>
#ifdef __linux__
#include <linux/sockios.h>
#endif
#ifdef SLUICE_WITH_TLS
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#endif

namespace sluice::detail {

/// Where a server is: a host (name, IPv4 or IPv6 address) and port, or the path of a Unix socket.
struct endpoint {
  std::string host;
  int port = 0;
  std::string unix_socket = {};
  bool tls = false;
  std::string ca_file = {}, certificate_file = {}, key_file = {};  // PEM

  std::string words() const {
    if (!unix_socket.empty()) return "socket '" + one_line(last_part(unix_socket)) + "'";
    const std::string name = one_line(host);
    return (name.find(':') == name.npos ? name : "[" + name + "]") + ":" + std::to_string(port);
  }
};

/// Bytes to and from one server over TCP, a Unix socket or TLS; nothing blocks but wait(), and start() where the system
/// has to look a name up. What fails says why: state(), words().
class connection {
 public:
  enum class phase { closed, opening, open };

  explicit connection(endpoint where) : where_(std::move(where)) {}
  connection(const connection&) = delete;
  connection& operator=(const connection&) = delete;
  ~connection() { close(); }

  phase now_in() const noexcept { return phase_; }
  status state() const noexcept { return state_; }
  const std::string& words() const noexcept { return words_; }
  const endpoint& where() const noexcept { return where_; }

  /// Begins to connect, within `seconds` in all.
  bool start(double seconds) {
    close();
#ifndef SLUICE_WITH_TLS
    if (where_.tls) return fail(status::refused, "TLS is not in this build (OpenSSL was not found when it was made)");
#endif
    if (where_.unix_socket.size() >= sizeof(sockaddr_un::sun_path))
      return fail(status::invalid_argument, where_.words() + ": the path is too long for a socket");
    if (where_.unix_socket.empty() && !addresses_) {
      addrinfo hints{};
      hints.ai_socktype = SOCK_STREAM;
      hints.ai_flags = AI_NUMERICSERV;
      addrinfo* found = nullptr;
      const int error = ::getaddrinfo(where_.host.c_str(), std::to_string(where_.port).c_str(), &hints, &found);
      addresses_.reset(found);
      if (error != 0)
        return fail(status::connection_lost,
                    "the host '" + one_line(where_.host) + "' is not found: " +
                        (error == EAI_SYSTEM ? errno_words(errno) : std::string(::gai_strerror(error))));
    }
    next_ = addresses_.get();
    seconds_ = seconds;
    left_ = now();
    until_ = left_ + seconds;
    phase_ = phase::opening;
    return where_.unix_socket.empty() ? next_address() : connect_to_unix_socket();
  }

  /// Goes on with connecting. False once it has failed.
  bool advance() {
    if (phase_ != phase::opening) return phase_ == phase::open;
    const double away = now() - std::exchange(left_, now());  // what the caller spent elsewhere counts for nothing
    until_ += away;
    address_until_ += away;
    while (!connected_) {
      pollfd p{fd_, POLLOUT, 0};
      if (::poll(&p, 1, 0) > 0) {
        int error = 0;
        socklen_t n = sizeof error;
        ::getsockopt(fd_, SOL_SOCKET, SO_ERROR, &error, &n);
        connected_ = error == 0;
        if (!connected_ && !try_next(error)) return false;
      } else if (left_ >= address_until_) {
        if (!try_next(ETIMEDOUT)) return false;
      } else {
        wants_ = POLLOUT;
        return true;
      }
    }
    if (where_.tls) return handshake();
    phase_ = phase::open;
    return true;
  }

  /// Up to as many bytes as both spans hold, the first one first; 0: nothing is here yet; -1: the connection is lost.
  long read(std::span<char> first, std::span<char> then) {
#ifdef SLUICE_WITH_TLS
    if (tls_) {
      const std::span<char> to = first.empty() ? then : first;
      ::ERR_clear_error();
      return outcome(::SSL_read(tls_.get(), to.data(), int(to.size() < most ? to.size() : most)), POLLIN);
    }
#endif
    iovec parts[2] = {{first.data(), first.size()}, {then.data(), then.size()}};
    msghdr message{};
    message.msg_iov = parts;
    message.msg_iovlen = 2;
    return outcome(::recvmsg(fd_, &message, MSG_DONTWAIT), POLLIN);
  }
  /// Bytes of `from` that were taken; 0: none can be now; -1: the connection is lost.
  long write(std::span<const char> from) {
#ifdef SLUICE_WITH_TLS
    if (tls_) {
      ::ERR_clear_error();
      return outcome(::SSL_write(tls_.get(), from.data(), int(from.size() < most ? from.size() : most)), POLLOUT);
    }
#endif
    return outcome(::send(fd_, from.data(), from.size(), MSG_NOSIGNAL | MSG_DONTWAIT), POLLOUT);
  }

  /// Bytes that the system has taken and the other side has not: while they become fewer, something moves.
  long unsent() const noexcept {
    int n = 0;
#ifdef SIOCOUTQ
    if (::ioctl(fd_, SIOCOUTQ, &n) != 0) n = 0;
#endif
    return n;
  }

  /// Waits for what the calls since the last wait could not do, until then or for `seconds`.
  void wait(double seconds) {
    pollfd p{fd_, wants_, 0};
    const double s = seconds < 0 ? 0 : seconds > 60 ? 60 : seconds;
    ::poll(&p, 1, int(s * 1000 + 0.999));
    left_ = now();
    wants_ = 0;
  }
  /// When connecting has to be looked at again.
  double until() const noexcept { return connected_ ? until_ : address_until_; }

  void close() noexcept {
#ifdef SLUICE_WITH_TLS
    tls_.reset();
#endif
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
    connected_ = false;
    wants_ = 0;
    phase_ = phase::closed;
  }

 private:
  static constexpr std::size_t most = std::size_t{1} << 30;
  static double now() noexcept {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
  }

  bool fail(status s, std::string words) {
    close();
    state_ = s;
    words_ = std::move(words);
    return false;
  }
  bool cannot_connect(int error) {
    char seconds[32];
    std::snprintf(seconds, sizeof seconds, "%.3g", seconds_);
    return error == ETIMEDOUT
               ? fail(status::timed_out, "no connection to " + where_.words() + " within " + seconds + " s")
               : fail(status::connection_lost, "no connection to " + where_.words() + ": " + errno_words(error));
  }

  bool connect_to_unix_socket() {
    sockaddr_un a{};
    a.sun_family = AF_UNIX;
    std::memcpy(a.sun_path, where_.unix_socket.data(), where_.unix_socket.size());
    address_until_ = until_;
    fd_ = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd_ < 0 || ::connect(fd_, reinterpret_cast<const sockaddr*>(&a), sizeof a) != 0) return cannot_connect(errno);
    return connected_ = true;
  }
  // Begins to connect to one address after the other until one does not fail at once.
  bool next_address() {
    int error = EHOSTUNREACH;
    for (; next_; next_ = next_->ai_next) {
      int left = 0;
      for (const addrinfo* a = next_; a; a = a->ai_next) ++left;
      address_until_ = left_ + (until_ - left_) / left;
      fd_ = ::socket(next_->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
      const int on = 1;
      if (fd_ >= 0) ::setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
      if (fd_ >= 0 && (::connect(fd_, next_->ai_addr, next_->ai_addrlen) == 0 || errno == EINPROGRESS)) return true;
      error = errno;
      if (fd_ >= 0) ::close(std::exchange(fd_, -1));
    }
    addresses_.reset();  // asked for anew, should the server have moved
    return cannot_connect(error);
  }
  bool try_next(int error) {
    ::close(std::exchange(fd_, -1));
    if (next_ && (next_ = next_->ai_next)) return next_address();
    addresses_.reset();
    return cannot_connect(error);
  }

  bool handshake() {
#ifdef SLUICE_WITH_TLS
    if (!tls_ && !prepare()) return false;
    ::ERR_clear_error();
    const int r = ::SSL_connect(tls_.get());
    if (r == 1) {
      phase_ = phase::open;
      return true;
    }
    const int error = ::SSL_get_error(tls_.get(), r);
    if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) {
      wants_ = error == SSL_ERROR_WANT_READ ? POLLIN : POLLOUT;
      if (left_ < until_) return true;
      return fail(status::timed_out, "TLS with " + where_.words() + " takes too long");
    }
    const long verified = ::SSL_get_verify_result(tls_.get());
    if (verified != X509_V_OK)
      return fail(status::refused, "TLS with " + where_.words() + ": the server's certificate is not trusted: " +
                                       ::X509_verify_cert_error_string(verified));
    const bool plain = ERR_GET_REASON(::ERR_peek_error()) == SSL_R_WRONG_VERSION_NUMBER;
    return fail(status::connection_lost, "TLS with " + where_.words() + ": " + tls_words(error) +
                                             (plain ? " (the server does not speak TLS here)" : ""));
#else
    return false;
#endif
  }

  // What a call of the system or of TLS has brought.
  long outcome(ssize_t n, short wanted) {
    if (n > 0) return n;
    std::string words;
#ifdef SLUICE_WITH_TLS
    if (tls_) {
      const int error = ::SSL_get_error(tls_.get(), int(n));
      if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) {
        wants_ |= error == SSL_ERROR_WANT_READ ? POLLIN : POLLOUT;
        return 0;
      }
      words = tls_words(error);
    } else
#endif
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) {
      wants_ = short(wants_ | wanted);
      return 0;
    } else {
      words = n < 0 ? errno_words(errno) : "the server closed the connection";
    }
    state_ = status::connection_lost;
    words_ = where_.words() + ": " + words;
    return -1;
  }

#ifdef SLUICE_WITH_TLS
  static std::string tls_words(int error) {
    if (error == SSL_ERROR_ZERO_RETURN) return "the server closed the connection";
    const unsigned long code = ::ERR_peek_error();
    const char* reason = code ? ::ERR_reason_error_string(code) : nullptr;
    if (reason) return reason;
    return error == SSL_ERROR_SYSCALL && errno != 0 ? errno_words(errno) : "the server closed the connection";
  }

  // A socket for TLS that raises no SIGPIPE, which the library's own one does.
  static const BIO_METHOD* socket_method() {
    static BIO_METHOD* const m = [] {
      BIO_METHOD* made = ::BIO_meth_new(::BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "sluice");
      if (!made) return made;
      ::BIO_meth_set_write(made, [](BIO* b, const char* from, int n) {
        const ssize_t r = ::send(descriptor(b), from, std::size_t(n), MSG_NOSIGNAL | MSG_DONTWAIT);
        BIO_clear_retry_flags(b);
        if (r < 0 && (errno == EAGAIN || errno == EINTR)) BIO_set_retry_write(b);
        return int(r);
      });
      ::BIO_meth_set_read(made, [](BIO* b, char* to, int n) {
        const ssize_t r = ::recv(descriptor(b), to, std::size_t(n), MSG_DONTWAIT);
        BIO_clear_retry_flags(b);
        if (r < 0 && (errno == EAGAIN || errno == EINTR)) BIO_set_retry_read(b);
        return int(r);
      });
      ::BIO_meth_set_ctrl(made, [](BIO*, int what, long, void*) { return long(what == BIO_CTRL_FLUSH); });
      return made;
    }();
    return m;
  }
  static int descriptor(BIO* b) noexcept { return int(reinterpret_cast<std::intptr_t>(::BIO_get_data(b))); }

  bool prepare() {
    ::ERR_clear_error();
    const auto cannot = [&](const std::string& what) {
      return fail(status::invalid_argument, "TLS: " + what + ": " + tls_words(0));
    };
    if (!context_) {
      context_.reset(::SSL_CTX_new(::TLS_client_method()));
      SSL_CTX* c = context_.get();
      if (!c) return cannot("no memory");
      SSL_CTX_set_min_proto_version(c, TLS1_2_VERSION);
      ::SSL_CTX_set_verify(c, SSL_VERIFY_PEER, nullptr);
      SSL_CTX_set_mode(c, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
#ifdef SSL_OP_IGNORE_UNEXPECTED_EOF
      ::SSL_CTX_set_options(c, SSL_OP_IGNORE_UNEXPECTED_EOF);
#endif
      bool good = true;
      const auto use = [&](const char* what, const std::string& file, int done) {
        if (done == 1 || !good) return;
        good = cannot(std::string(what) + " '" + one_line(last_part(file)) + "' cannot be used");
        context_.reset();
      };
      if (where_.ca_file.empty())
        ::SSL_CTX_set_default_verify_paths(c);
      else
        use("the CA file", where_.ca_file, ::SSL_CTX_load_verify_locations(c, where_.ca_file.c_str(), nullptr));
      if (good && !where_.certificate_file.empty()) {
        use("the certificate", where_.certificate_file,
            ::SSL_CTX_use_certificate_chain_file(c, where_.certificate_file.c_str()));
        const std::string& key = where_.key_file.empty() ? where_.certificate_file : where_.key_file;
        if (good) use("the key", key, ::SSL_CTX_use_PrivateKey_file(c, key.c_str(), SSL_FILETYPE_PEM));
      }
      if (!good) return false;
    }
    tls_.reset(::SSL_new(context_.get()));
    BIO* b = tls_ && socket_method() ? ::BIO_new(socket_method()) : nullptr;
    if (!b) return cannot("no memory");
    ::BIO_set_data(b, reinterpret_cast<void*>(std::intptr_t(fd_)));
    ::BIO_set_init(b, 1);
    ::SSL_set_bio(tls_.get(), b, b);
    unsigned char address[16];
    const bool number = ::inet_pton(AF_INET, where_.host.c_str(), address) == 1 ||
                        ::inet_pton(AF_INET6, where_.host.c_str(), address) == 1;
    if (number)
      ::X509_VERIFY_PARAM_set1_ip_asc(::SSL_get0_param(tls_.get()), where_.host.c_str());
    else if (where_.unix_socket.empty() && (::SSL_set1_host(tls_.get(), where_.host.c_str()) != 1 ||
                                            SSL_set_tlsext_host_name(tls_.get(), where_.host.c_str()) != 1))
      return cannot("the host's name cannot be used");
    return true;
  }

  struct free_tls {
    void operator()(SSL_CTX* c) const noexcept { ::SSL_CTX_free(c); }
    void operator()(SSL* s) const noexcept { ::SSL_free(s); }
  };
  std::unique_ptr<SSL_CTX, free_tls> context_;
  std::unique_ptr<SSL, free_tls> tls_;
#endif

  struct free_addresses {
    void operator()(addrinfo* a) const noexcept { ::freeaddrinfo(a); }
  };
  endpoint where_;
  std::unique_ptr<addrinfo, free_addresses> addresses_;
  const addrinfo* next_ = nullptr;
  int fd_ = -1;
  phase phase_ = phase::closed;
  bool connected_ = false;
  short wants_ = 0;
  double seconds_ = 0, until_ = 0, address_until_ = 0, left_ = 0;
  status state_ = status::ok;
  std::string words_;
};

}  // namespace sluice::detail
