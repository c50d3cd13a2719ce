// SPDX-License-Identifier: Apache-2.0
// What warp_test.cpp runs on the machine of every instruction set. Plain functions over arrays: doctest's macros stay
// out of code that is compiled for more than the processor may have.

namespace warp_steps {

template <alphabet A, int Count>
SLUICE_BODY_FN void decode_with(const warp& w, const std::uint8_t (*t)[rans_lanes], warp::state& x, byte_source& in,
                                std::int16_t* values, std::uint8_t* symbols) {
  warp::row rows[warp::rows_of(Count)];
  w.make_rows(rows, t, Count, w.all());
  const warp::hit h = w.template search<A, Count>(x, rows);
  w.advance(x, h, in);
  if constexpr (A == alphabet::symbols)
    w.store_symbols(symbols, h);
  else
    w.store(values, w.decoded(h));
}

// One step of all states; returns how many bytes were taken. At least 64 must be there.
template <alphabet A, int Count = 1>
SLUICE_BODY_FN std::size_t decode_step(int count, const std::uint8_t (*t)[rans_lanes], std::uint8_t* states,
                                       const std::uint8_t* bytes, std::size_t size, std::int16_t* values,
                                       std::uint8_t* symbols) {
  if constexpr (Count < rans_max_symbols - 1)
    if (count != Count)
      return decode_step<A, warp::searched(Count + 1)>(count, t, states, bytes, size, values, symbols);
  const warp w = warp::make();
  std::uint8_t tail[byte_source::tail_bytes] = {};
  byte_source in = byte_source::of(bytes, size, tail);
  warp::state x = w.load_state(states);
  decode_with<A, Count>(w, t, x, in, values, symbols);
  w.store_state(states, x);
  return static_cast<std::size_t>(in.p - bytes);
}

// The next larger count that this machine searches.
SLUICE_BODY_FN int searched(int count) { return warp::searched(count); }

SLUICE_BODY_FN void digit_step(const ternary_block& b, std::uint8_t* states, const std::uint8_t* bytes,
                               std::size_t size, std::int16_t* values) {
  const warp w = warp::make();
  std::uint8_t tail[byte_source::tail_bytes] = {};
  byte_source in = byte_source::of(bytes, size, tail);
  warp::row rows[2 * warp::rows_of(2)];
  w.make_rows(rows, b.zero, 2, w.all());
  w.make_rows(rows + warp::rows_of(2), b.nonzero, 2, w.all());
  warp::state x = w.load_state(states);
  const warp::words parent = w.load(values);
  const warp::digit_hit h = w.search_digit(x, rows, parent);
  w.advance(x, h, in);
  w.store(values, w.refined(parent, h));
  w.store_state(states, x);
}

// Pushes a symbol in every lane; returns how many bytes were written before `end`.
SLUICE_BODY_FN std::size_t push_step(const std::uint8_t (*t)[rans_lanes], int count, const std::uint8_t* symbols,
                                     std::uint8_t* states, std::uint8_t* end) {
  const warp w = warp::make();
  warp::code_row rows[rans_max_symbols];
  w.make_codes(rows, t, count, w.all());
  warp::state x = w.load_state(states);
  std::uint8_t* p = end;
  w.push(x, w.find(rows, count, w.load_bytes(symbols)), p);
  w.store_state(states, x);
  return static_cast<std::size_t>(end - p);
}

SLUICE_BODY_FN void thirds(const std::int16_t* values, std::int16_t* parents, std::int16_t* digits,
                           std::int16_t* symbols) {
  const warp w = warp::make();
  const warp::words v = w.load(values), parent = w.third(v);
  w.store(parents, parent);
  w.store(digits, w.minus_triple(v, parent));
  w.store(symbols, w.symbol_of(v));
}

// values[i] where lanes[i] >= n, else other[i]; and whether there were any.
SLUICE_BODY_FN bool select_step(const std::uint8_t* lanes, int n, std::int16_t* values, const std::int16_t* other) {
  const warp w = warp::make();
  const warp::lane_set s = w.at_least(lanes, n);
  w.store(values, w.select(s, w.load(values), w.load(other)));
  return w.any(w.either(s, w.none()));
}

SLUICE_BODY_FN void states_step(const std::uint8_t* states, bool& valid, bool& home, bool& liftable) {
  const warp w = warp::make();
  const warp::state x = w.load_state(states);
  valid = w.valid(x);
  home = w.home(w.settle(x));
  liftable = w.liftable(x);
}

SLUICE_BODY_FN void load_step(const std::uint8_t* bytes, std::int16_t* plain, std::int16_t* with_sign) {
  const warp w = warp::make();
  std::int8_t s[rans_lanes];
  std::memcpy(s, bytes, sizeof s);
  w.store(plain, w.load_bytes(bytes));
  w.store(with_sign, w.load_signed_bytes(s));
}

}  // namespace warp_steps
