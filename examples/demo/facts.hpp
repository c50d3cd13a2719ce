// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <class_account.hpp>

#include <array>
#include <cstddef>
#include <string>
#include <vector>

/// One way to store the cache, and what it makes of it.
struct codec_row {
  std::string name;
  std::string what;  ///< in a few words
  int level = -1;    ///< of `balanced`; -1 = another codec
  bool lossless = false;
  std::size_t bytes = 0;
  double error = 0;        ///< of attention outputs: relative L2 per layer, averaged
  double expected_kl = 0;  ///< what calibration promises at this level, nats; 0 = not known
  double encode_rate = 0;  ///< bytes of f16 a second
  double decode_rate = 0;
  std::vector<double> layer_error{};
  std::vector<std::array<double, 2>> layer_kl{};  ///< expected_kl by layer, K and V
};

/// Seconds from the first byte on the link to the last value in its page.
struct delivery {
  double gigabits = 0;          ///< a second
  std::vector<double> seconds;  ///< like facts::rows
  std::size_t fastest = 0;
  std::size_t fastest_lossless = 0;
};

/// What must hold, checked on the way.
struct checks {
  bool truncated_equal = true;  ///< a file cut after a level decodes to what the whole file gives at that level
  bool lossless_exact = true;
  bool other_pages_untouched = true;
  int damaged_page = 0;  ///< of the example: one byte flipped
  std::string damaged_status;
  bool only_that_page = false;
  bool others_unchanged = false;
  int flips = 0, flips_detected = 0, flips_degraded = 0;
  bool ok() const {
    return truncated_equal && lossless_exact && other_pages_untouched && only_that_page && others_unchanged &&
           flips == flips_detected;
  }
};

/// All that the demo found out.
struct facts {
  std::string model;
  int tokens = 0, layers = 0, kv_heads = 0, heads = 0, head_dim = 0, queries = 0, page_size = 0, sinks = 0;
  std::string cpu, compiler, instructions;
  unsigned cores = 0;
  std::size_t raw_bytes = 0;
  std::vector<codec_row> rows;  ///< levels from fine to coarse, then the others; the last is raw
  int levels = 0;
  frame_account account;  ///< of the frame with all levels
  std::vector<delivery> links;
  checks checked;

  double values() const { return double(raw_bytes) / 2; }
  double bits(std::size_t bytes) const { return 8 * double(bytes) / values(); }
  double ratio(std::size_t bytes) const { return double(raw_bytes) / double(bytes); }
  const codec_row* row(const std::string& name) const {
    for (const codec_row& r : rows)
      if (r.name == name) return &r;
    return nullptr;
  }
  const codec_row& level(int j) const { return *row("level " + std::to_string(j)); }
  /// Of one pass, what is neither coded nor kept exact.
  std::size_t overhead(std::size_t pass) const {
    const sluice::pass_account& p = account.bytes.passes[pass];
    return account.classes[pass].states + p.heads;
  }
  /// The level that calibration aims at its target quality.
  int chosen_level() const { return levels > 1 ? 1 : 0; }
  const codec_row& raw() const { return rows.back(); }
  double seconds(const codec_row& r, double gigabits) const {
    return 8 * double(r.bytes) / (gigabits * 1e9) + double(raw_bytes) / r.decode_rate;
  }
  /// Gbit/s below which `r` arrives before the raw cache does; 0 = never.
  double break_even(const codec_row& r) const {
    const double saved = 8 * (double(raw_bytes) - double(r.bytes));
    const double spent = double(raw_bytes) / r.decode_rate - double(raw_bytes) / raw().decode_rate;
    return saved > 0 && spent > 0 ? saved / spent / 1e9 : 0;
  }
};

/// Runs everything on the capture and profile in `folder`; throws std::runtime_error where they cannot be used.
facts measure(const std::string& folder);
