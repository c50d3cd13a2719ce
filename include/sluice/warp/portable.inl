// SPDX-License-Identifier: Apache-2.0
// 32 lanes for any processor: two planes of bytes as the AVX2 machine has them, in vectors that the compiler maps to
// whatever there is, and plain loops where lanes must be told apart. Nothing depends on the byte order.

struct warp {
  static constexpr int streams = 1;
  using source = byte_source;

  static SLUICE_BODY_INLINE warp make() { return {}; }
  static SLUICE_BODY_INLINE void sync() {}
  static SLUICE_BODY_INLINE constexpr bool leads() { return true; }

  typedef std::uint8_t bytes16 __attribute__((vector_size(16)));
  typedef std::uint16_t words8 __attribute__((vector_size(16)));

  struct plane {
    bytes16 a, b;  // lanes 0..15 and 16..31
  };
  struct words {
    std::int16_t lane[warp_lanes];
  };
  struct state {
    plane low, high;
    plane settled;  // 255 where no lane takes a byte any more when decoding, else 0
  };
  struct lane_set {
    std::uint8_t m[warp_lanes];
  };

  // --- decoding tables ---
  struct row {
    alignas(32) std::uint8_t byte[warp_lanes];
  };
  struct hit {
    plane next, here, symbol;
  };
  using digit_hit = hit;

  // Rows of `count` thresholds: one each.
  static constexpr int rows_of(int count) { return count; }
  // What search() is compiled for: the least such count not below n.
  static constexpr int searched(int n) { return n <= 8 ? n : n <= 11 ? 11 : 15; }

  static SLUICE_BODY_FN void make_rows(row* out, const std::uint8_t (*t)[warp_lanes], int count, const lane_set& live) {
    for (int k = 0; k < count; ++k)
      for (int i = 0; i < warp_lanes; ++i) out[k].byte[i] = live.m[i] != 0 ? t[k][i] : std::uint8_t{255};
  }
  /// A row that is never found.
  static SLUICE_BODY_FN void make_dead(row& out) { std::memset(out.byte, 255, warp_lanes); }

  // --- decoding ---
  static SLUICE_BODY_FN state load_state(const std::uint8_t* p) {
    std::uint8_t low[warp_lanes], high[warp_lanes];
    for (int i = 0; i < warp_lanes; ++i) low[i] = p[2 * i], high[i] = p[2 * i + 1];
    return {get(low), get(high), plane{}};
  }
  /// Whether every state is at least 256.
  static SLUICE_BODY_FN bool valid(state s) {
    std::uint8_t high[warp_lanes];
    put(high, s.high);
    bool all = true;
    for (std::uint8_t h : high) all &= h != 0;
    return all;
  }
  /// From here on no lane takes a byte; states are what they were before lift().
  static SLUICE_BODY_FN state settle(state s) {
    const bytes16 zero{};  // named: nvcc crashes on arithmetic with a temporary vector
    return {s.low, plane{s.high.a - 1, s.high.b - 1}, plane{zero - 1, zero - 1}};
  }
  /// Whether every state is the encoder's first.
  static SLUICE_BODY_FN bool home(state s) {
    std::uint8_t low[warp_lanes], high[warp_lanes];
    put(low, s.low), put(high, s.high);
    bool all = true;
    for (int i = 0; i < warp_lanes; ++i) all &= low[i] == 0 && high[i] == 0;
    return all;
  }

  // t - slot modulo 256 ranks thresholds by their distance above the slot: its running minimum finds the next symbol's
  // start, its running maximum this one's.
  template <alphabet, int Count>
  static SLUICE_BODY_INLINE hit search(state s, const row* rows) {
    hit h{{~s.low.a, ~s.low.b}, {~s.low.a, ~s.low.b}, {}};
    for (int k = 0; k < Count; ++k) look_at(h, s.low, get(rows[k].byte));
    return h;
  }
  /// Two rows chosen by whether the lane's parent is 0: rows = zero[2], nonzero[2].
  static SLUICE_BODY_INLINE hit search_digit(state s, const row* rows, const words& parent) {
    std::uint8_t zero[warp_lanes];
    for (int i = 0; i < warp_lanes; ++i) zero[i] = static_cast<std::uint8_t>(parent.lane[i] == 0 ? 255 : 0);
    const plane z = get(zero);
    hit h{{~s.low.a, ~s.low.b}, {~s.low.a, ~s.low.b}, {}};
    for (int k = 0; k < 2; ++k) look_at(h, s.low, choose(z, get(rows[k].byte), get(rows[2 + k].byte)));
    return h;
  }
  static SLUICE_BODY_INLINE void look_at(hit& h, plane slot, plane t) {
    look_at(h.next.a, h.here.a, h.symbol.a, slot.a, t.a);
    look_at(h.next.b, h.here.b, h.symbol.b, slot.b, t.b);
  }
  static SLUICE_BODY_INLINE void look_at(bytes16& next, bytes16& here, bytes16& symbol, bytes16 slot, bytes16 t) {
    const bytes16 d = t - slot;
    next = next < d ? next : d;
    here = here > d ? here : d;
    symbol -= reinterpret_cast<bytes16>(slot > t);
  }

  /// x = freq * (x >> 8) + slot - start, then one byte of the code for every lane below 256, in lane order.
  static SLUICE_BODY_INLINE void advance(state& s, const hit& h, source& in) {
    if (in.p > in.limit) [[unlikely]]
      in = source::near_end(in);
    scale(s.low.a, s.high.a, h.next.a, h.here.a);
    scale(s.low.b, s.high.b, h.next.b, h.here.b);
    const plane need{reinterpret_cast<bytes16>((s.high.a | s.settled.a) == 0),
                     reinterpret_cast<bytes16>((s.high.b | s.settled.b) == 0)};
    std::uint8_t lanes[warp_lanes], fresh[warp_lanes] = {};
    put(lanes, need);
    for (std::uint32_t m = bits(lanes); m != 0; m &= m - 1) fresh[std::countr_zero(m)] = *in.p++;
    const plane f = get(fresh);
    s.high = {s.high.a | (need.a & s.low.a), s.high.b | (need.b & s.low.b)};
    s.low = {(s.low.a & ~need.a) | f.a, (s.low.b & ~need.b) | f.b};
  }
  static SLUICE_BODY_INLINE void scale(bytes16& low, bytes16& high, bytes16 next, bytes16 here) {
    const bytes16 rest = ~here;  // slot - start
    const words8 freq_1 = reinterpret_cast<words8>(next + rest), r = reinterpret_cast<words8>(rest);
    const words8 h = reinterpret_cast<words8>(high);
    const words8 even = (freq_1 & 255) * (h & 255) + (h & 255) + (r & 255);
    const words8 odd = (freq_1 >> 8) * (h >> 8) + (h >> 8) + (r >> 8);
    low = reinterpret_cast<bytes16>((even & 255) | (odd << 8));
    high = reinterpret_cast<bytes16>((even >> 8) | (odd & 0xff00));
  }

  static SLUICE_BODY_INLINE words decoded(const hit& h) {
    std::uint8_t s[warp_lanes];
    put(s, h.symbol);
    words v;
    for (int i = 0; i < warp_lanes; ++i) {
      const int k = s[i];
      v.lane[i] = static_cast<std::int16_t>((k >> 1) ^ -(k & 1));
    }
    return v;
  }
  /// 3 * parent + digit, the digit's sign turned where the parent is negative.
  static SLUICE_BODY_INLINE words refined(const words& parent, const hit& h) {
    std::uint8_t s[warp_lanes];
    put(s, h.symbol);
    words v;
    for (int i = 0; i < warp_lanes; ++i) {
      const int digit = (s[i] >> 1) - (s[i] & 1);
      v.lane[i] = static_cast<std::int16_t>(3 * parent.lane[i] + (parent.lane[i] < 0 ? -digit : digit));
    }
    return v;
  }

  // --- words and lanes ---
  static SLUICE_BODY_INLINE words load(const std::int16_t* p) {
    words v;
    std::memcpy(v.lane, p, sizeof v.lane);
    return v;
  }
  static SLUICE_BODY_INLINE void store(std::int16_t* p, const words& v) { std::memcpy(p, v.lane, sizeof v.lane); }
  static SLUICE_BODY_INLINE void store_symbols(std::uint8_t* p, const hit& h) { put(p, h.symbol); }
  static SLUICE_BODY_INLINE words load_bytes(const std::uint8_t* p) {
    words v;
    for (int i = 0; i < warp_lanes; ++i) v.lane[i] = p[i];
    return v;
  }
  static SLUICE_BODY_INLINE words load_signed_bytes(const std::int8_t* p) {
    words v;
    for (int i = 0; i < warp_lanes; ++i) v.lane[i] = p[i];
    return v;
  }
  static SLUICE_BODY_INLINE words zero() { return {}; }
  static SLUICE_BODY_INLINE lane_set all() {
    lane_set s;
    std::memset(s.m, 1, sizeof s.m);
    return s;
  }
  static SLUICE_BODY_INLINE lane_set none() {
    lane_set s;
    std::memset(s.m, 0, sizeof s.m);
    return s;
  }
  static SLUICE_BODY_INLINE lane_set either(const lane_set& a, const lane_set& b) {
    lane_set s;
    for (int i = 0; i < warp_lanes; ++i) s.m[i] = a.m[i] | b.m[i];
    return s;
  }
  static SLUICE_BODY_INLINE bool any(const lane_set& s) {
    int all = 0;
    for (std::uint8_t m : s.m) all |= m;
    return all != 0;
  }
  static SLUICE_BODY_INLINE lane_set at_least(const std::uint8_t* lanes, int n) {
    lane_set s;
    for (int i = 0; i < warp_lanes; ++i) s.m[i] = lanes[i] >= n;
    return s;
  }
  static SLUICE_BODY_INLINE words select(const lane_set& s, const words& yes, const words& no) {
    words v;
    for (int i = 0; i < warp_lanes; ++i) v.lane[i] = s.m[i] != 0 ? yes.lane[i] : no.lane[i];
    return v;
  }

  // --- encoding ---
  // All ones, both, where a symbol has no frequency.
  struct code_row {
    std::uint8_t freq_1[warp_lanes], start[warp_lanes];
  };
  using code = code_row;

  /// Rows of the symbols between `count` thresholds.
  static SLUICE_BODY_FN void make_codes(code_row* out, const std::uint8_t (*t)[warp_lanes], int count,
                                        const lane_set& live) {
    for (int i = 0; i < warp_lanes; ++i)
      for (int k = 0, start = 0; k <= count; ++k) {
        const int last = k < count && live.m[i] != 0 ? t[k][i] : 255;
        const bool never = last < start;
        out[k].freq_1[i] = static_cast<std::uint8_t>(never ? 255 : last - start);
        out[k].start[i] = static_cast<std::uint8_t>(never ? 255 : start);
        start = last + 1;
      }
  }
  /// The row of each lane's symbol, 0..count.
  static SLUICE_BODY_INLINE code find(const code_row* rows, int count, const words& symbol) {
    code c;
    for (int i = 0; i < warp_lanes; ++i) {
      const auto s = static_cast<std::uint16_t>(symbol.lane[i]);
      c.freq_1[i] = s <= count ? rows[s].freq_1[i] : std::uint8_t{255};
      c.start[i] = s <= count ? rows[s].start[i] : std::uint8_t{255};
    }
    return c;
  }
  /// rows = zero[3], nonzero[3], chosen by the parent; the digit's sign is turned where the parent is negative.
  static SLUICE_BODY_INLINE code find_digit(const code_row* rows, const words& parent, const words& digit) {
    code c;
    for (int i = 0; i < warp_lanes; ++i) {
      // Digits are too random to branch on.
      const int turn = parent.lane[i] >> 15, r = (digit.lane[i] ^ turn) - turn;
      const code_row& row = rows[3 * (parent.lane[i] != 0) + ((r & 1) << (r > 0))];
      const auto unknown = static_cast<std::uint8_t>(-(static_cast<unsigned>(r + 1) > 2u));
      c.freq_1[i] = row.freq_1[i] | unknown;
      c.start[i] = row.start[i] | unknown;
    }
    return c;
  }
  static SLUICE_BODY_INLINE lane_set impossible(const code& c) {
    lane_set s;
    for (int i = 0; i < warp_lanes; ++i) s.m[i] = (c.freq_1[i] & c.start[i]) == 255;
    return s;
  }

  static SLUICE_BODY_INLINE state first_state() { return {plane{}, plane{}, plane{}}; }
  /// Whether lift() leaves every state below 65536.
  static SLUICE_BODY_FN bool liftable(state s) {
    std::uint8_t high[warp_lanes];
    put(high, s.high);
    bool all = true;
    for (std::uint8_t h : high) all &= h != 255;
    return all;
  }
  /// 256 more in every state.
  static SLUICE_BODY_FN state lift(state s) { return {s.low, plane{s.high.a + 1, s.high.b + 1}, s.settled}; }
  static SLUICE_BODY_FN void store_state(std::uint8_t* p, state s) {
    std::uint8_t low[warp_lanes], high[warp_lanes];
    put(low, s.low), put(high, s.high);
    for (int i = 0; i < warp_lanes; ++i) p[2 * i] = low[i], p[2 * i + 1] = high[i];
  }

  /// Lanes at or above 256 * freq put their low byte before p, in lane order; x = 256 * (x / freq) + start + x % freq.
  static SLUICE_BODY_INLINE void push(state& s, const code& c, std::uint8_t*& p) {
    std::uint8_t low[warp_lanes], high[warp_lanes], full[warp_lanes];
    put(low, s.low), put(high, s.high);
    for (int i = 0; i < warp_lanes; ++i) full[i] = high[i] > c.freq_1[i] ? std::uint8_t{255} : std::uint8_t{0};
    for (std::uint32_t m = bits(full); m != 0;) {
      const int i = 31 - std::countl_zero(m);
      *--p = low[i];
      m ^= std::uint32_t{1} << i;
    }
    for (int i = 0; i < warp_lanes; ++i) {
      const int x = full[i] != 0 ? high[i] : low[i] | high[i] << 8, freq = c.freq_1[i] + 1;
      // Right or one off for any compiler's idea of a division; then exact.
      int q = static_cast<int>(static_cast<float>(x) / static_cast<float>(freq));
      int rest = x - q * freq;
      q -= rest < 0;
      rest += rest < 0 ? freq : 0;
      q += rest >= freq;
      rest -= rest >= freq ? freq : 0;
      high[i] = static_cast<std::uint8_t>(q);
      low[i] = static_cast<std::uint8_t>(rest + c.start[i]);
    }
    s.low = get(low), s.high = get(high);
  }

  /// Symbol of a value: 0, -1, 1, -2, ... are 0, 1, 2, 3, ...
  static SLUICE_BODY_INLINE words symbol_of(const words& v) {
    words s;
    for (int i = 0; i < warp_lanes; ++i)
      s.lane[i] = static_cast<std::int16_t>(v.lane[i] < 0 ? -2 * v.lane[i] - 1 : 2 * v.lane[i]);
    return s;
  }
  /// value / 3 to the nearest; exact for every int16.
  static SLUICE_BODY_INLINE words third(const words& v) {
    words q;
    for (int i = 0; i < warp_lanes; ++i)
      q.lane[i] = static_cast<std::int16_t>((v.lane[i] + (v.lane[i] < 0 ? -1 : 1)) / 3);
    return q;
  }
  static SLUICE_BODY_INLINE words minus_triple(const words& v, const words& parent) {
    words d;
    for (int i = 0; i < warp_lanes; ++i) d.lane[i] = static_cast<std::int16_t>(v.lane[i] - 3 * parent.lane[i]);
    return d;
  }

 private:
  static SLUICE_BODY_INLINE plane get(const std::uint8_t* p) {
    plane v;
    std::memcpy(&v.a, p, 16);
    std::memcpy(&v.b, p + 16, 16);
    return v;
  }
  static SLUICE_BODY_INLINE void put(std::uint8_t* p, plane v) {
    std::memcpy(p, &v.a, 16);
    std::memcpy(p + 16, &v.b, 16);
  }
  static SLUICE_BODY_INLINE plane choose(plane m, plane yes, plane no) {
    return {(yes.a & m.a) | (no.a & ~m.a), (yes.b & m.b) | (no.b & ~m.b)};
  }
  // One bit a lane, of bytes that are 0 or 255.
  static SLUICE_BODY_INLINE std::uint32_t bits(const std::uint8_t* lanes) {
    std::uint32_t m = 0;
    for (int g = 0; g < 4; ++g) {
      std::uint64_t w = 0;
      if constexpr (std::endian::native == std::endian::little)
        std::memcpy(&w, lanes + 8 * g, 8);
      else
        for (int i = 0; i < 8; ++i) w |= static_cast<std::uint64_t>(lanes[8 * g + i]) << (8 * i);
      m |= static_cast<std::uint32_t>((w & 0x0101010101010101u) * 0x0102040810204080u >> 56) << (8 * g);
    }
    return m;
  }
};
