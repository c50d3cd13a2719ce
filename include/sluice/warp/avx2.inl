// SPDX-License-Identifier: Apache-2.0
// 32 lanes as two planes of bytes, one register each: the low plane is the slots as they stand, and even and odd lanes
// come apart into 16-bit products and back by shifts and masks alone, without a shuffle.

struct warp {
  static constexpr int streams = 2;  // decoded side by side; more run out of registers
  using source = byte_source;

  __m256i byte, top;  // 16-bit 255, 8-bit 128

  static SLUICE_BODY_INLINE warp make() {
    __m256i byte = _mm256_set1_epi16(255), top = _mm256_set1_epi8(-128);
    asm("" : "+x"(byte), "+x"(top));  // or g++ would build them anew in every step
    return {byte, top};
  }
  static SLUICE_BODY_INLINE void sync() {}
  static SLUICE_BODY_INLINE constexpr bool leads() { return true; }

  struct words {
    __m256i a, b;  // int16 of lanes 0..15 and 16..31
  };
  struct state {
    __m256i low, high;
    __m256i settled;  // -1 where no lane takes a byte any more when decoding, else 0
  };
  struct lane_set {
    __m256i m;  // bytes 0 or -1
  };

  // --- decoding tables ---
  // Thresholds less 128, for comparisons of signed bytes are all there is. t - slot modulo 256 ranks thresholds by
  // their distance above the slot: its running minimum finds the next symbol's start, its running maximum this one's.
  struct row {
    alignas(32) std::uint8_t byte[warp_lanes];
  };
  struct hit {
    __m256i next, here, symbol;
  };
  using digit_hit = hit;

  // Rows of `count` thresholds: one each.
  static constexpr int rows_of(int count) { return count; }
  // What search() is compiled for: the least such count not below n.
  static constexpr int searched(int n) { return n <= 8 ? n : n <= 10 ? 10 : n <= 12 ? 12 : 15; }

  SLUICE_BODY_FN void make_rows(row* out, const std::uint8_t (*t)[warp_lanes], int count, lane_set live) const {
    for (int k = 0; k < count; ++k) put(out[k].byte, _mm256_xor_si256(threshold(t, k, count, live), top));
  }
  static SLUICE_BODY_INLINE __m256i threshold(const std::uint8_t (*t)[warp_lanes], int k, int count, lane_set live) {
    const __m256i never = _mm256_set1_epi8(-1);
    return k < count ? _mm256_or_si256(get(t[k]), _mm256_xor_si256(live.m, never)) : never;
  }
  /// A row that is never found.
  static SLUICE_BODY_FN void make_dead(row& out) { put(out.byte, _mm256_set1_epi8(127)); }

  // --- decoding ---
  static SLUICE_BODY_INLINE state load_state(const std::uint8_t* p) {
    const __m256i a = get(p), b = get(p + 32), byte = _mm256_set1_epi16(255);
    const __m256i low = _mm256_packus_epi16(_mm256_and_si256(a, byte), _mm256_and_si256(b, byte));
    const __m256i high = _mm256_packus_epi16(_mm256_srli_epi16(a, 8), _mm256_srli_epi16(b, 8));
    return {_mm256_permute4x64_epi64(low, 0xd8), _mm256_permute4x64_epi64(high, 0xd8), _mm256_setzero_si256()};
  }
  /// Whether every state is at least 256.
  static SLUICE_BODY_INLINE bool valid(state s) { return bits(_mm256_cmpeq_epi8(s.high, _mm256_setzero_si256())) == 0; }
  /// From here on no lane takes a byte; states are what they were before lift().
  static SLUICE_BODY_INLINE state settle(state s) {
    return {s.low, _mm256_add_epi8(s.high, _mm256_set1_epi8(-1)), _mm256_set1_epi8(-1)};
  }
  /// Whether every state is the encoder's first.
  static SLUICE_BODY_INLINE bool home(state s) {
    const __m256i off = _mm256_or_si256(s.low, s.high);
    return _mm256_testz_si256(off, off) != 0;
  }

  template <alphabet, int Count>
  SLUICE_BODY_INLINE hit search(state s, const row* rows) const {
    const __m256i slot = _mm256_xor_si256(s.low, top);
    const __m256i none = _mm256_xor_si256(s.low, _mm256_set1_epi8(-1));
    hit h{none, none, _mm256_setzero_si256()};
    SLUICE_UNROLL
    for (int k = 0; k < Count; ++k) look_at(h, slot, get(rows[k].byte));
    return h;
  }
  /// Two rows chosen by whether the lane's parent is 0: rows = zero[2], nonzero[2].
  SLUICE_BODY_INLINE hit search_digit(state s, const row* rows, words parent) const {
    const __m256i zero = _mm256_cmpeq_epi8(signs(parent), _mm256_setzero_si256());
    const __m256i slot = _mm256_xor_si256(s.low, top);
    const __m256i none = _mm256_xor_si256(s.low, _mm256_set1_epi8(-1));
    hit h{none, none, _mm256_setzero_si256()};
    SLUICE_UNROLL
    for (int k = 0; k < 2; ++k) look_at(h, slot, _mm256_blendv_epi8(get(rows[2 + k].byte), get(rows[k].byte), zero));
    return h;
  }
  static SLUICE_BODY_INLINE void look_at(hit& h, __m256i slot, __m256i t) {
    const __m256i d = _mm256_sub_epi8(t, slot);
    h.next = _mm256_min_epu8(h.next, d);
    h.here = _mm256_max_epu8(h.here, d);
    h.symbol = _mm256_sub_epi8(h.symbol, _mm256_cmpgt_epi8(slot, t));
  }

  /// x = freq * (x >> 8) + slot - start, then one byte of the code for every lane below 256, in lane order.
  SLUICE_BODY_INLINE void advance(state& s, hit h, source& in) const {
    if (in.p > in.limit) [[unlikely]]
      in = source::near_end(in);
    const __m256i rest = _mm256_xor_si256(h.here, _mm256_set1_epi8(-1));  // slot - start
    const __m256i freq_1 = _mm256_add_epi8(h.next, rest);
    const __m256i high_even = _mm256_and_si256(s.high, byte), high_odd = _mm256_srli_epi16(s.high, 8);
    const __m256i even = _mm256_add_epi16(_mm256_mullo_epi16(_mm256_and_si256(freq_1, byte), high_even),
                                          _mm256_add_epi16(high_even, _mm256_and_si256(rest, byte)));
    const __m256i odd = _mm256_add_epi16(_mm256_mullo_epi16(_mm256_srli_epi16(freq_1, 8), high_odd),
                                         _mm256_add_epi16(high_odd, _mm256_srli_epi16(rest, 8)));
    const __m256i low = _mm256_or_si256(_mm256_and_si256(even, byte), _mm256_slli_epi16(odd, 8));
    const __m256i high = _mm256_or_si256(_mm256_srli_epi16(even, 8), _mm256_andnot_si256(byte, odd));
    const __m256i need = _mm256_cmpeq_epi8(_mm256_or_si256(high, s.settled), _mm256_setzero_si256());
    s.high = _mm256_or_si256(high, _mm256_and_si256(need, low));
    s.low = _mm256_or_si256(_mm256_andnot_si256(need, low), take(need, in.p));
  }
  /// The next bytes, spread to the lanes where `need` is -1; others zero.
  static SLUICE_BODY_INLINE __m256i take(__m256i need, const std::uint8_t*& p) {
    const std::uint32_t m = bits(need);
    // Less the number of takers up to each lane, within 16 lanes.
    __m256i n = _mm256_add_epi8(need, _mm256_slli_epi64(need, 8));
    n = _mm256_add_epi8(n, _mm256_slli_epi64(n, 16));
    n = _mm256_add_epi8(n, _mm256_slli_epi64(n, 32));
    const __m256i eighth = _mm256_setr_epi64x(-1, 0x0707070707070707, -1, 0x0707070707070707);
    n = _mm256_add_epi8(n, _mm256_shuffle_epi8(n, eighth));
    const __m256i order = _mm256_xor_si256(_mm256_and_si256(n, need), _mm256_set1_epi8(-1));
    const __m256i bytes =
        _mm256_inserti128_si256(_mm256_castsi128_si256(get16(p)), get16(p + __builtin_popcount(m & 0xffffu)), 1);
    p += __builtin_popcount(m);
    return _mm256_shuffle_epi8(bytes, order);
  }

  static SLUICE_BODY_INLINE words decoded(hit h) {
    const __m256i values = _mm256_setr_epi8(0, -1, 1, -2, 2, -3, 3, -4, 4, -5, 5, -6, 6, -7, 7, -8,  //
                                            0, -1, 1, -2, 2, -3, 3, -4, 4, -5, 5, -6, 6, -7, 7, -8);
    return widen(_mm256_shuffle_epi8(values, h.symbol));
  }
  /// 3 * parent + digit, the digit's sign turned where the parent is negative.
  static SLUICE_BODY_INLINE words refined(words parent, hit h) {
    const __m256i values = _mm256_setr_epi8(0, -1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,  //
                                            0, -1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    const __m256i sign = _mm256_or_si256(signs(parent), _mm256_set1_epi8(1));
    const words digit = widen(_mm256_sign_epi8(_mm256_shuffle_epi8(values, h.symbol), sign));
    return {_mm256_add_epi16(_mm256_add_epi16(parent.a, parent.a), _mm256_add_epi16(parent.a, digit.a)),
            _mm256_add_epi16(_mm256_add_epi16(parent.b, parent.b), _mm256_add_epi16(parent.b, digit.b))};
  }

  // --- words and lanes ---
  static SLUICE_BODY_INLINE words load(const std::int16_t* p) { return {get(p), get(p + 16)}; }
  static SLUICE_BODY_INLINE void store(std::int16_t* p, words v) { put(p, v.a), put(p + 16, v.b); }
  static SLUICE_BODY_INLINE void store_symbols(std::uint8_t* p, hit h) { put(p, h.symbol); }
  static SLUICE_BODY_INLINE words load_bytes(const std::uint8_t* p) {
    const __m256i v = get(p);
    return {_mm256_cvtepu8_epi16(_mm256_castsi256_si128(v)), _mm256_cvtepu8_epi16(_mm256_extracti128_si256(v, 1))};
  }
  static SLUICE_BODY_INLINE words load_signed_bytes(const std::int8_t* p) { return widen(get(p)); }
  static SLUICE_BODY_INLINE words zero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
  static SLUICE_BODY_INLINE lane_set all() { return {_mm256_set1_epi8(-1)}; }
  static SLUICE_BODY_INLINE lane_set none() { return {_mm256_setzero_si256()}; }
  static SLUICE_BODY_INLINE lane_set either(lane_set a, lane_set b) { return {_mm256_or_si256(a.m, b.m)}; }
  static SLUICE_BODY_INLINE bool any(lane_set s) { return bits(s.m) != 0; }
  static SLUICE_BODY_INLINE lane_set at_least(const std::uint8_t* lanes, int n) {
    return {_mm256_cmpgt_epi8(get(lanes), _mm256_set1_epi8(static_cast<char>(n - 1)))};
  }
  static SLUICE_BODY_INLINE words select(lane_set s, words yes, words no) {
    const words m = widen(s.m);
    return {_mm256_blendv_epi8(no.a, yes.a, m.a), _mm256_blendv_epi8(no.b, yes.b, m.b)};
  }

  // --- encoding ---
  // All ones, both, where a symbol has no frequency.
  struct code_row {
    alignas(32) std::uint8_t freq_1[warp_lanes];
    std::uint8_t start[warp_lanes];
  };
  struct code {
    __m256i freq_1, start;
  };

  /// Rows of the symbols between `count` thresholds.
  static SLUICE_BODY_FN void make_codes(code_row* out, const std::uint8_t (*t)[warp_lanes], int count, lane_set live) {
    __m256i before = _mm256_set1_epi8(-1);  // start - 1
    for (int k = 0; k <= count; ++k) {
      const __m256i last = threshold(t, k, count, live);
      const __m256i start = _mm256_sub_epi8(before, _mm256_set1_epi8(-1));
      const __m256i never = k == 0 ? _mm256_setzero_si256() : _mm256_cmpeq_epi8(last, before);
      put(out[k].freq_1, _mm256_or_si256(_mm256_sub_epi8(last, start), never));
      put(out[k].start, _mm256_or_si256(start, never));
      before = last;
    }
  }
  /// The row of each lane's symbol, 0..count.
  static SLUICE_BODY_INLINE code find(const code_row* rows, int count, words symbol) {
    const __m256i s = _mm256_permute4x64_epi64(_mm256_packus_epi16(_mm256_min_epu16(symbol.a, _mm256_set1_epi16(255)),
                                                                   _mm256_min_epu16(symbol.b, _mm256_set1_epi16(255))),
                                               0xd8);
    code c{_mm256_set1_epi8(-1), _mm256_set1_epi8(-1)};
    for (int k = 0; k <= count; ++k) {
      const __m256i mine = _mm256_cmpeq_epi8(s, _mm256_set1_epi8(static_cast<char>(k)));
      c.freq_1 = _mm256_blendv_epi8(c.freq_1, get(rows[k].freq_1), mine);
      c.start = _mm256_blendv_epi8(c.start, get(rows[k].start), mine);
    }
    return c;
  }
  /// rows = zero[3], nonzero[3], chosen by the parent; the digit's sign is turned where the parent is negative.
  static SLUICE_BODY_INLINE code find_digit(const code_row* rows, words parent, words digit) {
    const __m256i c = signs(parent), zero = _mm256_cmpeq_epi8(c, _mm256_setzero_si256());
    const __m256i r = _mm256_sign_epi8(signs(digit), _mm256_or_si256(c, _mm256_set1_epi8(1)));
    const __m256i same = _mm256_cmpeq_epi8(r, _mm256_setzero_si256());
    const __m256i minus = _mm256_cmpeq_epi8(r, _mm256_set1_epi8(-1)), plus = _mm256_cmpeq_epi8(r, _mm256_set1_epi8(1));
    const __m256i none = _mm256_xor_si256(_mm256_or_si256(_mm256_or_si256(same, minus), plus), _mm256_set1_epi8(-1));
    code found{none, none};
    add(found, same, zero, rows[0], rows[3]);
    add(found, minus, zero, rows[1], rows[4]);
    add(found, plus, zero, rows[2], rows[5]);
    return found;
  }
  static SLUICE_BODY_INLINE void add(code& c, __m256i mine, __m256i zero, const code_row& yes, const code_row& no) {
    const __m256i freq_1 = _mm256_blendv_epi8(get(no.freq_1), get(yes.freq_1), zero);
    const __m256i start = _mm256_blendv_epi8(get(no.start), get(yes.start), zero);
    c.freq_1 = _mm256_or_si256(c.freq_1, _mm256_and_si256(freq_1, mine));
    c.start = _mm256_or_si256(c.start, _mm256_and_si256(start, mine));
  }
  static SLUICE_BODY_INLINE lane_set impossible(code c) {
    return {_mm256_cmpeq_epi8(_mm256_and_si256(c.freq_1, c.start), _mm256_set1_epi8(-1))};
  }

  static SLUICE_BODY_INLINE state first_state() {
    return {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256()};
  }
  /// Whether lift() leaves every state below 65536.
  static SLUICE_BODY_INLINE bool liftable(state s) {
    return bits(_mm256_cmpeq_epi8(s.high, _mm256_set1_epi8(-1))) == 0;
  }
  /// 256 more in every state.
  static SLUICE_BODY_INLINE state lift(state s) {
    return {s.low, _mm256_sub_epi8(s.high, _mm256_set1_epi8(-1)), s.settled};
  }
  static SLUICE_BODY_INLINE void store_state(std::uint8_t* p, state s) {
    const __m256i a = _mm256_unpacklo_epi8(s.low, s.high), b = _mm256_unpackhi_epi8(s.low, s.high);
    put(p, _mm256_permute2x128_si256(a, b, 0x20));
    put(p + 32, _mm256_permute2x128_si256(a, b, 0x31));
  }

  /// Lanes at or above 256 * freq put their low byte before p, in lane order; x = 256 * (x / freq) + start + x % freq.
  SLUICE_BODY_INLINE void push(state& s, code c, std::uint8_t*& p) const {
    const __m256i fits = _mm256_cmpeq_epi8(_mm256_subs_epu8(s.high, c.freq_1), _mm256_setzero_si256());
    give(~bits(fits), s.low, p);
    const __m256i low = _mm256_blendv_epi8(s.high, s.low, fits), high = _mm256_and_si256(s.high, fits);
    const __m256i one = _mm256_set1_epi16(1);
    const __m256i even = _mm256_or_si256(_mm256_and_si256(low, byte), _mm256_slli_epi16(high, 8));
    const __m256i odd = _mm256_or_si256(_mm256_srli_epi16(low, 8), _mm256_andnot_si256(byte, high));
    const __m256i freq_even = _mm256_add_epi16(_mm256_and_si256(c.freq_1, byte), one);
    const __m256i freq_odd = _mm256_add_epi16(_mm256_srli_epi16(c.freq_1, 8), one);
    __m256i q_even, q_odd, rest_even, rest_odd;
    divide(even, freq_even, q_even, rest_even);
    divide(odd, freq_odd, q_odd, rest_odd);
    s.high = _mm256_or_si256(q_even, _mm256_slli_epi16(q_odd, 8));
    s.low = _mm256_add_epi8(_mm256_or_si256(rest_even, _mm256_slli_epi16(rest_odd, 8)), c.start);
  }
  // Quotient (below 256) and rest of 16 u16: x * floor(65536 / freq) >> 16 is the quotient or one less.
  static SLUICE_BODY_INLINE void divide(__m256i x, __m256i freq, __m256i& q, __m256i& rest) {
    q = _mm256_mulhi_epu16(x, reciprocal(freq));
    rest = _mm256_sub_epi16(x, _mm256_mullo_epi16(q, freq));
    const __m256i fits = _mm256_cmpgt_epi16(freq, rest);
    q = _mm256_add_epi16(q, _mm256_add_epi16(fits, _mm256_set1_epi16(1)));
    rest = _mm256_sub_epi16(rest, _mm256_andnot_si256(fits, freq));
  }
  // floor(65536 / freq), or 65535. Symbols are known long before the states: this is off the critical path.
  static SLUICE_BODY_INLINE __m256i reciprocal(__m256i freq) {
    const __m256i even = reciprocal32(_mm256_and_si256(freq, _mm256_set1_epi32(0xffff)));
    const __m256i odd = reciprocal32(_mm256_srli_epi32(freq, 16));
    return _mm256_or_si256(even, _mm256_slli_epi32(odd, 16));
  }
  static SLUICE_BODY_INLINE __m256i reciprocal32(__m256i freq) {
    const __m256i q = _mm256_cvttps_epi32(_mm256_div_ps(_mm256_set1_ps(65536), _mm256_cvtepi32_ps(freq)));
    return _mm256_min_epi32(q, _mm256_set1_epi32(0xffff));
  }
  /// The bytes of the lanes in m, together and in order, before p. Up to 8 bytes before them are overwritten.
  static SLUICE_BODY_INLINE void give(std::uint32_t m, __m256i v, std::uint8_t*& p) {
    const __m128i a = _mm256_castsi256_si128(v), b = _mm256_extracti128_si256(v, 1);
    give8(m >> 24, _mm_srli_si128(b, 8), p);
    give8(m >> 16 & 0xffu, b, p);
    give8(m >> 8 & 0xffu, _mm_srli_si128(a, 8), p);
    give8(m & 0xffu, a, p);
  }
  static SLUICE_BODY_INLINE void give8(std::uint32_t m, __m128i v, std::uint8_t*& p) {
    const __m128i order = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(compressed.order[m]));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p - 8), _mm_shuffle_epi8(v, order));
    p -= __builtin_popcount(m);
  }

  /// Symbol of a value: 0, -1, 1, -2, ... are 0, 1, 2, 3, ...
  static SLUICE_BODY_INLINE words symbol_of(words v) {
    return {_mm256_xor_si256(_mm256_slli_epi16(v.a, 1), _mm256_srai_epi16(v.a, 15)),
            _mm256_xor_si256(_mm256_slli_epi16(v.b, 1), _mm256_srai_epi16(v.b, 15))};
  }
  /// value / 3 to the nearest; exact for every int16.
  static SLUICE_BODY_INLINE words third(words v) { return {third16(v.a), third16(v.b)}; }
  static SLUICE_BODY_INLINE __m256i third16(__m256i v) {
    const __m256i q = _mm256_mulhi_epi16(v, _mm256_set1_epi16(21845));
    const __m256i rest = _mm256_sub_epi16(v, _mm256_add_epi16(q, _mm256_add_epi16(q, q)));
    return _mm256_sub_epi16(q, _mm256_cmpgt_epi16(rest, _mm256_set1_epi16(1)));
  }
  static SLUICE_BODY_INLINE words minus_triple(words v, words parent) {
    return {_mm256_sub_epi16(v.a, _mm256_add_epi16(parent.a, _mm256_add_epi16(parent.a, parent.a))),
            _mm256_sub_epi16(v.b, _mm256_add_epi16(parent.b, _mm256_add_epi16(parent.b, parent.b)))};
  }

 private:
  static SLUICE_BODY_INLINE __m256i get(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
  static SLUICE_BODY_INLINE __m128i get16(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
  static SLUICE_BODY_INLINE void put(void* p, __m256i v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }
  static SLUICE_BODY_INLINE std::uint32_t bits(__m256i bytes) {
    return static_cast<std::uint32_t>(_mm256_movemask_epi8(bytes));
  }
  static SLUICE_BODY_INLINE words widen(__m256i v) {
    return {_mm256_cvtepi8_epi16(_mm256_castsi256_si128(v)), _mm256_cvtepi8_epi16(_mm256_extracti128_si256(v, 1))};
  }
  // Bytes of the words' signs: saturation keeps sign and zero.
  static SLUICE_BODY_INLINE __m256i signs(words v) {
    return _mm256_permute4x64_epi64(_mm256_packs_epi16(v.a, v.b), 0xd8);
  }
};
