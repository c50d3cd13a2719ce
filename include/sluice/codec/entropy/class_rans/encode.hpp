// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/entropy/class_rans/group_tables.hpp>
#include <sluice/codec/entropy/class_rans/section.hpp>
#include <sluice/codec/entropy/class_rans/states.hpp>
#include <sluice/codec/quantize/ternary.hpp>
#include <sluice/codec/rans/rans.hpp>
#include <sluice/codec/stages.hpp>
#include <sluice/numeric.hpp>

#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

namespace sluice::detail::inline SLUICE_HOST_ABI {

// How often each symbol of the lanes of a block occurs: values of the base pass within +-reach (the ends collect what lies
// beyond), and refinement digits by context (parent zero, parent not zero; digits same, towards zero or -1, away or +1).
class block_histogram {
 public:
  // Of no rows yet; `made` passes.
  void clear(int made) {
    made_ = made;
    half_ = (power_of_3(made - 1) - 1) / 2;
    least_ = most_ = 0;
    fine_.assign(std::size_t(32 * fine_stride()), 0);
    std::memset(base_, 0, sizeof base_);
  }

  // Some rows from one on: their values in the base pass, and where their digits are. Where each lane counts is worked out
  // for all of them before any counts: the one has vectors, the other none.
  template <class Wanted>
  void add(const std::int16_t* values, const std::int8_t* const* digits, std::size_t at, std::size_t ld, int rows,
           Wanted wanted) {
    const int half = half_, other = 2 * half_ + 1;
    const auto stride = std::size_t(fine_stride());
    std::int16_t low[32] = {}, high[32] = {};
    for (int r = 0; r < rows; ++r, at += ld) {
      if (!wanted(r)) continue;
      std::int16_t below[32] = {}, base[32], fine[32];  // below: what all digits make together
      for (int p = 1; p < made_; ++p) {
        const std::int8_t* const d = digits[p] + at;
        for (int lane = 0; lane < 32; ++lane) below[lane] = std::int16_t(3 * below[lane] + d[lane]);
      }
      for (int lane = 0; lane < 32; ++lane) {
        const int v = values[at + std::size_t(lane)], sign = v < 0 ? -1 : 0, most = v < reach ? v : reach;
        base[lane] = std::int16_t(most > -reach ? most : -reach);
        fine[lane] = std::int16_t(half + ((below[lane] ^ sign) - sign) + (v != 0 ? other : 0));
        low[lane] = base[lane] < low[lane] ? base[lane] : low[lane];
        high[lane] = base[lane] > high[lane] ? base[lane] : high[lane];
      }
      std::uint16_t* count = fine_.data();
      for (int lane = 0; lane < 32; ++lane, count += stride) {
        ++base_[lane][base[lane] + reach];
        ++count[fine[lane]];
      }
    }
    for (int lane = 0; lane < 32; ++lane) {
      least_ = detail::min<int>(least_, low[lane]);
      most_ = detail::max<int>(most_, high[lane]);
    }
  }

  // To be called once all rows are there.
  void count_digits() {
    for (std::size_t lane = 0; lane < 32; ++lane) {
      std::memset(digit_[lane], 0, sizeof digit_[lane]);
      const std::uint16_t* const fine = &fine_[lane * std::size_t(fine_stride())];
      for (int place = 0; place < fine_stride(); ++place) {
        if (!fine[place]) continue;
        int value = place - half_;
        for (int p = made_ - 1; p > 0; --p) {
          const int parent = coarser(value);
          digit_[lane][p - 1][parent != 0][digit_symbol(parent, value - 3 * parent)] += fine[place];
          value = parent;
        }
      }
    }
  }

  // Bits of everything counted of a lane under a class.
  float bits(int lane, std::uint8_t cls, int passes) const noexcept {
    const code_lengths& lengths = code_lengths::all();
    const float* const base = lengths.base_of(cls, passes - 1);
    float sum = 0;
    for (int v = least_; v <= most_; ++v) sum += float(base_[lane][v + reach]) * base[v];
    for (int p = 1; p < made_; ++p) {
      const auto* const digit = lengths.digit_of(cls, passes - 1 - p);
      for (const int s : {1, 0, 2})
        for (int parent = 0; parent < 2; ++parent)
          if (const std::uint16_t n = digit_[lane][p - 1][parent][s]) sum += float(n) * digit[parent][s];
    }
    return sum;
  }

 private:
  static constexpr int reach = 40;
  int fine_stride() const noexcept { return 2 * (2 * half_ + 1); }

  int made_ = 0, half_ = 0;
  int least_ = 0, most_ = 0;
  std::uint16_t base_[32][2 * reach + 1];
  // Finest values that begin with 0 or 1 in the base pass, from -half_ on: digits below any other are as below 1, but for
  // the sign.
  std::vector<std::uint16_t> fine_;
  std::uint16_t digit_[32][max_passes - 1][2][3];
};

// class_rans: values under static class tables, base and refinements.
class class_rans_encoder {
 public:
  class_rans_encoder(const profile& p, isa i) : isa_(i), tables_(p), moved_(tables_.size()) {}

  // Errors: too_large where the tile does not fit the format's counts.
  status encode(symbols& s, tile_writer& w) {
    in_ = &s;
    passes_ = s.passes;
    made_ = s.made;
    width_ = s.width;
    stride_ = s.ld;
    const group_tables& known = tables_.of(s.place);
    explicit_ = !s.calibrated || known.classes.empty();
    row_tables::cache* const kept = explicit_ ? nullptr : &moved_[tables_.index(s.place)];
    choose_spreads(known);
    choose_classes(known, s.rows);
    const row_tables& t = used_;
    used_.set(chosen_ ? *chosen_ : own_, &s.classes, s.rows, passes_, made_, chosen_ ? kept : nullptr);
    if (const status e = find_exceptions(s.rows); e != status::ok) return e;
    // Two passes at a time: an even one goes on in the one after it, so that two are coded with one set of states. The
    // later one is coded first, for a decoder's last states are an encoder's first.
    for (int pass = 0, level = 0; pass < made_; pass += 2) {
      while (level < pass - 1) advance(++level);
      const bool two = pass + 1 < made_ && s.rows > 0 && t.blocks(pass) > 0;
      if (pass + 1 < made_) {
        if (pass) {
          parents_ = s.values;
          advance(pass);
        }
        if (!write(t, pass + 1, two, false, w)) return status::too_large;
        if (pass) s.values.swap(parents_);
      }
      if (!write(t, pass, false, two, w)) return status::too_large;
    }
    return status::ok;
  }

 private:
  // The section of a pass. in_->values are those of the pass before, in the base pass its own.
  bool write(const row_tables& t, int pass, bool continues, bool goes_on, tile_writer& w) {
    if (!code(t, pass, continues, goes_on)) return false;
    class_section c;
    if (pass == 0) {
      c.delta_blocks = delta_blocks_;
      c.deltas = deltas_;
      if (explicit_) c.classes = std::span(own_.classes).first(std::size_t(width_));
    }
    const std::vector<exception>& e = exceptions_[pass];
    c.exceptions = {reinterpret_cast<const std::uint8_t*>(e.data()), e.size() * sizeof(exception)};
    c.goes_on = goes_on;
    c.code = code_;
    c.write(w.at(pass, section::entropy));
    return true;
  }

  // --- classes

  // How much wider than the profile says rows of an open class are: what takes the fewest bits. `norm_` brings values of
  // all rows to the units of the profile's classes.
  void choose_spreads(const group_tables& known) {
    norm_.clear();
    row_classes& classes = in_->classes;
    if (classes.empty()) return;
    for (int c = 0; c < int(classes.classes().size()); ++c) {
      if (classes.classes()[std::size_t(c)].spread != open_spread) continue;
      int best = 0;
      float least = 1e30f;
      const auto consider = [&](int spread) {
        float bits = 0;
        for (int r = 0; r < in_->rows; ++r)
          if (classes.of(r) == c) bits += row_bits(known, r, spread - classes.classes()[std::size_t(c)].step);
        if (bits < least) least = bits, best = spread;
      };
      for (int spread = 0; !explicit_ && spread <= max_row_spread; spread += 12) consider(spread);
      for (const int by : {6, 3})
        for (const int spread : {best - by, best + by})
          if (!explicit_ && spread >= 0 && spread <= max_row_spread) consider(spread);
      classes.set_spread(c, best);
    }
    float factor[max_row_classes];
    for (std::size_t c = 0; c < classes.classes().size(); ++c) factor[c] = row_scale(-classes.classes()[c].shift());
    norm_.resize(std::size_t(in_->rows));
    for (int r = 0; r < in_->rows; ++r) norm_[std::size_t(r)] = factor[classes.of(r)];
  }
  float norm(int row) const noexcept { return norm_.empty() ? 1.f : norm_[std::size_t(row)]; }

  // Bits of one row under classes that are moved.
  float row_bits(const group_tables& known, int row, int shift) const {
    const code_lengths& lengths = code_lengths::all();
    float bits = 0;
    for (int i = 0; i < width_; ++i) {
      const std::size_t at = std::size_t(row) * std::size_t(stride_) + std::size_t(i);
      const std::uint8_t cls = shift_class(known.classes[std::size_t(i)], shift);
      int v = in_->values[at];
      bits +=
          detail::abs(v) <= code_lengths::reach ? lengths.base_of(cls, passes_ - 1)[v] : bits_base(cls, passes_ - 1, v);
      for (int p = 1; p < made_; ++p) {
        const int d = in_->digits[p][at];
        bits += lengths.digit_of(cls, passes_ - 1 - p)[v != 0][digit_symbol(v, d)];
        v = 3 * v + d;
      }
    }
    return bits;
  }

  void choose_classes(const group_tables& known, int rows) {
    delta_blocks_ = 0;
    deltas_.clear();
    chosen_ = &known;
    if (rows == 0 && !explicit_) return;
    if (explicit_) {
      std::vector<std::uint8_t>& classes = own_classes_;
      classes.assign(std::size_t(width_), 0);
      for (int b = 0; b * 32 < width_; ++b) {
        measure(b, rows);
        count(b, 0, rows);
        for (int lane = 0; lane < 32 && 32 * b + lane < width_; ++lane) {
          const std::uint8_t guess = class_of(deviation(lane, rows));
          classes[std::size_t(32 * b + lane)] = in_->classes.empty() ? fit(lane, guess) : guess;
        }
      }
      own_.build(classes, passes_);
      chosen_ = nullptr;
      return;
    }
    // A block's classes move where the tile's own statistics disagree with the profile and the saving exceeds the cost.
    const float of_all = float(rows) / float(weigh_rows(rows));
    for (int b = 0; b * 32 < width_ && width_ <= 32 * 32; ++b) {  // the mask of blocks has 32 bits
      measure(b, rows);
      if (!disagrees(known, b, rows)) continue;
      // What each lane takes now, and moved by its guess and by one more or less.
      float bits[32][4] = {};
      int guess[32] = {};
      for (int lane = 0; lane < 32; ++lane)
        guess[lane] = detail::clamp(
            class_of(deviation(lane, rows), 0) - known.classes[std::size_t(32 * b + lane)] % class_widths, -7, 6);
      for (const int c : weighty_) {
        count(b, c, rows);
        const int shift = in_->classes.empty() ? 0 : in_->classes.classes()[std::size_t(c)].shift();
        for (int lane = 0; lane < 32; ++lane) {
          const std::uint8_t cls = known.classes[std::size_t(32 * b + lane)];
          if (cls % class_widths == 0) continue;
          for (int d = -2; d <= 1; ++d)
            bits[lane][d + 2] +=
                histogram_.bits(lane, shift_class(shift_class(cls, d == -2 ? 0 : guess[lane] + d), shift), passes_);
        }
      }
      std::uint8_t nibbles[16] = {};
      float saved = 0;
      for (int lane = 0; lane < 32; ++lane) {
        if (known.classes[std::size_t(32 * b + lane)] % class_widths == 0) continue;
        const float now = bits[lane][0];
        float best = now;
        int delta = 0;
        for (int d = -1; d <= 1; ++d)
          if (bits[lane][d + 2] < best) best = bits[lane][d + 2], delta = guess[lane] + d;
        saved += (now - best) * of_all;
        nibbles[lane / 2] |= std::uint8_t((delta & 15) << (lane % 2 ? 4 : 0));
      }
      if (saved < 8 * 16 + (delta_blocks_ ? 0 : 32)) continue;
      if (!delta_blocks_) own_ = known;
      delta_blocks_ |= 1u << b;
      deltas_.insert(deltas_.end(), nibbles, nibbles + 16);
      std::uint8_t shifted[32];
      apply_deltas(&known.classes[std::size_t(32 * b)], nibbles, shifted);
      own_.replace_block(std::size_t(b), shifted, passes_);
    }
    if (delta_blocks_) {
      own_.count_blocks(passes_);
      chosen_ = nullptr;
    }
  }

  // Sums of squares of a block's lanes, in units of the finest step made.
  void measure(int b, int rows) {
    for (float& e : energy_) e = 0;
    for (int r = 0; r < rows; ++r) {
      const std::size_t at = std::size_t(r) * std::size_t(stride_) + std::size_t(32 * b);
      const float n = norm(r);
      for (int lane = 0; lane < 32; ++lane) {
        const float v = n * float(in_->finest[at + std::size_t(lane)]);
        energy_[lane] += v * v;
      }
    }
  }
  float deviation(int lane, int rows) const noexcept {
    return detail::sqrt(energy_[lane] / float(detail::max(rows, 1)));
  }

  // A cheap test before counting: is the saving that the deviations promise worth 16 bytes?
  bool disagrees(const group_tables& known, int b, int rows) const {
    float promise = 0;
    for (int lane = 0; lane < 32; ++lane) {
      const std::uint8_t cls = known.classes[std::size_t(32 * b + lane)];
      if (cls % class_widths == 0) continue;
      const float sigma = deviation(lane, rows);
      const float d = 0.1733f * float(class_of(sigma, 0) - cls % class_widths);  // ln 2 / 4 a class
      const float rate = detail::min(1.f, sigma / float(power_of_3(passes_ - made_)));
      promise += float(rows) * d * d * rate;
    }
    return promise > 100;
  }

  // Classes of rows, the largest first, that hold three quarters of them: the others move with them. Returns how many rows
  // these are.
  int weigh_rows(int rows) {
    const row_classes& classes = in_->classes;
    weighty_.clear();
    if (classes.empty()) {
      weighty_.push_back(0);
      return rows;
    }
    for (int c = 0; c < int(classes.classes().size()); ++c) {
      auto at = weighty_.begin();
      while (at != weighty_.end() && classes.rows_of(*at) >= classes.rows_of(c)) ++at;
      weighty_.insert(at, c);
    }
    int held = 0;
    std::size_t n = 0;
    while (4 * held < 3 * rows) held += classes.rows_of(weighty_[n++]);
    weighty_.resize(n);
    return held;
  }

  // Of the rows of a class; of all where they have none, and where classes are to be chosen for all.
  void count(int b, int of, int rows) {
    const std::int8_t* digits[max_passes] = {};
    for (int p = 1; p < made_; ++p) digits[p] = in_->digits[p].data();
    histogram_.clear(made_);
    const auto add = [&](auto wanted) {
      histogram_.add(in_->values.data(), digits, std::size_t(32 * b), std::size_t(stride_), rows, wanted);
    };
    if (in_->classes.empty() || explicit_)
      add([](int) { return true; });
    else
      add([&](int r) { return in_->classes.of(r) == of; });
    histogram_.count_digits();
  }

  std::uint8_t fit(int lane, std::uint8_t guess) const {
    std::uint8_t best = guess;
    float least = 1e30f;
    for (int shape = 0; shape < class_shapes; ++shape)
      for (int d = -2; d <= 2; ++d) {
        const std::uint8_t cls = shift_class(std::uint8_t(shape * class_widths + guess % class_widths), d);
        const float bits = histogram_.bits(lane, cls, passes_);
        if (bits < least) least = bits, best = cls;
      }
    return best;
  }

  // --- exceptions: what the chosen classes cannot say. Afterwards in_->values and digits_ hold what is coded.
  status find_exceptions(int rows) {
    for (auto& e : exceptions_) e.clear();
    places_.resize(max_exceptions);
    for (int c = 0; c < used_.count(); ++c) {
      set_limits(used_.of(c));
      if (in_->classes.empty()) return find_in_rows(0, rows) ? status::ok : status::too_large;
      for (int r = 0; r < rows; ++r)
        if (in_->classes.of(r) == c && !find_in_rows(r, 1)) return status::too_large;
    }
    return status::ok;
  }

  // What each lane can say: values of the base pass up to limit_, no digits where dead_ is 255.
  void set_limits(const group_tables& t) {
    limit_.assign(std::size_t(stride_), 0);
    for (std::size_t i = 0; i < std::size_t(stride_); ++i)
      limit_[i] = std::int16_t(detail::min(clip_limit(t.classes[i], passes_ - 1), 32767));
    for (int p = 1; p < made_; ++p) {
      dead_[p].assign(std::size_t(stride_), 0);
      dead_blocks_[p].clear();
      for (std::size_t b = 0; b * 32 < std::size_t(width_); ++b) {
        bool any = false;
        for (std::size_t i = 32 * b; i < 32 * b + 32; ++i) {
          dead_[p][i] = live(t.classes[i], passes_ - 1 - p) ? 0 : 255;
          any |= dead_[p][i] != 0;
        }
        if (any) dead_blocks_[p].push_back(32 * b);
      }
    }
  }

  // False where there are too many.
  bool find_in_rows(int first, int rows) {
    std::int16_t* const values = in_->values.data() + first * stride_;
    const std::size_t found =
        scan_limits(isa_, values, stride_, rows, int(stride_), limit_.data(), places_.data(), places_.size());
    if (found + exceptions_[0].size() > places_.size()) return false;
    for (std::size_t i = 0; i < found; ++i) {
      const coefficient_place at = places_[i];
      std::int16_t& v = values[at.row * stride_ + at.coefficient];
      const std::int16_t limit = limit_[std::size_t(at.coefficient)];
      const std::int16_t coded = v < 0 ? std::int16_t(-limit) : limit;
      exceptions_[0].push_back({std::uint16_t(first + at.row), std::uint16_t(at.coefficient), v - coded});
      v = coded;
    }
    for (int p = 1; p < made_; ++p)
      for (const std::size_t column : dead_blocks_[p])
        for (int r = first; r < first + rows; ++r) {
          std::int8_t* d = &in_->digits[p][std::size_t(r) * std::size_t(stride_) + column];
          const std::uint8_t* dead = &dead_[p][column];
          std::uint64_t hit = 0;
          for (int i = 0; i < 4; ++i) {
            std::uint64_t x, m;
            std::memcpy(&x, d + 8 * i, 8);
            std::memcpy(&m, dead + 8 * i, 8);
            hit |= x & m;
          }
          if (!hit) continue;
          for (std::size_t lane = 0; lane < 32; ++lane)
            if (dead[lane] && d[lane]) {
              exceptions_[p].push_back({std::uint16_t(r), std::uint16_t(column + lane), d[lane]});
              d[lane] = 0;
            }
          if (exceptions_[p].size() > max_exceptions) return false;
        }
    return true;
  }

  // --- entropy coding
  bool code(const row_tables& t, int pass, bool continues, bool goes_on) {
    code_.clear();
    const int rows = in_->rows, blocks = rows ? t.blocks(pass) : 0;
    const std::size_t parts = std::size_t(code_parts(blocks));
    const std::size_t before = continues ? std::size_t(code_parts(t.blocks(pass - 1))) : 0;
    if (parts > 1) code_.resize(4 * parts);
    states_.resize(detail::max(states_.size(), parts * rans_state_bytes));
    for (std::size_t i = 0; i < parts; ++i) {
      const int first = int(i) * rans_max_blocks, n = detail::min(blocks - first, rans_max_blocks);
      int digits = 0;
      for (int c = 0; !pass && c < t.count(); ++c)
        for (int b = first; b < first + n; ++b) digits = detail::max<int>(digits, t.of(c).base[std::size_t(b)].digits);
      runs_.clear();
      t.runs(pass, std::size_t(first), runs_);
      scratch_.resize(encoded_bound(n, rows, digits));
      encode_job j;
      j.runs = runs_.data();
      j.num_runs = t.count();
      j.order = t.order();
      j.blocks = n;
      j.rows = rows;
      j.values = in_->values.data() + 32 * first;
      j.digits = pass ? in_->digits[pass].data() + 32 * first : nullptr;
      j.stride = stride_;
      j.scratch = scratch_.data();
      j.capacity = scratch_.size();
      j.states = states_.data() + i * rans_state_bytes;
      j.continues = true;
      j.goes_on = goes_on;
      if (pass)
        encode_ternary({&j, 1}, isa_);
      else
        encode_base({&j, 1}, isa_);
      if (!j.ok) return false;
      const std::size_t start = code_.size();
      if (i >= before) pack_states(j.states, code_);
      code_.insert(code_.end(), j.bytes, j.bytes + j.size);
      const auto size = std::uint32_t(code_.size() - start);
      if (parts > 1) std::memcpy(code_.data() + 4 * i, &size, 4);
    }
    return true;
  }

  // Coded parents of the pass after `pass`.
  void advance(int pass) {
    std::int16_t* v = in_->values.data();
    const std::int8_t* d = in_->digits[pass].data();
    for (std::size_t i = 0; i < in_->values.size(); ++i) v[i] = std::int16_t(3 * v[i] + d[i]);
  }

  static constexpr std::size_t max_exceptions = 8192;  // a tile with more is better stored

  isa isa_;
  profile_tables tables_;
  std::vector<row_tables::cache> moved_;  // of every group
  row_tables used_;
  std::vector<table_run> runs_;
  std::vector<float> norm_;
  symbols* in_ = nullptr;
  int passes_ = 0, made_ = 0, width_ = 0;
  std::int64_t stride_ = 0;
  bool explicit_ = false;  // the tile names its classes
  std::vector<std::int16_t> limit_, parents_;
  std::vector<std::uint8_t> dead_[max_passes];
  std::vector<std::size_t> dead_blocks_[max_passes];  // their first columns
  std::vector<std::uint8_t> own_classes_, deltas_, scratch_, states_, code_;
  std::uint32_t delta_blocks_ = 0;
  const group_tables* chosen_ = nullptr;  // null = own_
  group_tables own_;
  block_histogram histogram_;
  std::vector<int> weighty_;  // classes of rows that are counted
  float energy_[32] = {};
  std::vector<coefficient_place> places_;
  std::vector<exception> exceptions_[max_passes];
};

}  // namespace sluice::detail::inline SLUICE_HOST_ABI
