// SPDX-License-Identifier: Apache-2.0
// 32-lane rANS: 16-bit states of at least 256, bytes for renormalisation, frequencies out of 256. One source for the
// machines of warp/host.hpp and for cuda/warp.cuh.

// --- tables as the machine likes them ---

// Searches are compiled for some row counts; a block is searched by the next larger one, with dead rows.
struct planned_block {
  std::uint16_t row;     // its first row among all rows
  std::uint8_t search;   // rows searched; 0 = every lane is dead
  std::uint8_t digits;
};

constexpr int rows_searched(int thresholds) {
  return thresholds <= 8 ? thresholds : thresholds <= 10 ? 10 : thresholds <= 12 ? 12 : 15;
}

constexpr int most_rows(alphabet a) {
  return a == alphabet::digits ? 4 : a == alphabet::values ? rans_max_symbols - 1 + 4 * rans_max_digits
                                                           : rans_max_symbols - 1;
}

template <alphabet A>
struct decode_plan {
  warp::row rows[rans_max_blocks * most_rows(A)];
  warp::lane_set refined[A == alphabet::values ? rans_max_blocks * rans_max_digits : 1];
  planned_block block[rans_max_blocks];
};

// Digit tables of a base block, dead in lanes that have fewer digits whatever the caller left there.
SLUICE_BODY_FN void masked_digit(std::uint8_t (*out)[rans_lanes], const base_block& b, int k) {
  for (int lane = 0; lane < rans_lanes; ++lane) {
    const auto dead = static_cast<std::uint8_t>(b.lane_digits[lane] > k ? 0 : 255);
    for (int i = 0; i < 2; ++i) {
      out[i][lane] = static_cast<std::uint8_t>(b.digit[k].zero[i][lane] | dead);
      out[2 + i][lane] = static_cast<std::uint8_t>(b.digit[k].nonzero[i][lane] | dead);
    }
  }
}

template <alphabet A>
SLUICE_BODY_FN bool make_plan(decode_plan<A>& plan, const stream_job& job) {
  warp::row* row = plan.rows;
  for (int i = 0; i < job.blocks; ++i) {
    planned_block& p = plan.block[i];
    p.row = static_cast<std::uint16_t>(row - plan.rows);
    p.digits = 0;
    if constexpr (A == alphabet::digits) {
      const ternary_block& b = static_cast<const ternary_block*>(job.tables)[i];
      warp::make_rows<A>(row, b.zero, 2);
      warp::make_rows<A>(row + 2, b.nonzero, 2);
      row += 4;
    } else {
      const base_block& b = static_cast<const base_block*>(job.tables)[i];
      if (b.symbols < 1 || b.symbols > rans_max_symbols || b.digits > rans_max_digits) return false;
      const int count = b.symbols - 1;
      p.search = static_cast<std::uint8_t>(rows_searched(count));
      warp::make_rows<A>(row, b.threshold, count);
      for (int k = count; k < p.search; ++k) warp::make_dead<A>(row[k]);
      row += p.search;
      if constexpr (A == alphabet::values) {
        p.digits = b.digits;
        for (int k = 0; k < b.digits; ++k, row += 4) {
          std::uint8_t t[4][rans_lanes];
          masked_digit(t, b, k);
          warp::make_rows<alphabet::digits>(row, t, 2);
          warp::make_rows<alphabet::digits>(row + 2, t + 2, 2);
          plan.refined[i * rans_max_digits + k] = warp::at_least(b.lane_digits, k + 1);
        }
      }
    }
  }
  return true;
}

// --- decoding ---

// A stream on its way: one step decodes one block of one row.
template <alphabet A>
struct decode_cursor {
  using value = std::conditional_t<A == alphabet::symbols, std::uint8_t, std::int16_t>;

  warp::state x;
  warp::source in;
  value* out;
  const decode_plan<A>* plan;
  std::int64_t skip;  // from the end of a row to the next
  std::int64_t steps;
  int block, blocks;
};

template <alphabet A>
SLUICE_BODY_INLINE warp::hit search(warp::state x, const warp::row* rows, int count) {
  switch (count) {
    case 1: return warp::search<A, 1>(x, rows);
    case 2: return warp::search<A, 2>(x, rows);
    case 3: return warp::search<A, 3>(x, rows);
    case 4: return warp::search<A, 4>(x, rows);
    case 5: return warp::search<A, 5>(x, rows);
    case 6: return warp::search<A, 6>(x, rows);
    case 7: return warp::search<A, 7>(x, rows);
    case 8: return warp::search<A, 8>(x, rows);
    case 10: return warp::search<A, 10>(x, rows);
    case 12: return warp::search<A, 12>(x, rows);
    default: return warp::search<A, 15>(x, rows);
  }
}

template <alphabet A>
SLUICE_BODY_INLINE void decode_step(decode_cursor<A>& c) {
  const planned_block& b = c.plan->block[c.block];
  const warp::row* rows = c.plan->rows + b.row;
  if constexpr (A == alphabet::digits) {
    const warp::words parent = warp::load(c.out);
    const warp::hit h = warp::search_digit(c.x, rows, parent);
    warp::advance(c.x, h, c.in);
    warp::store(c.out, warp::refined(parent, h));
  } else if constexpr (A == alphabet::symbols) {
    const warp::hit h = search<A>(c.x, rows, b.search);
    warp::advance(c.x, h, c.in);
    warp::store_symbols(c.out, h);
  } else {
    warp::words v = warp::zero();
    if (b.search != 0) {
      const warp::hit h = search<A>(c.x, rows, b.search);
      warp::advance(c.x, h, c.in);
      v = warp::decoded<A>(h);
    }
    for (int k = b.digits; k-- > 0;) {
      const warp::hit h = warp::search_digit(c.x, rows + b.search + 4 * k, v);
      warp::advance(c.x, h, c.in);
      v = warp::select(c.plan->refined[c.block * rans_max_digits + k], warp::refined(v, h), v);
    }
    warp::store(c.out, v);
  }
  c.out += rans_lanes;
  if (++c.block == c.blocks) {
    c.block = 0;
    c.out += c.skip;
  }
}

template <alphabet A>
SLUICE_BODY_FN bool decode_begin(decode_cursor<A>& c, decode_plan<A>& plan, stream_job& job, std::uint8_t* tail) {
  job.ok = false;
  if (job.blocks < 0 || job.blocks > rans_max_blocks || job.rows < 0 || job.size < rans_state_bytes) return false;
  if (!make_plan(plan, job)) return false;
  c.x = warp::load_state(job.bytes);
  if (!warp::valid(c.x)) return false;
  c.in = warp::source::of(job.bytes + rans_state_bytes, job.size - rans_state_bytes, tail);
  if constexpr (A == alphabet::symbols)
    c.out = job.symbols;
  else
    c.out = job.values;
  c.plan = &plan;
  c.skip = job.stride - std::int64_t{job.blocks} * rans_lanes;
  c.steps = std::int64_t{job.blocks} * job.rows;
  c.block = 0;
  c.blocks = job.blocks;
  return true;
}

template <alphabet A>
SLUICE_BODY_FN void decode_end(const decode_cursor<A>& c, stream_job& job) {
  job.ok = c.in.used_up() && warp::home(c.x);
}

template <alphabet A>
SLUICE_BODY_FN void decode_one(stream_job& job) {
  decode_plan<A> plan;
  alignas(32) std::uint8_t tail[warp::source::tail_bytes] = {};
  decode_cursor<A> c;
  if (!decode_begin(c, plan, job, tail)) return;
  for (std::int64_t n = c.steps; n > 0; --n) decode_step(c);
  decode_end(c, job);
}

// Two streams step by step, so that each hides the latency of the other; whatever is left of the longer follows alone.
template <alphabet A>
SLUICE_BODY_FN void decode_two(stream_job& first, stream_job& second) {
  decode_plan<A> plan[2];
  alignas(32) std::uint8_t tail[2][warp::source::tail_bytes] = {};
  decode_cursor<A> a, b;
  const bool ok_a = decode_begin(a, plan[0], first, tail[0]), ok_b = decode_begin(b, plan[1], second, tail[1]);
  std::int64_t left_a = ok_a ? a.steps : 0, left_b = ok_b ? b.steps : 0;
  const std::int64_t common = left_a < left_b ? left_a : left_b;
  for (std::int64_t n = common; n > 0; --n) {
    decode_step(a);
    decode_step(b);
  }
  left_a -= common, left_b -= common;
  for (; left_a > 0; --left_a) decode_step(a);
  for (; left_b > 0; --left_b) decode_step(b);
  if (ok_a) decode_end(a, first);
  if (ok_b) decode_end(b, second);
}

template <alphabet A>
SLUICE_BODY_FN void decode_streams(stream_job* jobs, std::size_t count) {
  std::size_t i = 0;
  if constexpr (warp::streams > 1)
    for (; i + 2 <= count; i += 2) decode_two<A>(jobs[i], jobs[i + 1]);
  for (; i < count; ++i) decode_one<A>(jobs[i]);
}

// --- encoding: the decoder's steps backwards, from the last byte to the first ---

constexpr int most_codes(alphabet a) {
  return a == alphabet::digits ? 6 : a == alphabet::values ? rans_max_symbols + 6 * rans_max_digits : rans_max_symbols;
}

template <alphabet A>
struct encode_plan {
  warp::code_row rows[rans_max_blocks * most_codes(A)];
  warp::lane_set refined[A == alphabet::values ? rans_max_blocks * rans_max_digits : 1];
  planned_block block[rans_max_blocks];  // search = symbols - 1
  int digits = 0;
};

template <alphabet A>
SLUICE_BODY_FN bool make_plan(encode_plan<A>& plan, const encode_job& job) {
  warp::code_row* row = plan.rows;
  for (int i = 0; i < job.blocks; ++i) {
    planned_block& p = plan.block[i];
    p.row = static_cast<std::uint16_t>(row - plan.rows);
    p.search = p.digits = 0;
    if constexpr (A == alphabet::digits) {
      const ternary_block& b = static_cast<const ternary_block*>(job.tables)[i];
      warp::make_codes(row, b.zero, 2);
      warp::make_codes(row + 3, b.nonzero, 2);
      row += 6;
    } else {
      const base_block& b = static_cast<const base_block*>(job.tables)[i];
      if (b.symbols < 1 || b.symbols > rans_max_symbols || b.digits > rans_max_digits) return false;
      p.search = static_cast<std::uint8_t>(b.symbols - 1);
      warp::make_codes(row, b.threshold, p.search);
      row += b.symbols;
      if constexpr (A == alphabet::values) {
        p.digits = b.digits;
        plan.digits = plan.digits < b.digits ? b.digits : plan.digits;
        for (int k = 0; k < b.digits; ++k, row += 6) {
          std::uint8_t t[4][rans_lanes];
          masked_digit(t, b, k);
          warp::make_codes(row, t, 2);
          warp::make_codes(row + 3, t + 2, 2);
          plan.refined[i * rans_max_digits + k] = warp::at_least(b.lane_digits, k + 1);
        }
      }
    }
  }
  return true;
}

template <alphabet A>
SLUICE_BODY_INLINE void encode_step(warp::state& x, std::uint8_t*& p, const encode_plan<A>& plan, const encode_job& job,
                                    int block, std::int64_t at) {
  const planned_block& b = plan.block[block];
  const warp::code_row* rows = plan.rows + b.row;
  if constexpr (A == alphabet::digits) {
    warp::push(x, warp::find_digit(rows, warp::load(job.values + at), warp::load_signed_bytes(job.digits + at)), p);
  } else if constexpr (A == alphabet::symbols) {
    warp::push(x, warp::find(rows, b.search, warp::load_bytes(job.symbols + at)), p);
  } else {
    warp::words v = warp::load(job.values + at);
    for (int k = 0; k < b.digits; ++k) {
      const warp::words parent =
          warp::select(plan.refined[block * rans_max_digits + k], warp::third(v), v);
      warp::push(x, warp::find_digit(rows + b.search + 1 + 6 * k, parent, warp::minus_triple(v, parent)), p);
      v = parent;
    }
    if (b.search != 0) warp::push(x, warp::find(rows, b.search, warp::symbol_of(v)), p);
  }
}

template <alphabet A>
SLUICE_BODY_FN void encode_one(encode_job& job) {
  job.ok = false;
  job.bytes = nullptr;
  job.size = 0;
  encode_plan<A> plan;
  if (job.blocks < 0 || job.blocks > rans_max_blocks || job.rows < 0 || !make_plan(plan, job)) return;
  if (job.capacity < encoded_bound(job.blocks, job.rows, plan.digits)) return;
  std::uint8_t* const end = job.scratch + job.capacity;
  std::uint8_t* p = end;
  warp::state x = warp::first_state();
  for (std::int64_t row = job.rows; row-- > 0;)
    for (int block = job.blocks; block-- > 0;)
      encode_step(x, p, plan, job, block, row * job.stride + std::int64_t{block} * rans_lanes);
  p -= rans_state_bytes;
  warp::store_state(p, x);
  job.bytes = p;
  job.size = static_cast<std::uint32_t>(end - p);
  job.ok = true;
}

template <alphabet A>
SLUICE_BODY_FN void encode_streams(encode_job* jobs, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) encode_one<A>(jobs[i]);
}
