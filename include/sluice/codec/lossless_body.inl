// SPDX-License-Identifier: Apache-2.0
// Cutting elements into symbols and fields, and joining them again: lossless_format.hpp says what they are. Lanes are
// the 32-bit integers of the float machine, whatever the element type.

namespace lossless {

struct bits32 {
  using ints = floats::ints;
  static constexpr int width = floats::width;
  static constexpr int vectors = rans_lanes / width;

  // Each lane by its own count, or all by one. Where lanes cannot differ, `left` is a factor instead of a count.
#if SLUICE_TARGET_AVX512
  static SLUICE_BODY_FN ints left(ints n) { return n; }
  static SLUICE_BODY_FN ints shift_left(ints v, ints left) { return _mm512_maskz_sllv_epi32(0xffff, v, left); }
  static SLUICE_BODY_FN ints shift_right(ints v, ints n) { return _mm512_maskz_srlv_epi32(0xffff, v, n); }
  static SLUICE_BODY_FN ints shift_left(ints v, int n) {
    return _mm512_maskz_sll_epi32(0xffff, v, _mm_cvtsi32_si128(n));
  }
  static SLUICE_BODY_FN ints shift_right(ints v, int n) {
    return _mm512_maskz_srl_epi32(0xffff, v, _mm_cvtsi32_si128(n));
  }
#elif SLUICE_TARGET_AVX2
  static SLUICE_BODY_FN ints left(ints n) { return n; }
  static SLUICE_BODY_FN ints shift_left(ints v, ints left) { return _mm256_sllv_epi32(v, left); }
  static SLUICE_BODY_FN ints shift_right(ints v, ints n) { return _mm256_srlv_epi32(v, n); }
  static SLUICE_BODY_FN ints shift_left(ints v, int n) { return _mm256_sll_epi32(v, _mm_cvtsi32_si128(n)); }
  static SLUICE_BODY_FN ints shift_right(ints v, int n) { return _mm256_srl_epi32(v, _mm_cvtsi32_si128(n)); }
#elif SLUICE_TARGET_CUDA
  static SLUICE_BODY_FN ints left(ints n) { return n; }
  static SLUICE_BODY_FN ints shift_left(ints v, int n) { return floats::words(floats::words(v) << n); }
  static SLUICE_BODY_FN ints shift_right(ints v, int n) { return floats::words(floats::words(v) >> n); }
#else
  static SLUICE_BODY_FN ints left(ints n) {
    floats::words one{1, 1, 1, 1};
    return floats::from_words(one << floats::as_words(n));
  }
  static SLUICE_BODY_FN ints shift_left(ints v, ints left) {
    return floats::from_words(floats::as_words(v) * floats::as_words(left));
  }
  static SLUICE_BODY_FN ints shift_right(ints v, ints n) {
    return floats::from_words(floats::as_words(v) >> floats::as_words(n));
  }
  static SLUICE_BODY_FN ints shift_left(ints v, int n) { return floats::from_words(floats::as_words(v) << n); }
  static SLUICE_BODY_FN ints shift_right(ints v, int n) { return floats::from_words(floats::as_words(v) >> n); }
#endif

  template <class T>
  static SLUICE_BODY_FN ints load(const std::byte* p, int m) {
    if constexpr (sizeof(T) == 1)
      return floats::load_u8(p, m);
    else if constexpr (sizeof(T) == 2)
      return floats::load_u16(p, m);
    else
      return floats::bits(floats::load(reinterpret_cast<const float*>(p), m));
  }
  template <class T>
  static SLUICE_BODY_FN void store(std::byte* p, ints v, int m) {
    if constexpr (sizeof(T) == 1)
      floats::store_u8(p, v, m);
    else if constexpr (sizeof(T) == 2)
      floats::store_u16(p, v, m);
    else
      floats::store(reinterpret_cast<float*>(p), floats::as_float(v), m);
  }
  static SLUICE_BODY_FN ints load(const std::uint32_t* p) {
    return floats::bits(floats::load(reinterpret_cast<const float*>(p)));
  }
  /// How many of a vector's lanes from `column` on belong to columns.
  static SLUICE_BODY_FN int within(int columns, int column) {
    const int left = columns - column;
    return left < 0 ? 0 : left < width ? left : width;
  }
};

// --- fields of at most 24 bits, packed without gaps within a row ---

// Where the fields of one vector of lanes lie in a row: each lane gets the four bytes its field begins in.
struct field_vector {
#if SLUICE_TARGET_AVX512
  int first;
  __m512i order, shift;
  SLUICE_BODY_FN void set(const std::uint32_t* first_bit) {
    alignas(64) std::uint8_t bytes[64];
    first = static_cast<int>(first_bit[0] / 8);
    for (unsigned i = 0; i < 64; ++i)
      bytes[i] = static_cast<std::uint8_t>(first_bit[i / 4] / 8 - first_bit[0] / 8 + i % 4);
    order = _mm512_loadu_si512(bytes);
    shift = _mm512_and_si512(_mm512_loadu_si512(first_bit), _mm512_set1_epi32(7));
  }
  SLUICE_BODY_FN floats::ints load(const std::uint8_t* row) const {
    return bits32::shift_right(_mm512_maskz_permutexvar_epi8(~__mmask64{0}, order, _mm512_loadu_si512(row + first)),
                               shift);
  }
#elif SLUICE_TARGET_AVX2
  int low, high;
  __m256i order, shift;
  SLUICE_BODY_FN void set(const std::uint32_t* first_bit) {
    alignas(32) std::uint8_t bytes[32];
    low = static_cast<int>(first_bit[0] / 8);
    high = static_cast<int>(first_bit[4] / 8);
    for (unsigned i = 0; i < 32; ++i)
      bytes[i] = static_cast<std::uint8_t>(first_bit[i / 4] / 8 - first_bit[i < 16 ? 0 : 4] / 8 + i % 4);
    order = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes));
    shift = _mm256_and_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(first_bit)), _mm256_set1_epi32(7));
  }
  SLUICE_BODY_FN floats::ints load(const std::uint8_t* row) const {
    const __m256i bytes = _mm256_setr_m128i(_mm_loadu_si128(reinterpret_cast<const __m128i*>(row + low)),
                                            _mm_loadu_si128(reinterpret_cast<const __m128i*>(row + high)));
    return _mm256_srlv_epi32(_mm256_shuffle_epi8(bytes, order), shift);
  }
#elif SLUICE_TARGET_CUDA
  unsigned first;
  SLUICE_BODY_FN void set(const std::uint32_t* first_bit) { first = first_bit[floats::lane()]; }
  SLUICE_BODY_FN floats::ints load(const std::uint8_t* row) const {
    const auto at = reinterpret_cast<std::uintptr_t>(row + first / 8);
    const auto* word = reinterpret_cast<const std::uint32_t*>(at & ~std::uintptr_t{3});
    return floats::words(__funnelshift_r(word[0], word[1], static_cast<unsigned>(at & 3) * 8 + first % 8));
  }
#else
  std::uint32_t first[floats::width];
  SLUICE_BODY_FN void set(const std::uint32_t* first_bit) { std::memcpy(first, first_bit, sizeof first); }
  SLUICE_BODY_FN floats::ints load(const std::uint8_t* row) const {
    return floats::ints{field(row, first[0]), field(row, first[1]), field(row, first[2]), field(row, first[3])};
  }
  static SLUICE_BODY_FN std::int32_t field(const std::uint8_t* row, std::uint32_t at) {
    std::uint32_t word;
    std::memcpy(&word, row + at / 8, 4);
    return static_cast<std::int32_t>(word >> at % 8);
  }
#endif
};

// --- joining ---

// Bit i set: lane i of the row holds an escape.
SLUICE_BODY_FN std::uint32_t escaping(const std::uint8_t* symbols, const std::uint8_t* escape) {
#if SLUICE_TARGET_AVX2 || SLUICE_TARGET_AVX512
  return static_cast<std::uint32_t>(
      _mm256_movemask_epi8(_mm256_cmpeq_epi8(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(symbols)),
                                             _mm256_loadu_si256(reinterpret_cast<const __m256i*>(escape)))));
#elif SLUICE_TARGET_CUDA
  return __ballot_sync(0xffffffffu, symbols[floats::lane()] == escape[floats::lane()]);
#else
  std::uint64_t s[4], e[4], equal = 0;
  std::memcpy(s, symbols, 32);
  std::memcpy(e, escape, 32);
  for (int i = 0; i < 4; ++i) equal |= ((s[i] ^ e[i]) - 0x0101010101010101u) & ~(s[i] ^ e[i]);
  if ((equal & 0x8080808080808080u) == 0) return 0;  // no byte of the differences is zero
  std::uint32_t m = 0;
  for (unsigned i = 0; i < 32; ++i) m |= static_cast<std::uint32_t>(symbols[i] == escape[i]) << i;
  return m;
#endif
}

// Puts the next listed elements where the row has escapes; counts them even beyond the list's end.
template <class T>
SLUICE_BODY_FN void put_escapes(std::uint32_t m, std::byte* to, const strip_job& job, std::uint32_t& count) {
#if SLUICE_TARGET_CUDA
  const int lane = floats::lane();
  const std::uint32_t mine = count + static_cast<std::uint32_t>(__popc(m & ((1u << lane) - 1)));
  if ((m >> lane & 1) != 0 && mine < job.escape_limit)
    for (unsigned b = 0; b < sizeof(T); ++b) to[sizeof(T) * lane + b] = job.escapes[sizeof(T) * mine + b];
  count += static_cast<std::uint32_t>(__popc(m));
#else
  for (; m != 0; m &= m - 1, ++count)
    if (count < job.escape_limit)
      std::memcpy(to + sizeof(T) * static_cast<std::size_t>(__builtin_ctz(m)),
                  job.escapes + sizeof(T) * std::size_t{count}, sizeof(T));
#endif
}

// The lanes of one block of columns, in registers where there are enough.
struct join_lanes {
  floats::ints base[bits32::vectors], left[bits32::vectors], mask[bits32::vectors], sign[bits32::vectors];
  field_vector fields[bits32::vectors];

  SLUICE_BODY_FN void set(const strip_lanes_table& lanes, int column) {
    SLUICE_UNROLL
    for (int v = 0; v < bits32::vectors; ++v) {
      const int at = column + v * bits32::width;
      base[v] = bits32::load(lanes.base + at);
      left[v] = bits32::left(bits32::load(lanes.shift + at));
      mask[v] = bits32::load(lanes.mask + at);
      sign[v] = bits32::load(lanes.sign + at);
      fields[v].set(lanes.first_bit + at);
    }
  }
};

template <class T>
SLUICE_BODY_FN void join_block(const join_lanes& lanes, const std::uint8_t* row, const std::uint8_t* symbols,
                               int stretch, int dropped, std::byte* to, int columns) {
  SLUICE_UNROLL
  for (int v = 0; v < bits32::vectors; ++v) {
    const auto field = floats::bit_and(lanes.fields[v].load(row), lanes.mask[v]);
    const auto sign = floats::bit_and(field, lanes.sign[v]);
    const auto symbol = bits32::shift_left(floats::load_u8(symbols + v * bits32::width), lanes.left[v]);
    const auto magnitude = floats::add(floats::sub(lanes.base[v], symbol), floats::sub(field, sign));
    const auto element = bits32::shift_left(floats::add(magnitude, bits32::shift_left(sign, stretch)), dropped);
    bits32::store<T>(to + sizeof(T) * static_cast<std::size_t>(v * bits32::width), element,
                     bits32::within(columns, v * bits32::width));
  }
}

/// Symbols and fields to elements; false where the escapes are not as many as were promised.
template <class T>
SLUICE_BODY_FN bool join_strip(const strip_job& job) {
#if SLUICE_TARGET_CUDA
  join_lanes lanes[1];  // read again for every block: no registers for all, and no local memory for the rest
#else
  join_lanes lanes[rans_max_blocks];
  for (int b = 0; b < job.blocks; ++b) lanes[b].set(*job.lanes, b * rans_lanes);
#endif
  std::uint32_t escapes = 0;
  for (int r = 0; r < job.rows; ++r) {
    const std::uint8_t* row = job.packed + static_cast<std::size_t>(r) * job.row_bytes;
    const std::uint8_t* symbols =
        job.symbols + static_cast<std::size_t>(r) * static_cast<std::size_t>(job.blocks * rans_lanes);
    std::byte* to = job.elements + static_cast<std::ptrdiff_t>(r) * job.stride;
    for (int b = 0; b < job.blocks; ++b, symbols += rans_lanes, to += rans_lanes * sizeof(T)) {
#if SLUICE_TARGET_CUDA
      lanes->set(*job.lanes, b * rans_lanes);
      const join_lanes& l = *lanes;
#else
      const join_lanes& l = lanes[b];
#endif
      join_block<T>(l, row, symbols, job.stretch, job.dropped, to, job.columns - b * rans_lanes);
      const std::uint32_t m = escaping(symbols, job.lanes->escape + b * rans_lanes);
      if (m != 0) [[unlikely]]
        put_escapes<T>(m, to, job, escapes);
    }
  }
  return escapes == job.escape_limit;
}

#if !SLUICE_TARGET_CUDA

// --- cutting ---

// One vector of columns as a cutter sees it: `below` the top of the highest cell, an element of value v is
// symbol << shift and, inverted, the field.
struct cut_lanes {
  floats::ints top, mask, sign, shift;

  SLUICE_BODY_FN void set(const strip_job& job, int column) {
    const auto all = floats::set(static_cast<std::int32_t>(job.value_mask));
    shift = bits32::load(job.lanes->shift + column);
    sign = bits32::shift_left(bits32::load(job.lanes->sign + column), job.stretch);
    mask = floats::sub(all, floats::bit_and(all, sign));
    top = floats::add(bits32::load(job.lanes->base + column),
                      floats::sub(bits32::shift_left(floats::set(1), bits32::left(shift)), floats::set(1)));
  }
  SLUICE_BODY_FN floats::ints below(floats::ints element) const {
    return floats::bit_and(floats::sub(top, floats::sub(element, floats::bit_and(element, sign))), mask);
  }
};

/// Elements to symbols, and the list of what escapes (where there is one); false when the list is full.
template <class T>
SLUICE_BODY_FN bool cut_symbols(const strip_job& job, std::uint32_t* escape_count) {
  cut_lanes lanes[strip_lanes / bits32::width];
  for (int c = 0; c < job.blocks * rans_lanes; c += bits32::width) lanes[c / bits32::width].set(job, c);
  const auto most = floats::set(job.alphabet - 1);
  std::uint32_t escapes = 0;
  for (int r = 0; r < job.rows; ++r) {
    std::uint8_t* symbols =
        job.symbols + static_cast<std::size_t>(r) * static_cast<std::size_t>(job.blocks * rans_lanes);
    const std::byte* from = job.elements + static_cast<std::ptrdiff_t>(r) * job.stride;
    for (int c = 0; c < job.blocks * rans_lanes; c += rans_lanes) {
      SLUICE_UNROLL
      for (int i = 0; i < rans_lanes; i += bits32::width) {
        const int v = c + i, m = bits32::within(job.columns, v);
        const cut_lanes& l = lanes[v / bits32::width];
        const auto x = bits32::load<T>(from + sizeof(T) * static_cast<std::size_t>(m ? v : 0), m);
        const auto symbol = bits32::shift_right(l.below(bits32::shift_right(x, job.dropped)), l.shift);
        auto capped = floats::select(floats::greater(symbol, most), most, symbol);
        if constexpr (sizeof(T) == 4)  // a signed comparison does not see the largest
          capped = floats::select(floats::greater(floats::set(0), symbol), most, capped);
        floats::store_u8(symbols + v, capped);
      }
      if (!escape_count) continue;
      std::uint32_t m = escaping(symbols + c, job.lanes->escape + c);
      for (; m != 0; m &= m - 1, ++escapes) {
        if (escapes == job.escape_limit) return false;
        std::memcpy(job.escapes + sizeof(T) * std::size_t{escapes},
                    from + sizeof(T) * (static_cast<std::size_t>(c) + static_cast<std::size_t>(__builtin_ctz(m))),
                    sizeof(T));
      }
    }
  }
  if (escape_count) *escape_count = escapes;
  return true;
}

/// Elements to packed rows. Writes up to 8 bytes beyond a row; the last one is followed by more than that.
template <class T>
SLUICE_BODY_FN void pack_fields(const strip_job& job) {
  constexpr int together = sizeof(T) == 4 ? 2 : 4;  // fields that fit a 64-bit word beside 7 bits
  cut_lanes lanes[strip_lanes / bits32::width];
  alignas(64) std::uint32_t field[strip_lanes];
  std::uint8_t width[strip_lanes];
  for (int c = 0; c < job.blocks * rans_lanes; ++c) {
    if (c % bits32::width == 0) lanes[c / bits32::width].set(job, c);
    width[c] = static_cast<std::uint8_t>(__builtin_popcount(job.lanes->mask[c]));
  }
  for (int r = 0; r < job.rows; ++r) {
    const std::byte* from = job.elements + static_cast<std::ptrdiff_t>(r) * job.stride;
    for (int v = 0; v < job.columns; v += bits32::width) {
      const auto x = bits32::load<T>(from + sizeof(T) * static_cast<std::size_t>(v), bits32::within(job.columns, v));
      const auto element = bits32::shift_right(x, job.dropped);
      const auto sign = bits32::load(job.lanes->sign + v), low = floats::sub(bits32::load(job.lanes->mask + v), sign);
      const auto below = floats::bit_and(lanes[v / bits32::width].below(element), low);
      const auto raised = floats::bit_and(bits32::shift_right(element, job.stretch), sign);
      floats::store(reinterpret_cast<float*>(field + v),
                    floats::as_float(floats::add(floats::sub(low, below), raised)));
    }
    for (int c = job.columns; c % together != 0; ++c) field[c] = 0;
    std::uint8_t* out = job.packed + static_cast<std::size_t>(r) * job.row_bytes;
    std::uint64_t bits = 0;
    int fill = 0;
    for (int c = 0; c < job.columns; c += together) {
      std::uint64_t group = field[c] | std::uint64_t{field[c + 1]} << width[c];
      int group_width = width[c] + width[c + 1];
      if constexpr (together == 4) {
        group |= (field[c + 2] | std::uint64_t{field[c + 3]} << width[c + 2]) << group_width;
        group_width += width[c + 2] + width[c + 3];
      }
      bits |= group << fill;
      fill += group_width;
      std::memcpy(out, &bits, 8);
      out += fill / 8;
      bits >>= fill & ~7;
      fill &= 7;
    }
  }
}

/// What all elements of each column have in common: bits ever set, bits that differ from the first row's, the largest
/// magnitude and the number of set sign bits.
template <class T>
SLUICE_BODY_FN void column_facts(const strip_job& job, column_fact_table& facts) {
  const auto magnitude_bits = floats::set(static_cast<std::int32_t>(job.value_mask >> 1));
  const int sign_shift = __builtin_popcount(job.value_mask) - 1;
  for (int v = 0; v < job.columns; v += bits32::width) {
    const int m = bits32::within(job.columns, v);
    const std::byte* from = job.elements + sizeof(T) * static_cast<std::size_t>(v);
    const auto first = bits32::load<T>(from, m);
    auto any = floats::set(0), varies = any, largest = any, negative = any;
    for (int r = 0; r < job.rows; ++r, from += job.stride) {
      const auto x = bits32::load<T>(from, m);
      const auto magnitude = floats::bit_and(x, magnitude_bits);
      any = floats::bit_or(any, x);
      varies = floats::bit_or(varies, floats::sub(x, first));
      largest = floats::select(floats::greater(magnitude, largest), magnitude, largest);
      negative = floats::add(negative, bits32::shift_right(x, sign_shift));
    }
    const auto put = [v](std::uint32_t* to, floats::ints x) {
      floats::store(reinterpret_cast<float*>(to + v), floats::as_float(x));
    };
    put(facts.any, any);
    put(facts.varies, varies);
    put(facts.largest, largest);
    put(facts.negative, negative);
  }
}

/// How often each column has each symbol.
SLUICE_BODY_FN void count_symbols(const strip_job& job, symbol_counts* counts) {
  for (int r = 0; r < job.rows; ++r) {
    const std::uint8_t* symbols =
        job.symbols + static_cast<std::size_t>(r) * static_cast<std::size_t>(job.blocks * rans_lanes);
    for (int c = 0; c < job.columns; ++c) ++counts[c].of[symbols[c]];
  }
}

/// Gives each column the table that codes it in the fewest bits; returns the sum.
SLUICE_BODY_FN std::uint64_t choose_tables(const symbol_counts* counts, int columns, const symbol_costs* costs,
                                           int tables, std::uint8_t* chosen) {
  std::uint64_t total = 0;
  for (int c = 0; c < columns; ++c) {
    std::uint32_t best = ~0u;
    for (int t = 0; t < tables; ++t) {
#if SLUICE_TARGET_AVX2 || SLUICE_TARGET_AVX512
      const __m256i p = _mm256_madd_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(counts[c].of)),
                                          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(costs[t].of)));
      __m128i s = _mm_add_epi32(_mm256_castsi256_si128(p), _mm256_extracti128_si256(p, 1));
      s = _mm_add_epi32(s, _mm_unpackhi_epi64(s, s));
      const std::uint32_t cost =
          static_cast<std::uint32_t>(_mm_cvtsi128_si32(s)) + static_cast<std::uint32_t>(_mm_extract_epi32(s, 1));
#else
      std::uint32_t cost = 0;
      for (int k = 0; k < rans_max_symbols; ++k) cost += std::uint32_t{counts[c].of[k]} * costs[t].of[k];
#endif
      if (cost < best) best = cost, chosen[c] = static_cast<std::uint8_t>(t);
    }
    total += best;
  }
  return total;
}

#endif

template <class T>
SLUICE_BODY_FN bool run(lossless_task task, const strip_job& job, void* result) {
  switch (task) {
    case lossless_task::join: return join_strip<T>(job);
#if !SLUICE_TARGET_CUDA
    case lossless_task::facts: return column_facts<T>(job, *static_cast<column_fact_table*>(result)), true;
    case lossless_task::cut: return cut_symbols<T>(job, static_cast<std::uint32_t*>(result));
    case lossless_task::count: return count_symbols(job, static_cast<symbol_counts*>(result)), true;
    case lossless_task::pack: return pack_fields<T>(job), true;
#endif
    default: return false;
  }
}

}  // namespace lossless
