// SPDX-License-Identifier: Apache-2.0
// 32 lanes of 16 bits in one register, bytes of the code spread by VBMI2 expansion, lanes chosen by mask registers.

struct warp {
  static constexpr int streams = 4;  // decoded side by side
  using words = __m512i;             // 32 int16
  using source = byte_source;

  __m512i byte;  // 255 in every lane

  static SLUICE_BODY_INLINE warp make() {
    __m512i byte = _mm512_set1_epi16(255);
    asm("" : "+v"(byte));  // or g++ would build it anew in every step
    return {byte};
  }
  static SLUICE_BODY_INLINE void sync() {}
  static SLUICE_BODY_INLINE constexpr bool leads() { return true; }

  struct state {
    __m512i x;      // 32 u16
    __m512i floor;  // a lane below it takes a byte when decoding: 256, and 0 once settled
  };
  struct lane_set {
    __mmask32 m;
  };

  // --- decoding tables ---
  // Row k holds start << 8 | (freq - 1), less 255, of symbol k. With slots in the high byte too, slot << 8 exceeds the
  // rows of just those symbols that start at or before the slot. The last of them is found by halving the rows: a
  // comparison and blends a level, and the rows that are left are the ones to compare with next.
  struct row {
    alignas(64) std::uint16_t code[warp_lanes];
  };
  struct hit {
    __m512i code, value;
  };
  struct digit_hit {
    __m512i code;
    __mmask32 minus, plus;
  };
  // Rows of `count` thresholds: one a symbol.
  static constexpr int rows_of(int count) { return count + 1; }
  // What search() is compiled for: the least such count not below n.
  static constexpr int searched(int n) { return n <= 4 ? n : n <= 7 ? 7 : n <= 9 ? n : 15; }

  /// Rows of the symbols between `count` thresholds. A symbol that never occurs is never found.
  SLUICE_BODY_FN void make_rows(row* out, const std::uint8_t (*t)[warp_lanes], int count, lane_set live) const {
    __m512i start = _mm512_setzero_si512();
    for (int k = 0; k <= count; ++k) {
      const __m512i last = threshold(t, k, count, live);
      const __m512i freq_256 = _mm512_sub_epi16(_mm512_sub_epi16(last, start), _mm512_set1_epi16(255));
      _mm512_store_si512(out[k].code, _mm512_add_epi16(_mm512_slli_epi16(start, 8), freq_256));
      start = _mm512_add_epi16(last, _mm512_set1_epi16(1));
    }
  }
  SLUICE_BODY_INLINE __m512i threshold(const std::uint8_t (*t)[warp_lanes], int k, int count, lane_set live) const {
    return k < count ? _mm512_mask_mov_epi16(byte, live.m, load_bytes(t[k])) : byte;
  }
  /// A row that is never found.
  static SLUICE_BODY_FN void make_dead(row& out) { _mm512_store_si512(out.code, _mm512_set1_epi16(-1)); }

  // --- decoding ---
  static SLUICE_BODY_INLINE state load_state(const std::uint8_t* p) {
    return {_mm512_loadu_si512(p), _mm512_set1_epi16(256)};
  }
  /// Whether every state is at least 256.
  static SLUICE_BODY_INLINE bool valid(state s) { return _mm512_cmplt_epu16_mask(s.x, _mm512_set1_epi16(256)) == 0; }
  /// From here on no lane takes a byte; states are what they were before lift().
  static SLUICE_BODY_INLINE state settle(state s) {
    return {_mm512_sub_epi16(s.x, _mm512_set1_epi16(256)), _mm512_setzero_si512()};
  }
  /// Whether every state is the encoder's first.
  static SLUICE_BODY_INLINE bool home(state s) { return _mm512_test_epi16_mask(s.x, s.x) == 0; }

  template <alphabet A, int Count>
  SLUICE_BODY_INLINE hit search(state s, const row* rows) const {
    const __m512i slot = _mm512_slli_epi16(s.x, 8);
    if constexpr (Count == 15) {
      const __mmask32 m = reached(slot, get(rows[8]));
      return search8<A>(slot, pick(m, rows[0], rows[8]), pick(m, rows[1], rows[9]), pick(m, rows[2], rows[10]),
                        pick(m, rows[3], rows[11]), pick(m, rows[4], rows[12]), pick(m, rows[5], rows[13]),
                        pick(m, rows[6], rows[14]), pick(m, rows[7], rows[15]),
                        _mm512_maskz_mov_epi16(m, value_of<A>(8)));
    } else if constexpr (Count == 7) {
      return search8<A>(slot, get(rows[0]), get(rows[1]), get(rows[2]), get(rows[3]), get(rows[4]), get(rows[5]),
                        get(rows[6]), get(rows[7]), _mm512_setzero_si512());
    } else if constexpr (Count == 3) {
      return search4<A>(slot, get(rows[0]), get(rows[1]), get(rows[2]), get(rows[3]), _mm512_setzero_si512());
    } else if constexpr (Count == 0) {
      return {get(rows[0]), _mm512_setzero_si512()};
    } else {  // one more than can be halved
      hit h = search<A, Count - 1>(s, rows);
      const __m512i last = get(rows[Count]);
      const __mmask32 m = reached(slot, last);
      h.code = _mm512_mask_mov_epi16(h.code, m, last);
      h.value = _mm512_mask_mov_epi16(h.value, m, value_of<A>(Count));
      return h;
    }
  }
  template <alphabet A>
  static SLUICE_BODY_INLINE hit search8(__m512i slot, __m512i a, __m512i b, __m512i c, __m512i d, __m512i e, __m512i f,
                                        __m512i g, __m512i h, __m512i value) {
    const __mmask32 m = reached(slot, e);
    return search4<A>(slot, pick(m, a, e), pick(m, b, f), pick(m, c, g), pick(m, d, h),
                      _mm512_mask_add_epi16(value, m, value, value_of<A>(4)));
  }
  template <alphabet A>
  static SLUICE_BODY_INLINE hit search4(__m512i slot, __m512i a, __m512i b, __m512i c, __m512i d, __m512i value) {
    const __mmask32 m = reached(slot, c);
    a = pick(m, a, c);
    b = pick(m, b, d);
    value = _mm512_mask_add_epi16(value, m, value, value_of<A>(2));
    const __mmask32 odd = reached(slot, b);
    if constexpr (A == alphabet::values)
      value = _mm512_mask_sub_epi16(value, odd, _mm512_set1_epi16(-1), value);
    else
      value = _mm512_mask_add_epi16(value, odd, value, value_of<A>(1));
    return {pick(odd, a, b), value};
  }
  template <alphabet A>
  static SLUICE_BODY_INLINE __m512i value_of(int symbol) {
    return _mm512_set1_epi16(static_cast<short>(A == alphabet::values ? (symbol >> 1) ^ -(symbol & 1) : symbol));
  }
  static SLUICE_BODY_INLINE __mmask32 reached(__m512i slot, __m512i code) {
    return _mm512_cmpgt_epu16_mask(slot, code);
  }
  static SLUICE_BODY_INLINE __m512i get(const row& r) { return _mm512_load_si512(r.code); }
  static SLUICE_BODY_INLINE __m512i pick(__mmask32 m, __m512i no, __m512i yes) {
    return _mm512_mask_blend_epi16(m, no, yes);
  }
  static SLUICE_BODY_INLINE __m512i pick(__mmask32 m, const row& no, const row& yes) {
    return _mm512_mask_blend_epi16(m, get(no), get(yes));
  }

  /// rows = zero[3], nonzero[3], chosen by the lane's parent.
  SLUICE_BODY_INLINE digit_hit search_digit(state s, const row* rows, words parent) const {
    const __mmask32 nonzero = _mm512_test_epi16_mask(parent, parent);
    const __m512i slot = _mm512_slli_epi16(s.x, 8);
    const __m512i a = pick(nonzero, rows[0], rows[3]), b = pick(nonzero, rows[1], rows[4]);
    const __m512i c = pick(nonzero, rows[2], rows[5]);
    const __mmask32 minus = reached(slot, b), plus = reached(slot, c);
    return {pick(plus, pick(minus, a, b), c), minus, plus};
  }

  /// x = freq * (x >> 8) + slot - start, then one byte of the code for every lane below 256, in lane order.
  template <class Hit>
  SLUICE_BODY_INLINE void advance(state& s, const Hit& h, source& in) const {
    if (in.p > in.limit) [[unlikely]]
      in = source::near_end(in);
    // slot - start in the high byte, 256 - freq in the low one.
    const __m512i both = _mm512_sub_epi16(_mm512_slli_epi16(s.x, 8), h.code);
    const __m512i most = _mm512_add_epi16(_mm512_andnot_si512(byte, s.x), _mm512_srli_epi16(both, 8));
    const __m512i x =
        _mm512_sub_epi16(most, _mm512_mullo_epi16(_mm512_and_si512(both, byte), _mm512_srli_epi16(s.x, 8)));
    const __mmask32 low = _mm512_cmplt_epu16_mask(x, s.floor);
    const __m512i bytes = _mm512_maskz_expand_epi16(low, load_bytes(in.p));
    in.p += __builtin_popcount(low);
    s.x = _mm512_or_si512(_mm512_mask_slli_epi16(x, low, x, 8), bytes);
  }

  static SLUICE_BODY_INLINE words decoded(hit h) { return h.value; }
  /// 3 * parent + digit, the digit's sign turned where the parent is negative.
  static SLUICE_BODY_INLINE words refined(words parent, digit_hit h) {
    const __m512i one = _mm512_or_si512(_mm512_srai_epi16(parent, 15), _mm512_set1_epi16(1));
    const __m512i triple = _mm512_add_epi16(parent, _mm512_add_epi16(parent, parent));
    return _mm512_mask_add_epi16(_mm512_mask_sub_epi16(triple, h.minus, triple, one), h.plus, triple, one);
  }

  // --- words and lanes ---
  static SLUICE_BODY_INLINE words load(const std::int16_t* p) { return _mm512_loadu_si512(p); }
  static SLUICE_BODY_INLINE void store(std::int16_t* p, words v) { _mm512_storeu_si512(p, v); }
  static SLUICE_BODY_INLINE void store_symbols(std::uint8_t* p, hit h) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi16_epi8(h.value));
  }
  static SLUICE_BODY_INLINE words load_bytes(const std::uint8_t* p) {
    return _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static SLUICE_BODY_INLINE words load_signed_bytes(const std::int8_t* p) {
    return _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static SLUICE_BODY_INLINE words zero() { return _mm512_setzero_si512(); }
  static SLUICE_BODY_INLINE lane_set all() { return {~__mmask32{0}}; }
  static SLUICE_BODY_INLINE lane_set none() { return {0}; }
  static SLUICE_BODY_INLINE lane_set either(lane_set a, lane_set b) { return {a.m | b.m}; }
  static SLUICE_BODY_INLINE bool any(lane_set s) { return s.m != 0; }
  static SLUICE_BODY_INLINE lane_set at_least(const std::uint8_t* lanes, int n) {
    return {_mm256_cmpge_epu8_mask(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(lanes)),
                                   _mm256_set1_epi8(static_cast<char>(n)))};
  }
  static SLUICE_BODY_INLINE words select(lane_set s, words yes, words no) {
    return _mm512_mask_mov_epi16(no, s.m, yes);
  }

  // --- encoding ---
  // A row holds (freq - 1) << 8 | start of one symbol, all ones where it has no frequency.
  struct code_row {
    alignas(64) std::uint16_t word[warp_lanes];
  };
  struct code {
    __m512i word;
  };

  /// Rows of the symbols between `count` thresholds.
  SLUICE_BODY_FN void make_codes(code_row* out, const std::uint8_t (*t)[warp_lanes], int count, lane_set live) const {
    __m512i start = _mm512_setzero_si512();
    for (int k = 0; k <= count; ++k) {
      const __m512i last = threshold(t, k, count, live), freq_1 = _mm512_sub_epi16(last, start);
      const __m512i word = _mm512_or_si512(_mm512_slli_epi16(freq_1, 8), start);
      const __mmask32 never = _mm512_movepi16_mask(freq_1);
      _mm512_store_si512(out[k].word, _mm512_mask_mov_epi16(word, never, _mm512_set1_epi16(-1)));
      start = _mm512_add_epi16(last, _mm512_set1_epi16(1));
    }
  }
  /// The row of each lane's symbol, 0..count.
  static SLUICE_BODY_INLINE code find(const code_row* rows, int count, words symbol) {
    __m512i word = _mm512_set1_epi16(-1);
    for (int k = 0; k <= count; ++k) {
      word = _mm512_mask_loadu_epi16(word, _mm512_testn_epi16_mask(symbol, symbol), rows[k].word);
      symbol = _mm512_sub_epi16(symbol, _mm512_set1_epi16(1));
    }
    return {word};
  }
  /// rows = zero[3], nonzero[3], chosen by the parent; the digit's sign is turned where the parent is negative.
  static SLUICE_BODY_INLINE code find_digit(const code_row* rows, words parent, words digit) {
    const __mmask32 nonzero = _mm512_test_epi16_mask(parent, parent);
    const __mmask32 negative = _mm512_movepi16_mask(parent);
    const __m512i r = _mm512_mask_sub_epi16(digit, negative, _mm512_setzero_si512(), digit);
    const __mmask32 minus = _mm512_cmpeq_epi16_mask(r, _mm512_set1_epi16(-1));
    const __mmask32 plus = _mm512_cmpeq_epi16_mask(r, _mm512_set1_epi16(1));
    __m512i word =
        _mm512_mask_mov_epi16(_mm512_set1_epi16(-1), _mm512_testn_epi16_mask(r, r), either(rows, 0, nonzero));
    word = _mm512_mask_mov_epi16(word, minus, either(rows, 1, nonzero));
    return {_mm512_mask_mov_epi16(word, plus, either(rows, 2, nonzero))};
  }
  static SLUICE_BODY_INLINE __m512i either(const code_row* rows, int symbol, __mmask32 nonzero) {
    return _mm512_mask_blend_epi16(nonzero, _mm512_load_si512(rows[symbol].word),
                                   _mm512_load_si512(rows[3 + symbol].word));
  }
  static SLUICE_BODY_INLINE lane_set impossible(code c) {
    return {_mm512_cmpeq_epi16_mask(c.word, _mm512_set1_epi16(-1))};
  }

  static SLUICE_BODY_INLINE state first_state() { return {_mm512_setzero_si512(), _mm512_setzero_si512()}; }
  /// Whether lift() leaves every state below 65536.
  static SLUICE_BODY_INLINE bool liftable(state s) {
    return _mm512_cmpge_epu16_mask(s.x, _mm512_set1_epi16(-256)) == 0;
  }
  /// 256 more in every state.
  static SLUICE_BODY_INLINE state lift(state s) { return {_mm512_add_epi16(s.x, _mm512_set1_epi16(256)), s.floor}; }
  static SLUICE_BODY_INLINE void store_state(std::uint8_t* p, state s) { _mm512_storeu_si512(p, s.x); }

  /// Lanes at or above 256 * freq put their low byte before p, in lane order; x = 256 * (x / freq) + start + x % freq.
  SLUICE_BODY_INLINE void push(state& s, code c, std::uint8_t*& p) const {
    const __m512i freq_1 = _mm512_srli_epi16(c.word, 8);
    const __m512i high = _mm512_srli_epi16(s.x, 8);
    const __mmask32 full = _mm512_cmpgt_epu16_mask(high, freq_1);
    const int n = __builtin_popcount(full);
    const __m256i bytes = _mm256_maskz_compress_epi8(full, _mm512_cvtepi16_epi8(s.x));
    p -= n;
    _mm256_mask_storeu_epi8(p, _bzhi_u32(~0u, static_cast<unsigned>(n)), bytes);
    const __m512i x = _mm512_mask_mov_epi16(s.x, full, high);
    // x * floor(65536 / freq) >> 16 is the quotient or one less, for x stays below 65536.
    const __m512i freq = _mm512_add_epi16(freq_1, _mm512_set1_epi16(1));
    const __m512i q = _mm512_mulhi_epu16(x, reciprocal(freq));
    const __m512i rest = _mm512_sub_epi16(x, _mm512_mullo_epi16(q, freq));
    const __mmask32 one_less = _mm512_cmpgt_epu16_mask(rest, freq_1);
    const __m512i y = _mm512_add_epi16(_mm512_slli_epi16(q, 8), _mm512_add_epi16(rest, _mm512_and_si512(c.word, byte)));
    // One more in the quotient, a frequency less in the rest.
    s.x = _mm512_mask_sub_epi16(y, one_less, y, _mm512_sub_epi16(freq_1, byte));
  }
  // floor(65536 / freq), or 65535. Symbols are known long before the states: this is off the critical path.
  static SLUICE_BODY_INLINE __m512i reciprocal(__m512i freq) {
    const __m512i low = reciprocal(_mm512_castsi512_si256(freq)), high = reciprocal(_mm512_extracti64x4_epi64(freq, 1));
    return _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtusepi32_epi16(low)), _mm512_cvtusepi32_epi16(high), 1);
  }
  static SLUICE_BODY_INLINE __m512i reciprocal(__m256i freq) {
    return _mm512_cvttps_epi32(_mm512_div_ps(_mm512_set1_ps(65536), _mm512_cvtepi32_ps(_mm512_cvtepu16_epi32(freq))));
  }

  /// Symbol of a value: 0, -1, 1, -2, ... are 0, 1, 2, 3, ...
  static SLUICE_BODY_INLINE words symbol_of(words value) {
    return _mm512_xor_si512(_mm512_slli_epi16(value, 1), _mm512_srai_epi16(value, 15));
  }
  /// value / 3 to the nearest; exact for every int16.
  static SLUICE_BODY_INLINE words third(words value) {
    const __m512i q = _mm512_mulhi_epi16(value, _mm512_set1_epi16(21845));
    const __m512i rest = _mm512_sub_epi16(value, _mm512_add_epi16(q, _mm512_add_epi16(q, q)));
    return _mm512_mask_add_epi16(q, _mm512_cmpgt_epi16_mask(rest, _mm512_set1_epi16(1)), q, _mm512_set1_epi16(1));
  }
  static SLUICE_BODY_INLINE words minus_triple(words value, words parent) {
    return _mm512_sub_epi16(value, _mm512_add_epi16(parent, _mm512_add_epi16(parent, parent)));
  }
};
