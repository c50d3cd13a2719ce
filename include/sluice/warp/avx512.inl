// SPDX-License-Identifier: Apache-2.0
// 32 lanes of 16 bits in one register, bytes of the stream spread by VBMI2 expansion, lanes chosen by mask registers.

struct warp {
  static constexpr int streams = 2;  // decoded side by side: one hides the latency of the other
  using words = __m512i;             // 32 int16
  using source = byte_source;

  struct state {
    __m512i x;  // 32 u16
  };
  struct lane_set {
    __mmask32 m;
  };

  // --- decoding tables ---
  // A row holds t << 8 | symbol. With slots in the high byte too, row - slot ranks rows by their distance above the
  // slot modulo 256, so a running minimum finds the next symbol's start and a running maximum this one's, symbol and all.
  struct row {
    alignas(64) std::uint16_t word[rans_lanes];
  };
  struct hit {
    __m512i next, here;
  };

  // What stands in the low byte for a symbol; never negative, decoded() takes the offset away.
  template <alphabet A>
  static constexpr std::uint16_t code_of(int symbol) {
    if constexpr (A == alphabet::values)
      return static_cast<std::uint16_t>(8 + ((symbol >> 1) ^ -(symbol & 1)));
    else if constexpr (A == alphabet::digits)
      return static_cast<std::uint16_t>(symbol == 0 ? 1 : symbol == 1 ? 0 : 2);
    else
      return static_cast<std::uint16_t>(symbol);
  }

  /// Rows first to last of `count`; of equal rows all stand for the last symbol, and dead ones for symbol 0.
  template <alphabet A>
  static SLUICE_BODY_FN void make_rows(row* out, const std::uint8_t (*t)[rans_lanes], int count) {
    const __m512i dead = _mm512_set1_epi16(static_cast<short>(0xff00u | code_of<A>(0)));
    __m512i above = dead;
    __m512i above_t = _mm512_set1_epi16(-256);
    for (int k = count; k-- > 0;) {
      const __m512i mine = _mm512_slli_epi16(load_bytes(t[k]), 8);
      const __mmask32 same = _mm512_cmpeq_epi16_mask(mine, above_t);
      above = _mm512_mask_mov_epi16(_mm512_or_si512(mine, _mm512_set1_epi16(static_cast<short>(code_of<A>(k + 1)))),
                                    same, above);
      above_t = mine;
      _mm512_store_si512(out[k].word, above);
    }
  }
  template <alphabet A>
  static SLUICE_BODY_FN void make_dead(row& out) {
    _mm512_store_si512(out.word, _mm512_set1_epi16(static_cast<short>(0xff00u | code_of<A>(0))));
  }

  // --- decoding ---
  static SLUICE_BODY_INLINE state load_state(const std::uint8_t* p) { return {_mm512_loadu_si512(p)}; }
  /// Whether every state is at least 256.
  static SLUICE_BODY_INLINE bool valid(state s) { return _mm512_cmplt_epu16_mask(s.x, _mm512_set1_epi16(256)) == 0; }
  /// Whether every state is the encoder's first.
  static SLUICE_BODY_INLINE bool home(state s) { return _mm512_cmpneq_epu16_mask(s.x, _mm512_set1_epi16(256)) == 0; }

  template <alphabet A, int Count>
  static SLUICE_BODY_INLINE hit search(state s, const row* rows) {
    const __m512i slot = _mm512_slli_epi16(s.x, 8);
    const __m512i none = _mm512_xor_si512(slot, _mm512_set1_epi16(static_cast<short>(0xff00u | code_of<A>(0))));
    hit h{none, none};
    SLUICE_UNROLL
    for (int k = 0; k < Count; ++k) {
      const __m512i d = _mm512_sub_epi16(_mm512_load_si512(rows[k].word), slot);
      h.next = _mm512_min_epu16(h.next, d);
      h.here = _mm512_max_epu16(h.here, d);
    }
    return h;
  }
  /// Two rows chosen by whether the lane's parent is 0: rows = zero[2], nonzero[2].
  static SLUICE_BODY_INLINE hit search_digit(state s, const row* rows, words parent) {
    const __mmask32 zero = _mm512_testn_epi16_mask(parent, parent);
    const __m512i slot = _mm512_slli_epi16(s.x, 8);
    const __m512i none =
        _mm512_xor_si512(slot, _mm512_set1_epi16(static_cast<short>(0xff00u | code_of<alphabet::digits>(0))));
    hit h{none, none};
    SLUICE_UNROLL
    for (int k = 0; k < 2; ++k) {
      const __m512i t = _mm512_mask_loadu_epi16(_mm512_load_si512(rows[2 + k].word), zero, rows[k].word);
      const __m512i d = _mm512_sub_epi16(t, slot);
      h.next = _mm512_min_epu16(h.next, d);
      h.here = _mm512_max_epu16(h.here, d);
    }
    return h;
  }

  /// x = freq * (x >> 8) + slot - start, then one byte of the stream for every lane below 256, in lane order.
  static SLUICE_BODY_INLINE void advance(state& s, hit h, source& in) {
    if (in.p > in.limit) [[unlikely]]
      in = source::near_end(in);
    const __m512i high = _mm512_srli_epi16(s.x, 8);
    const __m512i rest = _mm512_xor_si512(_mm512_srli_epi16(h.here, 8), _mm512_set1_epi16(255));  // slot - start
    const __m512i freq_1 = _mm512_add_epi16(_mm512_srli_epi16(h.next, 8), rest);
    const __m512i x = _mm512_add_epi16(_mm512_mullo_epi16(freq_1, high), _mm512_add_epi16(high, rest));
    const __mmask32 low = _mm512_cmplt_epu16_mask(x, _mm512_set1_epi16(256));
    const __m512i bytes = _mm512_maskz_expand_epi16(low, load_bytes(in.p));
    in.p += __builtin_popcount(low);
    s.x = _mm512_or_si512(_mm512_mask_slli_epi16(x, low, x, 8), bytes);
  }

  template <alphabet A>
  static SLUICE_BODY_INLINE words decoded(hit h) {
    return _mm512_sub_epi16(_mm512_and_si512(h.here, _mm512_set1_epi16(255)),
                            _mm512_set1_epi16(static_cast<short>(code_of<A>(0))));
  }
  /// 3 * parent + digit, the digit's sign turned where the parent is negative.
  static SLUICE_BODY_INLINE words refined(words parent, hit h) {
    const __m512i digit = decoded<alphabet::digits>(h);
    const __m512i triple = _mm512_add_epi16(parent, _mm512_add_epi16(parent, parent));
    return _mm512_mask_sub_epi16(_mm512_add_epi16(triple, digit), _mm512_movepi16_mask(parent), triple, digit);
  }

  // --- words and lanes ---
  static SLUICE_BODY_INLINE words load(const std::int16_t* p) { return _mm512_loadu_si512(p); }
  static SLUICE_BODY_INLINE void store(std::int16_t* p, words v) { _mm512_storeu_si512(p, v); }
  static SLUICE_BODY_INLINE void store_symbols(std::uint8_t* p, hit h) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi16_epi8(h.here));
  }
  static SLUICE_BODY_INLINE words load_bytes(const std::uint8_t* p) {
    return _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static SLUICE_BODY_INLINE words load_signed_bytes(const std::int8_t* p) {
    return _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static SLUICE_BODY_INLINE words zero() { return _mm512_setzero_si512(); }
  static SLUICE_BODY_INLINE lane_set at_least(const std::uint8_t* lanes, int n) {
    return {_mm256_cmpge_epu8_mask(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(lanes)),
                                   _mm256_set1_epi8(static_cast<char>(n)))};
  }
  static SLUICE_BODY_INLINE words select(lane_set s, words yes, words no) { return _mm512_mask_mov_epi16(no, s.m, yes); }

  // --- encoding ---
  // A row holds (freq - 1) << 8 | start of one symbol.
  struct code_row {
    alignas(64) std::uint16_t word[rans_lanes];
  };
  struct code {
    __m512i word;
  };

  /// Rows of `count` + 1 symbols between `count` thresholds; a symbol without frequency codes as symbol 0.
  static SLUICE_BODY_FN void make_codes(code_row* out, const std::uint8_t (*t)[rans_lanes], int count) {
    __m512i start = _mm512_setzero_si512();
    for (int k = 0; k <= count; ++k) {
      const __m512i last = k < count ? load_bytes(t[k]) : _mm512_set1_epi16(255);
      const __m512i freq_1 = _mm512_sub_epi16(last, start);
      const __mmask32 never = _mm512_movepi16_mask(freq_1);
      __m512i word = _mm512_or_si512(_mm512_slli_epi16(freq_1, 8), start);
      if (k > 0) word = _mm512_mask_mov_epi16(word, never, _mm512_load_si512(out[0].word));
      _mm512_store_si512(out[k].word, word);
      start = _mm512_add_epi16(last, _mm512_set1_epi16(1));
    }
  }
  /// The row of each lane's symbol; a symbol that no row has codes as symbol 0.
  static SLUICE_BODY_INLINE code find(const code_row* rows, int count, words symbol) {
    __m512i word = _mm512_load_si512(rows[0].word);
    __m512i left = symbol;
    for (int k = 1; k <= count; ++k) {
      left = _mm512_sub_epi16(left, _mm512_set1_epi16(1));
      word = _mm512_mask_loadu_epi16(word, _mm512_testn_epi16_mask(left, left), rows[k].word);
    }
    return {word};
  }
  /// rows = zero[3], nonzero[3], chosen by the parent; the digit's sign is turned where the parent is negative.
  static SLUICE_BODY_INLINE code find_digit(const code_row* rows, words parent, words digit) {
    const __mmask32 nonzero = _mm512_test_epi16_mask(parent, parent);
    const __mmask32 negative = _mm512_movepi16_mask(parent);
    const __m512i r = _mm512_mask_sub_epi16(digit, negative, _mm512_setzero_si512(), digit);
    const __mmask32 minus = _mm512_movepi16_mask(r);
    const __mmask32 plus = _mm512_cmpgt_epi16_mask(r, _mm512_setzero_si512());
    __m512i word = _mm512_mask_loadu_epi16(_mm512_load_si512(rows[0].word), nonzero, rows[3].word);
    word = _mm512_mask_loadu_epi16(word, _kand_mask32(minus, _knot_mask32(nonzero)), rows[1].word);
    word = _mm512_mask_loadu_epi16(word, _kand_mask32(plus, _knot_mask32(nonzero)), rows[2].word);
    word = _mm512_mask_loadu_epi16(word, _kand_mask32(minus, nonzero), rows[4].word);
    word = _mm512_mask_loadu_epi16(word, _kand_mask32(plus, nonzero), rows[5].word);
    return {word};
  }

  static SLUICE_BODY_INLINE state first_state() { return {_mm512_set1_epi16(256)}; }
  static SLUICE_BODY_INLINE void store_state(std::uint8_t* p, state s) { _mm512_storeu_si512(p, s.x); }

  /// Lanes at or above 256 * freq put their low byte before p, in lane order; then x = x / freq << 8 | start + x % freq.
  static SLUICE_BODY_INLINE void push(state& s, code c, std::uint8_t*& p) {
    const __m512i freq_1 = _mm512_srli_epi16(c.word, 8);
    const __m512i high = _mm512_srli_epi16(s.x, 8);
    const __mmask32 full = _mm512_cmpgt_epu16_mask(high, freq_1);
    const int n = __builtin_popcount(full);
    const __m256i bytes = _mm256_maskz_compress_epi8(full, _mm512_cvtepi16_epi8(s.x));
    p -= n;
    _mm256_mask_storeu_epi8(p, _bzhi_u32(~0u, static_cast<unsigned>(n)), bytes);
    const __m512i x = _mm512_mask_mov_epi16(s.x, full, high);
    const __m512i freq = _mm512_add_epi16(freq_1, _mm512_set1_epi16(1));
    __m512i q = divide(x, freq);
    __m512i rest = _mm512_sub_epi16(x, _mm512_mullo_epi16(q, freq));
    const __mmask32 short_by_one = _mm512_cmpgt_epu16_mask(rest, freq_1);
    q = _mm512_mask_add_epi16(q, short_by_one, q, _mm512_set1_epi16(1));
    rest = _mm512_mask_sub_epi16(rest, short_by_one, rest, freq);
    s.x = _mm512_add_epi16(_mm512_slli_epi16(q, 8),
                           _mm512_add_epi16(rest, _mm512_and_si512(c.word, _mm512_set1_epi16(255))));
  }
  // x / freq or one less: the estimate is lowered by more than the reciprocal's error (2^-14 of at most 256).
  static SLUICE_BODY_INLINE __m512i divide(__m512i x, __m512i freq) {
    const __m512i lo = _mm512_cvttps_epi32(quotient(_mm512_castsi512_si256(x), _mm512_castsi512_si256(freq)));
    const __m512i hi =
        _mm512_cvttps_epi32(quotient(_mm512_extracti64x4_epi64(x, 1), _mm512_extracti64x4_epi64(freq, 1)));
    return _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi32_epi16(lo)), _mm512_cvtepi32_epi16(hi), 1);
  }
  static SLUICE_BODY_INLINE __m512 quotient(__m256i x, __m256i freq) {
    const __m512 r = _mm512_rcp14_ps(_mm512_cvtepi32_ps(_mm512_cvtepu16_epi32(freq)));
    return _mm512_fmsub_ps(_mm512_cvtepi32_ps(_mm512_cvtepu16_epi32(x)), r, _mm512_set1_ps(0.02f));
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
