// SPDX-License-Identifier: Apache-2.0
// 32 lanes as two planes of bytes, two registers each. A selection is one instruction here, so rows are searched by
// halving; products widen to 16 bits in the order of the lanes; and one lookup spreads the next 32 bytes of the code.

struct warp {
  static constexpr int streams = 2;  // decoded side by side; more run out of registers
  using source = byte_source;

  struct plane {
    uint8x16_t a, b;  // lanes 0..15 and 16..31
  };

  uint8x16_t ones;                // 0x01010101 in every word of 32 bits: times it, bytes become their running sums
  uint8x16_t firsts;              // the first bytes of the four eights of lanes
  uint8x16_t eights_a, eights_b;  // bytes 0 and 1, then 2 and 3, eight times each

  static SLUICE_BODY_INLINE warp make() {
    const uint8x16_t one = vdupq_n_u8(1), two = vdupq_n_u8(2);
    const uint8x16_t upper = vcombine_u8(vdup_n_u8(0), vdup_n_u8(1));
    warp w{one, vreinterpretq_u8_u32(vdupq_n_u32(0x18100800)), upper, vaddq_u8(upper, two)};
    asm("" : "+w"(w.ones), "+w"(w.firsts), "+w"(w.eights_a), "+w"(w.eights_b));  // or they are made anew in every step
    return w;
  }
  static SLUICE_BODY_INLINE void sync() {}
  static SLUICE_BODY_INLINE constexpr bool leads() { return true; }

  struct words16 {
    int16x8_t a, b;
  };
  struct words {
    words16 a, b;  // int16 of lanes 0..15 and 16..31
  };
  struct state {
    plane low, high;
    uint8x16_t floor;  // a lane whose high byte is below it takes a byte when decoding: 1, and 0 once settled
  };
  struct lane_set {
    plane m;  // bytes 0 or 255
  };

  // --- decoding tables ---
  // Thresholds as they are: the last slot of each symbol.
  struct row {
    alignas(32) std::uint8_t byte[warp_lanes];
  };
  struct found16 {
    uint8x16_t next, before, symbol;  // the last slot of the symbol and of the one before it, 255 ahead of the first
  };
  struct hit {
    found16 a, b;
  };
  struct digit16 {
    uint8x16_t next, before;
    int8x16_t digit;  // 0, -1, 1
  };
  struct digit_hit {
    digit16 a, b;
  };

  // Rows of `count` thresholds: one each.
  static constexpr int rows_of(int count) { return count; }
  // What search() is compiled for: the least such count not below n.
  static constexpr int searched(int n) { return n <= 4 ? n : n <= 7 ? 7 : n <= 9 ? n : 15; }

  static SLUICE_BODY_FN void make_rows(row* out, const std::uint8_t (*t)[warp_lanes], int count, lane_set live) {
    for (int k = 0; k < count; ++k) put(out[k].byte, threshold(t, k, count, live));
  }
  static SLUICE_BODY_INLINE plane threshold(const std::uint8_t (*t)[warp_lanes], int k, int count, lane_set live) {
    if (k >= count) return both(vdupq_n_u8(255));
    const plane at = get(t[k]);
    return {vornq_u8(at.a, live.m.a), vornq_u8(at.b, live.m.b)};
  }
  /// A row that is never found.
  static SLUICE_BODY_FN void make_dead(row& out) { put(out.byte, both(vdupq_n_u8(255))); }

  // --- decoding ---
  static SLUICE_BODY_FN state load_state(const std::uint8_t* p) {
    const uint8x16x2_t a = vld2q_u8(p), b = vld2q_u8(p + 32);
    return {{a.val[0], b.val[0]}, {a.val[1], b.val[1]}, vdupq_n_u8(1)};
  }
  /// Whether every state is at least 256.
  static SLUICE_BODY_INLINE bool valid(state s) { return vminvq_u8(vminq_u8(s.high.a, s.high.b)) != 0; }
  /// From here on no lane takes a byte; states are what they were before lift().
  static SLUICE_BODY_INLINE state settle(state s) {
    const uint8x16_t one = vdupq_n_u8(1);
    return {s.low, {vsubq_u8(s.high.a, one), vsubq_u8(s.high.b, one)}, vdupq_n_u8(0)};
  }
  /// Whether every state is the encoder's first.
  static SLUICE_BODY_INLINE bool home(state s) {
    return vmaxvq_u8(vorrq_u8(vorrq_u8(s.low.a, s.high.a), vorrq_u8(s.low.b, s.high.b))) == 0;
  }

  template <alphabet, int Count>
  static SLUICE_BODY_INLINE hit search(state s, const row* rows) {
    return {search16<Count>(s.low.a, rows->byte), search16<Count>(s.low.b, rows->byte + 16)};
  }
  // 16 lanes, whose thresholds lie a row apart.
  template <int Count>
  static SLUICE_BODY_INLINE found16 search16(uint8x16_t slot, const std::uint8_t* t) {
    if constexpr (Count == 15) {
      uint8x16_t m;
      const found16 f = begin(slot, at(t, 7), m);
      return low_bits<4>(search7(slot, f, pick(m, t, 0, 8), pick(m, t, 1, 9), pick(m, t, 2, 10), pick(m, t, 3, 11),
                                 pick(m, t, 4, 12), pick(m, t, 5, 13), pick(m, t, 6, 14)));
    } else if constexpr (Count == 7) {
      uint8x16_t m;
      const found16 f = begin(slot, at(t, 3), m);
      return low_bits<3>(search3(slot, f, pick(m, t, 0, 4), pick(m, t, 1, 5), pick(m, t, 2, 6)));
    } else if constexpr (Count == 3) {
      uint8x16_t m;
      const found16 f = begin(slot, at(t, 1), m);
      return low_bits<2>(search1(slot, f, pick(m, t, 0, 2)));
    } else if constexpr (Count == 1) {
      uint8x16_t m;
      return low_bits<1>(begin(slot, at(t, 0), m));
    } else {  // one more than can be halved
      found16 f = search16<Count - 1>(slot, t);
      const uint8x16_t last = at(t, Count - 1), m = vcgtq_u8(slot, last);
      f.before = vbslq_u8(m, last, f.before);
      f.next = vminq_u8(f.next, vorrq_u8(last, m));
      f.symbol = vsubq_u8(f.symbol, m);
      return f;
    }
  }
  // Every halving adds a bit to the symbol, from below; above the bits that were added there is rubbish.
  static SLUICE_BODY_INLINE found16 begin(uint8x16_t slot, uint8x16_t t, uint8x16_t& m) {
    m = vcgtq_u8(slot, t);
    return {vorrq_u8(t, m), vornq_u8(t, m), m};
  }
  static SLUICE_BODY_INLINE found16 search1(uint8x16_t slot, found16 f, uint8x16_t t) {
    const uint8x16_t m = vcgtq_u8(slot, t);
    return {vbslq_u8(m, f.next, t), vbslq_u8(m, t, f.before), vsliq_n_u8(m, f.symbol, 1)};
  }
  static SLUICE_BODY_INLINE found16 search3(uint8x16_t slot, found16 f, uint8x16_t t0, uint8x16_t t1, uint8x16_t t2) {
    const uint8x16_t m = vcgtq_u8(slot, t1);
    return search1(slot, search1(slot, f, t1), vbslq_u8(m, t2, t0));
  }
  static SLUICE_BODY_INLINE found16 search7(uint8x16_t slot, found16 f, uint8x16_t t0, uint8x16_t t1, uint8x16_t t2,
                                            uint8x16_t t3, uint8x16_t t4, uint8x16_t t5, uint8x16_t t6) {
    const uint8x16_t m = vcgtq_u8(slot, t3);
    return search3(slot, search1(slot, f, t3), vbslq_u8(m, t4, t0), vbslq_u8(m, t5, t1), vbslq_u8(m, t6, t2));
  }
  template <int Bits>
  static SLUICE_BODY_INLINE found16 low_bits(found16 f) {
    return {f.next, f.before, vandq_u8(f.symbol, vdupq_n_u8((1 << Bits) - 1))};
  }
  static SLUICE_BODY_INLINE uint8x16_t at(const std::uint8_t* t, int k) { return vld1q_u8(t + warp_lanes * k); }
  static SLUICE_BODY_INLINE uint8x16_t pick(uint8x16_t m, const std::uint8_t* t, int no, int yes) {
    return vbslq_u8(m, at(t, yes), at(t, no));
  }

  /// Two rows chosen by whether the lane's parent is 0: rows = zero[2], nonzero[2].
  static SLUICE_BODY_INLINE digit_hit search_digit(state s, const row* rows, words parent) {
    return {search_digit16(s.low.a, rows->byte, parent.a), search_digit16(s.low.b, rows->byte + 16, parent.b)};
  }
  static SLUICE_BODY_INLINE digit16 search_digit16(uint8x16_t slot, const std::uint8_t* t, words16 parent) {
    const uint8x16_t zero = vceqzq_s8(signs(parent));
    uint8x16_t minus;
    const found16 f = begin(slot, pick(zero, t, 2, 0), minus);
    const uint8x16_t last = pick(zero, t, 3, 1), plus = vcgtq_u8(slot, last);
    return {vbslq_u8(plus, f.next, vbslq_u8(minus, last, f.next)), vbslq_u8(plus, last, f.before),
            vreinterpretq_s8_u8(vsubq_u8(vsubq_u8(minus, plus), plus))};
  }

  /// x = freq * (x >> 8) + slot - start, then one byte of the code for every lane below 256, in lane order.
  template <class Hit>
  SLUICE_BODY_INLINE void advance(state& s, const Hit& h, source& in) const {
    if (in.p > in.limit) [[unlikely]]
      in = source::near_end(in);
    scale(s.low.a, s.high.a, h.a.next, h.a.before);
    scale(s.low.b, s.high.b, h.b.next, h.b.before);
    const plane need{vcltq_u8(s.high.a, s.floor), vcltq_u8(s.high.b, s.floor)};
    // Takers from each lane to the end of its eight; the running sums of the eights' own tell where these end.
    const plane left{from_here(need.a), from_here(need.b)};
    const uint8x16x2_t lanes{{left.a, left.b}};
    const uint8x16_t ends = running_sums(vqtbl2q_u8(lanes, firsts));
    const uint8x16_t order_a = vornq_u8(vsubq_u8(vqtbl1q_u8(ends, eights_a), left.a), need.a);
    const uint8x16_t order_b = vornq_u8(vsubq_u8(vqtbl1q_u8(ends, eights_b), left.b), need.b);
    const uint8x16x2_t bytes{{vld1q_u8(in.p), vld1q_u8(in.p + 16)}};
    s.high = {vbslq_u8(need.a, s.low.a, s.high.a), vbslq_u8(need.b, s.low.b, s.high.b)};
    s.low = {vqtbx2q_u8(s.low.a, bytes, order_a), vqtbx2q_u8(s.low.b, bytes, order_b)};
    in.p += vgetq_lane_u8(ends, 3);
  }
  static SLUICE_BODY_INLINE void scale(uint8x16_t& low, uint8x16_t& high, uint8x16_t next, uint8x16_t before) {
    const uint8x16_t minus_start = vmvnq_u8(before);
    const uint8x16_t rest = vaddq_u8(low, minus_start), freq_1 = vaddq_u8(next, minus_start);
    const uint16x8_t a =
        vmlal_u8(vaddl_u8(vget_low_u8(high), vget_low_u8(rest)), vget_low_u8(freq_1), vget_low_u8(high));
    const uint16x8_t b = vmlal_high_u8(vaddl_high_u8(high, rest), freq_1, high);
    low = vuzp1q_u8(vreinterpretq_u8_u16(a), vreinterpretq_u8_u16(b));
    high = vuzp2q_u8(vreinterpretq_u8_u16(a), vreinterpretq_u8_u16(b));
  }
  static SLUICE_BODY_INLINE uint8x16_t from_here(uint8x16_t need) {
    uint64x2_t n = vreinterpretq_u64_u8(vshrq_n_u8(need, 7));
    n = vsraq_n_u64(n, n, 8);
    n = vsraq_n_u64(n, n, 16);
    return vreinterpretq_u8_u64(vsraq_n_u64(n, n, 32));
  }
  SLUICE_BODY_INLINE uint8x16_t running_sums(uint8x16_t v) const {
    return vreinterpretq_u8_u32(vmulq_u32(vreinterpretq_u32_u8(v), vreinterpretq_u32_u8(ones)));
  }

  static SLUICE_BODY_INLINE words decoded(hit h) { return {decoded16(h.a.symbol), decoded16(h.b.symbol)}; }
  static SLUICE_BODY_INLINE words16 decoded16(uint8x16_t symbol) {
    const int8x16_t values{0, -1, 1, -2, 2, -3, 3, -4, 4, -5, 5, -6, 6, -7, 7, -8};
    return widen(vqtbl1q_s8(values, symbol));
  }
  /// 3 * parent + digit, the digit's sign turned where the parent is negative.
  static SLUICE_BODY_INLINE words refined(words parent, digit_hit h) {
    return {refined16(parent.a, h.a.digit), refined16(parent.b, h.b.digit)};
  }
  static SLUICE_BODY_INLINE words16 refined16(words16 parent, int8x16_t digit) {
    const int8x16_t d = turned(digit, signs(parent));
    const int16x8_t three = vdupq_n_s16(3);
    return {vaddw_s8(vmulq_s16(parent.a, three), vget_low_s8(d)), vaddw_high_s8(vmulq_s16(parent.b, three), d)};
  }

  // --- words and lanes ---
  static SLUICE_BODY_INLINE words load(const std::int16_t* p) {
    return {{vld1q_s16(p), vld1q_s16(p + 8)}, {vld1q_s16(p + 16), vld1q_s16(p + 24)}};
  }
  static SLUICE_BODY_INLINE void store(std::int16_t* p, words v) {
    vst1q_s16(p, v.a.a), vst1q_s16(p + 8, v.a.b), vst1q_s16(p + 16, v.b.a), vst1q_s16(p + 24, v.b.b);
  }
  static SLUICE_BODY_INLINE void store_symbols(std::uint8_t* p, hit h) { put(p, {h.a.symbol, h.b.symbol}); }
  static SLUICE_BODY_INLINE words load_bytes(const std::uint8_t* p) {
    const plane v = get(p);
    return {{vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(v.a))), vreinterpretq_s16_u16(vmovl_high_u8(v.a))},
            {vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(v.b))), vreinterpretq_s16_u16(vmovl_high_u8(v.b))}};
  }
  static SLUICE_BODY_INLINE words load_signed_bytes(const std::int8_t* p) {
    return {widen(vld1q_s8(p)), widen(vld1q_s8(p + 16))};
  }
  static SLUICE_BODY_INLINE words zero() {
    const int16x8_t v = vdupq_n_s16(0);
    return {{v, v}, {v, v}};
  }
  static SLUICE_BODY_INLINE lane_set all() { return {both(vdupq_n_u8(255))}; }
  static SLUICE_BODY_INLINE lane_set none() { return {both(vdupq_n_u8(0))}; }
  static SLUICE_BODY_INLINE lane_set either(lane_set a, lane_set b) {
    return {{vorrq_u8(a.m.a, b.m.a), vorrq_u8(a.m.b, b.m.b)}};
  }
  static SLUICE_BODY_INLINE bool any(lane_set s) { return vmaxvq_u8(vorrq_u8(s.m.a, s.m.b)) != 0; }
  static SLUICE_BODY_INLINE lane_set at_least(const std::uint8_t* lanes, int n) {
    const plane v = get(lanes);
    const uint8x16_t least = vdupq_n_u8(static_cast<std::uint8_t>(n));
    return {{vcgeq_u8(v.a, least), vcgeq_u8(v.b, least)}};
  }
  static SLUICE_BODY_INLINE words select(lane_set s, words yes, words no) {
    return {select16(s.m.a, yes.a, no.a), select16(s.m.b, yes.b, no.b)};
  }
  static SLUICE_BODY_INLINE words16 select16(uint8x16_t m, words16 yes, words16 no) {
    const words16 wide = widen(vreinterpretq_s8_u8(m));
    return {vbslq_s16(vreinterpretq_u16_s16(wide.a), yes.a, no.a),
            vbslq_s16(vreinterpretq_u16_s16(wide.b), yes.b, no.b)};
  }

  // --- encoding ---
  // All ones, both, where a symbol has no frequency.
  struct code_row {
    alignas(32) std::uint8_t freq_1[warp_lanes];
    std::uint8_t start[warp_lanes];
  };
  struct code {
    plane freq_1, start;
  };

  /// Rows of the symbols between `count` thresholds.
  static SLUICE_BODY_FN void make_codes(code_row* out, const std::uint8_t (*t)[warp_lanes], int count, lane_set live) {
    plane before = both(vdupq_n_u8(255));  // start - 1
    for (int k = 0; k <= count; ++k) {
      const plane last = threshold(t, k, count, live);
      make_code(out[k].freq_1, out[k].start, last.a, before.a, k == 0);
      make_code(out[k].freq_1 + 16, out[k].start + 16, last.b, before.b, k == 0);
      before = last;
    }
  }
  static SLUICE_BODY_FN void make_code(std::uint8_t* freq_1, std::uint8_t* start, uint8x16_t last, uint8x16_t before,
                                       bool first) {
    const uint8x16_t from = vaddq_u8(before, vdupq_n_u8(1));
    const uint8x16_t never = first ? vdupq_n_u8(0) : vceqq_u8(last, before);
    vst1q_u8(freq_1, vorrq_u8(vsubq_u8(last, from), never));
    vst1q_u8(start, vorrq_u8(from, never));
  }
  /// The row of each lane's symbol, 0..count.
  static SLUICE_BODY_INLINE code find(const code_row* rows, int count, words symbol) {
    const uint8x16_t one = vdupq_n_u8(1);
    code c{both(vdupq_n_u8(255)), both(vdupq_n_u8(255))};
    uint8x16_t a = bytes(symbol.a), b = bytes(symbol.b);
    for (int k = 0; k <= count; ++k) {
      const uint8x16_t mine_a = vceqzq_u8(a), mine_b = vceqzq_u8(b);
      const plane freq_1 = get(rows[k].freq_1), start = get(rows[k].start);
      c.freq_1 = {vbslq_u8(mine_a, freq_1.a, c.freq_1.a), vbslq_u8(mine_b, freq_1.b, c.freq_1.b)};
      c.start = {vbslq_u8(mine_a, start.a, c.start.a), vbslq_u8(mine_b, start.b, c.start.b)};
      a = vsubq_u8(a, one), b = vsubq_u8(b, one);
    }
    return c;
  }
  /// rows = zero[3], nonzero[3], chosen by the parent; the digit's sign is turned where the parent is negative.
  static SLUICE_BODY_INLINE code find_digit(const code_row* rows, words parent, words digit) {
    code c;
    find_digit16(rows, 0, parent.a, digit.a, c.freq_1.a, c.start.a);
    find_digit16(rows, 16, parent.b, digit.b, c.freq_1.b, c.start.b);
    return c;
  }
  static SLUICE_BODY_INLINE void find_digit16(const code_row* rows, int lane, words16 parent, words16 digit,
                                              uint8x16_t& freq_1, uint8x16_t& start) {
    const int8x16_t sign = signs(parent), r = turned(signs(digit), sign);
    const uint8x16_t zero = vceqzq_s8(sign);
    freq_1 = start = vdupq_n_u8(255);
    for (int k = 0; k < 3; ++k) {
      const uint8x16_t mine = vceqq_s8(r, vdupq_n_s8(static_cast<std::int8_t>(k == 1 ? -1 : k >> 1)));
      const code_row &yes = rows[k], &no = rows[3 + k];
      freq_1 = vbslq_u8(mine, vbslq_u8(zero, vld1q_u8(yes.freq_1 + lane), vld1q_u8(no.freq_1 + lane)), freq_1);
      start = vbslq_u8(mine, vbslq_u8(zero, vld1q_u8(yes.start + lane), vld1q_u8(no.start + lane)), start);
    }
  }
  static SLUICE_BODY_INLINE lane_set impossible(code c) {
    const uint8x16_t never = vdupq_n_u8(255);
    return {{vceqq_u8(vandq_u8(c.freq_1.a, c.start.a), never), vceqq_u8(vandq_u8(c.freq_1.b, c.start.b), never)}};
  }

  static SLUICE_BODY_INLINE state first_state() {
    const uint8x16_t v = vdupq_n_u8(0);
    return {both(v), both(v), v};
  }
  /// Whether lift() leaves every state below 65536.
  static SLUICE_BODY_INLINE bool liftable(state s) { return vmaxvq_u8(vmaxq_u8(s.high.a, s.high.b)) != 255; }
  /// 256 more in every state.
  static SLUICE_BODY_INLINE state lift(state s) {
    const uint8x16_t one = vdupq_n_u8(1);
    return {s.low, {vaddq_u8(s.high.a, one), vaddq_u8(s.high.b, one)}, s.floor};
  }
  static SLUICE_BODY_FN void store_state(std::uint8_t* p, state s) {
    const uint8x16x2_t a{{s.low.a, s.high.a}}, b{{s.low.b, s.high.b}};
    vst2q_u8(p, a);
    vst2q_u8(p + 32, b);
  }

  /// Lanes at or above 256 * freq put their low byte before p, in lane order; x = 256 * (x / freq) + start + x % freq.
  SLUICE_BODY_INLINE void push(state& s, const code& c, std::uint8_t*& p) const {
    const plane full{vcgtq_u8(s.high.a, c.freq_1.a), vcgtq_u8(s.high.b, c.freq_1.b)};
    give(full, s.low, p);
    divide(s.low.a, s.high.a, full.a, c.freq_1.a, c.start.a);
    divide(s.low.b, s.high.b, full.b, c.freq_1.b, c.start.b);
  }
  static SLUICE_BODY_INLINE void divide(uint8x16_t& low, uint8x16_t& high, uint8x16_t full, uint8x16_t freq_1,
                                        uint8x16_t start) {
    const uint8x16_t one = vdupq_n_u8(1);
    const uint8x16_t x_low = vbslq_u8(full, high, low), x_high = vbicq_u8(high, full);
    const uint16x8_t a =
        quotient8(vreinterpretq_u16_u8(vzip1q_u8(x_low, x_high)), vaddl_u8(vget_low_u8(freq_1), vget_low_u8(one)));
    const uint16x8_t b = quotient8(vreinterpretq_u16_u8(vzip2q_u8(x_low, x_high)), vaddl_high_u8(freq_1, one));
    high = vuzp1q_u8(vreinterpretq_u8_u16(a), vreinterpretq_u8_u16(b));
    low = vaddq_u8(vmlsq_u8(x_low, high, vaddq_u8(freq_1, one)), start);
  }
  // Quotients, below 256, of x below 65536.
  static SLUICE_BODY_INLINE uint16x8_t quotient8(uint16x8_t x, uint16x8_t freq) {
    const uint32x4_t a = quotient4(vmovl_u16(vget_low_u16(x)), vmovl_u16(vget_low_u16(freq)));
    const uint32x4_t b = quotient4(vmovl_high_u16(x), vmovl_high_u16(freq));
    return vuzp1q_u16(vreinterpretq_u16_u32(a), vreinterpretq_u16_u32(b));
  }
  // A quotient that is no integer is 1/256 or more below the next; the reciprocal is larger than exact by less than
  // that, and by more than any rounding takes. Symbols are known long before the states: it is off the critical path.
  static SLUICE_BODY_INLINE uint32x4_t quotient4(uint32x4_t x, uint32x4_t freq) {
    const float32x4_t reciprocal = vdivq_f32(vdupq_n_f32(1 + 0x1p-20f), vcvtq_f32_u32(freq));
    return vcvtq_u32_f32(vmulq_f32(vcvtq_f32_u32(x), reciprocal));
  }
  /// The bytes of the lanes in m, together and in order, before p. Up to 8 bytes before them are overwritten.
  static SLUICE_BODY_INLINE void give(plane m, plane v, std::uint8_t*& p) {
    const uint8x16_t bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201));
    uint8x16_t sets = vpaddq_u8(vandq_u8(m.a, bit), vandq_u8(m.b, bit));
    sets = vpaddq_u8(sets, sets);
    sets = vpaddq_u8(sets, sets);
    const std::uint32_t each = vgetq_lane_u32(vreinterpretq_u32_u8(sets), 0);
    const std::uint32_t counts = vgetq_lane_u32(vreinterpretq_u32_u8(vcntq_u8(sets)), 0);
    give8(each >> 24, counts >> 24, vextq_u8(v.b, v.b, 8), p);
    give8(each >> 16 & 0xffu, counts >> 16 & 0xffu, v.b, p);
    give8(each >> 8 & 0xffu, counts >> 8 & 0xffu, vextq_u8(v.a, v.a, 8), p);
    give8(each & 0xffu, counts & 0xffu, v.a, p);
  }
  static SLUICE_BODY_INLINE void give8(std::uint32_t m, std::uint32_t count, uint8x16_t v, std::uint8_t*& p) {
    vst1_u8(p - 8, vqtbl1_u8(v, vld1_u8(compressed.order[m])));
    p -= count;
  }

  /// Symbol of a value: 0, -1, 1, -2, ... are 0, 1, 2, 3, ...
  static SLUICE_BODY_INLINE words symbol_of(words v) {
    return {{symbol8(v.a.a), symbol8(v.a.b)}, {symbol8(v.b.a), symbol8(v.b.b)}};
  }
  static SLUICE_BODY_INLINE int16x8_t symbol8(int16x8_t v) { return veorq_s16(vaddq_s16(v, v), vshrq_n_s16(v, 15)); }
  /// value / 3 to the nearest; exact for every int16.
  static SLUICE_BODY_INLINE words third(words v) {
    return {{third8(v.a.a), third8(v.a.b)}, {third8(v.b.a), third8(v.b.b)}};
  }
  // 21845 / 65536 is short of a third by 1/6 at most; a rounding offset just below a half keeps that on its side.
  static SLUICE_BODY_INLINE int16x8_t third8(int16x8_t v) {
    const int16x8_t factor = vdupq_n_s16(21845);
    const int32x4_t offset = vdupq_n_s32(32767);
    return vaddhn_high_s32(vaddhn_s32(vmull_s16(vget_low_s16(v), vget_low_s16(factor)), offset),
                           vmull_high_s16(v, factor), offset);
  }
  static SLUICE_BODY_INLINE words minus_triple(words v, words parent) {
    const int16x8_t three = vdupq_n_s16(3);
    return {{vmlsq_s16(v.a.a, parent.a.a, three), vmlsq_s16(v.a.b, parent.a.b, three)},
            {vmlsq_s16(v.b.a, parent.b.a, three), vmlsq_s16(v.b.b, parent.b.b, three)}};
  }

 private:
  static SLUICE_BODY_INLINE plane both(uint8x16_t v) { return {v, v}; }
  static SLUICE_BODY_INLINE plane get(const std::uint8_t* p) { return {vld1q_u8(p), vld1q_u8(p + 16)}; }
  static SLUICE_BODY_INLINE void put(std::uint8_t* p, plane v) { vst1q_u8(p, v.a), vst1q_u8(p + 16, v.b); }
  static SLUICE_BODY_INLINE words16 widen(int8x16_t v) { return {vmovl_s8(vget_low_s8(v)), vmovl_high_s8(v)}; }
  // Bytes of the words' signs: saturation keeps sign and zero.
  static SLUICE_BODY_INLINE int8x16_t signs(words16 v) { return vqmovn_high_s16(vqmovn_s16(v.a), v.b); }
  // Bytes of words that are not negative, 255 where these are larger.
  static SLUICE_BODY_INLINE uint8x16_t bytes(words16 v) {
    return vqmovn_high_u16(vqmovn_u16(vreinterpretq_u16_s16(v.a)), vreinterpretq_u16_s16(v.b));
  }
  static SLUICE_BODY_INLINE int8x16_t turned(int8x16_t v, int8x16_t sign) {
    const int8x16_t negative = vreinterpretq_s8_u8(vcltzq_s8(sign));
    return vsubq_s8(veorq_s8(v, negative), negative);
  }
};
