// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/numeric.hpp>
#include <sluice/stream/plan/link.hpp>

namespace sluice::stream {

/// How long a silent link is waited for, and how often it is asked again.
struct patience_options {
  double floor_seconds = 1;     ///< nothing is late before
  double ceiling_seconds = 60;  ///< nor is a link that stays silent probed more seldom
  int retries = 3;              ///< of a chunk whose reads end with connection_lost or timed_out; then it is lost
};

/// When silence makes what is in flight late: after the mean round trip and four deviations, as a sender of TCP waits for an
/// acknowledgement (RFC 6298, section 2). What is late is not lost: it is used if it comes. One link; no clock of its own.
/// Times that are heard or listened are seconds in which somebody listened; times to ask at are of any steady clock.
class patience {
 public:
  /// For a link that has not been heard yet.
  explicit patience(const patience_options& options = {}) noexcept : options_(options) {}

  /// See patience_options::retries.
  int retries() const noexcept { return options_.retries; }
  /// Seconds of silence after which what is in flight is late.
  double seconds(const link_history& link) const noexcept {
    const double usual = link.round_trip_seconds() + 4 * link.round_trip_deviation_seconds();
    return detail::max(detail::min(usual, options_.ceiling_seconds), options_.floor_seconds);
  }

  /// Nothing was in flight, now something is: silence counts from here.
  void begin(double listened) noexcept {
    if (!silent_) heard_ = detail::max(heard_, listened);
  }
  /// A byte, or an answer without one.
  void heard(double listened) noexcept {
    heard_ = listened;
    silent_ = false;
    ask_at_ = 0;
    probes_ = 0;
  }
  /// Looks, while something is in flight, whether the link as a whole has been silent for too long. It stays silent until
  /// it is heard.
  bool look(const link_history& link, double listened) noexcept {
    return silent_ = silent_ || listened >= silent_at(link);
  }
  /// A read that was asked for at `asked` (listened seconds) has failed for the link's sake: without a word since then, the
  /// link is silent at once, and asked again soon.
  void broke(double asked, double now) noexcept {
    if (asked < heard_) return;
    silent_ = true;
    ask_at_ = now + backed_off(options_.floor_seconds / 8);
  }

  /// The listened second at which the link will have been silent for too long.
  double silent_at(const link_history& link) const noexcept { return heard_ + seconds(link); }
  /// Whether it was, when look() last looked.
  bool silent() const noexcept { return silent_; }
  /// The listened second at which the link was heard last.
  double heard_seconds() const noexcept { return heard_; }
  /// A silent link gets one read per patience, and that doubles while it stays silent.
  bool may_ask(double now) const noexcept { return !silent_ || now >= ask_at_; }
  /// The time from which on a silent link may be asked again; 0 = at once.
  double ask_at_seconds() const noexcept { return ask_at_; }
  /// A read was asked for; a silent link then has its next pause.
  void asked(const link_history& link, double now) noexcept {
    if (!silent_) return;
    ask_at_ = now + backed_off(seconds(link));
    ++probes_;
  }

 private:
  double backed_off(double pause) const noexcept {
    for (int i = 0; i < probes_ && pause < options_.ceiling_seconds; ++i) pause *= 2;
    return detail::min(pause, detail::max(options_.ceiling_seconds, options_.floor_seconds));
  }

  patience_options options_;
  double heard_ = 0, ask_at_ = 0;
  int probes_ = 0;  // since it was heard
  bool silent_ = false;
};

}  // namespace sluice::stream
