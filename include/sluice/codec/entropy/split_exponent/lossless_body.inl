// SPDX-License-Identifier: Apache-2.0
// Cutting elements into symbols and fields, and joining them again: format.hpp says what they are. Lanes are
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
#elif SLUICE_TARGET_NEON
  static SLUICE_BODY_FN ints left(ints n) { return n; }
  static SLUICE_BODY_FN ints shift_left(ints v, ints left) { return {shift4(v.a, left.a), shift4(v.b, left.b)}; }
  static SLUICE_BODY_FN ints shift_right(ints v, ints n) {
    return {shift4(v.a, vnegq_s32(n.a)), shift4(v.b, vnegq_s32(n.b))};
  }
  static SLUICE_BODY_FN ints shift_left(ints v, int n) { return shift_left(v, floats::set(n)); }
  static SLUICE_BODY_FN ints shift_right(ints v, int n) { return shift_left(v, floats::set(-n)); }
  static SLUICE_BODY_FN int32x4_t shift4(int32x4_t v, int32x4_t left) {  // to the right where `left` is negative
    return vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(v), left));
  }
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
  /// Whether what is the same for all lanes is to be stored here.
#if SLUICE_TARGET_CUDA
  static SLUICE_BODY_FN bool leads() { return floats::lane() == 0; }
#else
  static SLUICE_BODY_FN constexpr bool leads() { return true; }
#endif
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
#elif SLUICE_TARGET_NEON
  int low, high;
  uint8x16_t order_a, order_b;
  floats::ints left;  // negative
  SLUICE_BODY_FN void set(const std::uint32_t* first_bit) {
    std::uint8_t bytes[32];
    low = static_cast<int>(first_bit[0] / 8);
    high = static_cast<int>(first_bit[4] / 8);
    for (unsigned i = 0; i < 32; ++i)
      bytes[i] = static_cast<std::uint8_t>(first_bit[i / 4] / 8 - first_bit[i < 16 ? 0 : 4] / 8 + i % 4);
    order_a = vld1q_u8(bytes);
    order_b = vld1q_u8(bytes + 16);
    left = floats::sub(floats::set(0), floats::bit_and(bits32::load(first_bit), floats::set(7)));
  }
  SLUICE_BODY_FN floats::ints load(const std::uint8_t* row) const {
    const uint8x16_t a = vqtbl1q_u8(vld1q_u8(row + low), order_a), b = vqtbl1q_u8(vld1q_u8(row + high), order_b);
    return bits32::shift_left(floats::ints{vreinterpretq_s32_u8(a), vreinterpretq_s32_u8(b)}, left);
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

SLUICE_BODY_FN std::uint8_t* symbols_of(const strip_job& job, int row) {
  return job.symbols + static_cast<std::size_t>(row) * static_cast<std::size_t>(job.blocks * rans_lanes);
}

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
#if SLUICE_TARGET_NEON
  const uint8x16_t equal =
      vorrq_u8(vceqq_u8(vld1q_u8(symbols), vld1q_u8(escape)), vceqq_u8(vld1q_u8(symbols + 16), vld1q_u8(escape + 16)));
  if (vmaxvq_u8(equal) == 0) return 0;
#else
  std::uint64_t s[4], e[4], equal = 0;
  std::memcpy(s, symbols, 32);
  std::memcpy(e, escape, 32);
  for (int i = 0; i < 4; ++i) equal |= ((s[i] ^ e[i]) - 0x0101010101010101u) & ~(s[i] ^ e[i]);
  if ((equal & 0x8080808080808080u) == 0) return 0;  // no byte of the differences is zero
#endif
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
    for (unsigned b = 0; b < sizeof(T); ++b)
      to[sizeof(T) * static_cast<unsigned>(lane) + b] = job.escapes[sizeof(T) * mine + b];
  count += static_cast<std::uint32_t>(__popc(m));
#else
  for (; m != 0; m &= m - 1, ++count)
    if (count < job.escape_limit)
      std::memcpy(to + sizeof(T) * static_cast<std::size_t>(__builtin_ctz(m)),
                  job.escapes + sizeof(T) * std::size_t{count}, sizeof(T));
#endif
}

// Lanes as one loop wants them, made once for all columns; on CUDA again for each use, since an array that is indexed
// would not be in registers.
template <class Lanes>
struct lane_cache {
#if SLUICE_TARGET_CUDA
  const strip_job& job;
  SLUICE_BODY_FN explicit lane_cache(const strip_job& j) : job(j) {}
  SLUICE_BODY_FN Lanes at(int column) const {
    Lanes l;
    l.set(job, column);
    return l;
  }
#else
  Lanes lanes[strip_lanes / Lanes::columns];
  SLUICE_BODY_FN explicit lane_cache(const strip_job& job) {
    for (int c = 0; c < job.blocks * rans_lanes; c += Lanes::columns) lanes[c / Lanes::columns].set(job, c);
  }
  SLUICE_BODY_FN const Lanes& at(int column) const { return lanes[column / Lanes::columns]; }
#endif
};

// One block of columns.
struct join_lanes {
  static constexpr int columns = rans_lanes;
  floats::ints base[bits32::vectors], left[bits32::vectors], mask[bits32::vectors], sign[bits32::vectors];
  field_vector fields[bits32::vectors];

  SLUICE_BODY_FN void set(const strip_job& job, int column) {
    const strip_lanes_table& lanes = *job.lanes;
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
  const lane_cache<join_lanes> lanes(job);
  std::uint32_t escapes = 0;
  for (int r = 0; r < job.rows; ++r) {
    const std::uint8_t* row = job.packed + static_cast<std::size_t>(r) * job.row_bytes;
    const std::uint8_t* symbols = symbols_of(job, r);
    std::byte* to = job.elements + static_cast<std::ptrdiff_t>(r) * job.stride;
    for (int c = 0; c < job.blocks * rans_lanes; c += rans_lanes, symbols += rans_lanes, to += rans_lanes * sizeof(T)) {
      join_block<T>(lanes.at(c), row, symbols, job.stretch, job.dropped, to, job.columns - c);
      const std::uint32_t m = escaping(symbols, job.lanes->escape + c);
      if (m != 0) [[unlikely]]
        put_escapes<T>(m, to, job, escapes);
    }
  }
  return escapes == job.escape_limit;
}

// --- cutting ---

// One vector of columns as a cutter sees it: `below` the top of the highest cell, an element of value v is
// symbol << shift and, inverted, the field.
struct cut_lanes {
  static constexpr int columns = bits32::width;
  floats::ints top, mask, sign, shift;

  SLUICE_BODY_FN void set(const strip_job& job, int column) {
    const auto all = floats::set(static_cast<std::int32_t>(~0u >> (32 - job.bits)));
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

// Puts the row's escapes on the list; false when it is full.
template <class T>
SLUICE_BODY_FN bool list_escapes(std::uint32_t m, const std::byte* from, const strip_job& job, std::uint32_t& count) {
#if SLUICE_TARGET_CUDA
  const int lane = floats::lane();
  const std::uint32_t mine = count + static_cast<std::uint32_t>(__popc(m & ((1u << lane) - 1)));
  if ((m >> lane & 1) != 0 && mine < job.escape_limit)
    for (unsigned b = 0; b < sizeof(T); ++b)
      job.escapes[sizeof(T) * mine + b] = from[sizeof(T) * static_cast<unsigned>(lane) + b];
  count += static_cast<std::uint32_t>(__popc(m));
  return count <= job.escape_limit;
#else
  for (; m != 0; m &= m - 1, ++count) {
    if (count == job.escape_limit) return false;
    std::memcpy(job.escapes + sizeof(T) * std::size_t{count},
                from + sizeof(T) * static_cast<std::size_t>(__builtin_ctz(m)), sizeof(T));
  }
  return true;
#endif
}

/// Elements to symbols, and the list of what escapes (where there is one); false when the list is full.
template <class T>
SLUICE_BODY_FN bool cut_symbols(const strip_job& job, std::uint32_t* escape_count) {
  const lane_cache<cut_lanes> lanes(job);
  const auto most = floats::set(job.alphabet - 1);
  std::uint32_t escapes = 0;
  for (int r = 0; r < job.rows; ++r) {
    std::uint8_t* symbols = symbols_of(job, r);
    const std::byte* from = job.elements + static_cast<std::ptrdiff_t>(r) * job.stride;
    for (int c = 0; c < job.blocks * rans_lanes; c += rans_lanes) {
      SLUICE_UNROLL
      for (int i = 0; i < rans_lanes; i += bits32::width) {
        const int v = c + i, m = bits32::within(job.columns, v);
        const auto& l = lanes.at(v);
        const auto x = bits32::load<T>(from + sizeof(T) * static_cast<std::size_t>(m ? v : 0), m);
        const auto symbol = bits32::shift_right(l.below(bits32::shift_right(x, job.dropped)), l.shift);
        auto capped = floats::select(floats::greater(symbol, most), most, symbol);
        if constexpr (sizeof(T) == 4)  // a signed comparison does not see the largest
          capped = floats::select(floats::greater(floats::set(0), symbol), most, capped);
        floats::store_u8(symbols + v, capped);
      }
      if (!escape_count) continue;
      const std::uint32_t m = escaping(symbols + c, job.lanes->escape + c);
      if (m != 0 && !list_escapes<T>(m, from + sizeof(T) * static_cast<std::size_t>(c), job, escapes)) return false;
    }
  }
  if (escape_count && bits32::leads()) *escape_count = escapes;
  return true;
}

// One row's fields into its bytes. On the host up to 8 bytes beyond are written, on CUDA bits are added to zeros.
#if SLUICE_TARGET_CUDA
struct field_writer {
  SLUICE_BODY_FN explicit field_writer(const strip_job&) {}
  SLUICE_BODY_FN void begin(std::uint8_t* row) { row_ = row; }
  template <class T>
  SLUICE_BODY_FN void put(const strip_job& job, int column, floats::ints v) {
    const std::uint32_t first = job.lanes->first_bit[column + floats::lane()];
    const auto at = reinterpret_cast<std::uintptr_t>(row_ + first / 8);
    auto* const word = reinterpret_cast<unsigned*>(at & ~std::uintptr_t{3});
    const std::uint64_t bits = std::uint64_t{floats::words(v)} << (static_cast<unsigned>(at & 3) * 8 + first % 8);
    if (static_cast<unsigned>(bits) != 0) atomicOr(word, static_cast<unsigned>(bits));
    if (bits >> 32 != 0) atomicOr(word + 1, static_cast<unsigned>(bits >> 32));
  }
  template <class T>
  SLUICE_BODY_FN void end(const strip_job&) {}

 private:
  std::uint8_t* row_ = nullptr;
};
#else
struct field_writer {
  explicit field_writer(const strip_job& job) {
    for (int c = 0; c < job.blocks * rans_lanes; ++c)
      width_[c] = static_cast<std::uint8_t>(__builtin_popcount(job.lanes->mask[c]));
  }
  void begin(std::uint8_t* row) { row_ = row; }
  template <class T>
  SLUICE_BODY_FN void put(const strip_job&, int column, floats::ints v) {
    floats::store(reinterpret_cast<float*>(field_ + column), floats::as_float(v));
  }
  template <class T>
  SLUICE_BODY_FN void end(const strip_job& job) {
    constexpr int together = sizeof(T) == 4 ? 2 : 4;  // fields that fit a 64-bit word beside 7 bits
    for (int c = job.columns; c % together != 0; ++c) field_[c] = 0;
    std::uint8_t* out = row_;
    std::uint64_t bits = 0;
    int fill = 0;
    for (int c = 0; c < job.columns; c += together) {
      std::uint64_t group = field_[c] | std::uint64_t{field_[c + 1]} << width_[c];
      int group_width = width_[c] + width_[c + 1];
      if constexpr (together == 4) {
        group |= (field_[c + 2] | std::uint64_t{field_[c + 3]} << width_[c + 2]) << group_width;
        group_width += width_[c + 2] + width_[c + 3];
      }
      bits |= group << fill;
      fill += group_width;
      std::memcpy(out, &bits, 8);
      out += fill / 8;
      bits >>= fill & ~7;
      fill &= 7;
    }
  }

 private:
  alignas(64) std::uint32_t field_[strip_lanes];
  std::uint8_t width_[strip_lanes];
  std::uint8_t* row_ = nullptr;
};
#endif

/// Elements to packed rows.
template <class T>
SLUICE_BODY_FN void pack_fields(const strip_job& job) {
  const lane_cache<cut_lanes> lanes(job);
  field_writer writer(job);
  for (int r = 0; r < job.rows; ++r) {
    const std::byte* from = job.elements + static_cast<std::ptrdiff_t>(r) * job.stride;
    writer.begin(job.packed + static_cast<std::size_t>(r) * job.row_bytes);
    for (int v = 0; v < job.columns; v += bits32::width) {
      const auto x = bits32::load<T>(from + sizeof(T) * static_cast<std::size_t>(v), bits32::within(job.columns, v));
      const auto element = bits32::shift_right(x, job.dropped);
      const auto sign = bits32::load(job.lanes->sign + v), low = floats::sub(bits32::load(job.lanes->mask + v), sign);
      const auto below = floats::bit_and(lanes.at(v).below(element), low);
      const auto raised = floats::bit_and(bits32::shift_right(element, job.stretch), sign);
      writer.put<T>(job, v, floats::add(floats::sub(low, below), raised));
    }
    writer.end<T>(job);
  }
}

/// What all elements of each column have in common: bits ever set, bits that differ from the first row's, the largest
/// magnitude and the number of set sign bits.
template <class T>
SLUICE_BODY_FN void column_facts(const strip_job& job, column_fact_table& facts) {
  const auto magnitude_bits = floats::set(static_cast<std::int32_t>(~0u >> (33 - job.bits)));
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
      negative = floats::add(negative, bits32::shift_right(x, job.bits - 1));
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
#if SLUICE_TARGET_CUDA
  const int first = floats::lane(), step = rans_lanes;
#else
  const int first = 0, step = 1;
#endif
  for (int r = 0; r < job.rows; ++r) {
    const std::uint8_t* symbols = symbols_of(job, r);
    for (int c = first; c < job.columns; c += step) ++counts[c].of[symbols[c]];
  }
}

#if !SLUICE_TARGET_CUDA

/// Gives each column the table that codes it in the fewest bits; returns the sum.
SLUICE_KERNEL std::uint64_t choose_tables(const symbol_counts* counts, int columns, const symbol_costs* costs,
                                          int tables, std::uint8_t* chosen) noexcept {
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
#elif SLUICE_TARGET_NEON
      const uint16x8_t n0 = vld1q_u16(counts[c].of), n1 = vld1q_u16(counts[c].of + 8);
      const uint16x8_t b0 = vld1q_u16(costs[t].of), b1 = vld1q_u16(costs[t].of + 8);
      uint32x4_t sum = vmlal_high_u16(vmull_u16(vget_low_u16(n0), vget_low_u16(b0)), n0, b0);
      sum = vmlal_high_u16(vmlal_u16(sum, vget_low_u16(n1), vget_low_u16(b1)), n1, b1);
      const std::uint32_t cost = vaddvq_u32(sum);
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

// Calls f with a value of the type that elements of `size` bytes are.
template <class F>
inline bool with_element(int size, F f) {
  return size == 1 ? f(std::uint8_t{}) : size == 2 ? f(std::uint16_t{}) : f(std::uint32_t{});
}

SLUICE_KERNEL bool join(int size, const strip_job& job) noexcept {
  return with_element(size, [&](auto e) { return join_strip<decltype(e)>(job); });
}

SLUICE_KERNEL void facts(int size, const strip_job& job, column_fact_table& table) noexcept {
  with_element(size, [&](auto e) { return column_facts<decltype(e)>(job, table), true; });
}

SLUICE_KERNEL bool cut(int size, const strip_job& job, std::uint32_t* escape_count) noexcept {
  return with_element(size, [&](auto e) { return cut_symbols<decltype(e)>(job, escape_count); });
}

SLUICE_KERNEL void count(const strip_job& job, symbol_counts* counts) noexcept { count_symbols(job, counts); }

SLUICE_KERNEL void pack(int size, const strip_job& job) noexcept {
  with_element(size, [&](auto e) { return pack_fields<decltype(e)>(job), true; });
}

#endif

}  // namespace lossless
