// SPDX-License-Identifier: Apache-2.0
// 32-lane rANS: 16-bit states of at least 256, bytes for renormalisation, frequencies out of 256. One source for the
// machines of warp/host.hpp and for cuda/bodies/warp.cuh; `w` is the machine at work, a function of which moves all 32 lanes.

namespace rans {

// --- tables as the machine likes them ---

// Searches are compiled for some row counts; a block is searched by the next larger one, with dead rows.
struct planned_block {
  std::uint16_t row;    // its first row among all rows
  std::uint8_t search;  // decoding: thresholds searched; encoding: symbols - 1; 0 = every lane is dead
  std::uint8_t digits;
};

SLUICE_BODY_FN constexpr int most_rows(alphabet a) {
  const int digit = 2 * warp::rows_of(2), base = warp::rows_of(rans_max_symbols - 1);
  return rans_max_blocks * (a == alphabet::digits   ? digit
                            : a == alphabet::values ? base + digit * rans_max_digits
                                                    : base);
}
SLUICE_BODY_FN constexpr int most_codes(alphabet a) {
  const int digit = 2 * 3, base = rans_max_symbols;
  return rans_max_blocks * (a == alphabet::digits   ? digit
                            : a == alphabet::values ? base + digit * rans_max_digits
                                                    : base);
}

// Rows come last and are packed: who is short of memory passes fewer of them than the type has.
template <alphabet A>
struct decode_plan {
  planned_block block[rans_max_blocks];
  warp::lane_set refined[A == alphabet::values ? rans_max_blocks * rans_max_digits : 1];
  warp::row rows[most_rows(A)];
};
template <alphabet A>
struct encode_plan {
  planned_block block[rans_max_blocks];
  warp::lane_set refined[A == alphabet::values ? rans_max_blocks * rans_max_digits : 1];
  warp::code_row rows[most_codes(A)];
};

SLUICE_BODY_FN bool plausible(const base_block& b) {
  return b.symbols >= 1 && b.symbols <= rans_max_symbols && b.digits <= rans_max_digits;
}

template <alphabet A>
SLUICE_BODY_FN bool make_plan(const warp& w, decode_plan<A>& plan, const void* tables, int blocks, int row_count) {
  constexpr int digit_rows = warp::rows_of(2);
  if (blocks < 0 || blocks > rans_max_blocks) return false;
  int row = 0;
  for (int i = 0; i < blocks; ++i) {
    planned_block p{static_cast<std::uint16_t>(row), 0, 0};
    if constexpr (A == alphabet::digits) {
      const ternary_block& b = static_cast<const ternary_block*>(tables)[i];
      if (row_count - row < 2 * digit_rows) return false;
      w.make_rows(plan.rows + row, b.zero, 2, w.all());
      w.make_rows(plan.rows + row + digit_rows, b.nonzero, 2, w.all());
      row += 2 * digit_rows;
    } else {
      const base_block& b = static_cast<const base_block*>(tables)[i];
      if (!plausible(b)) return false;
      const int count = b.symbols - 1, digits = A == alphabet::values ? b.digits : 0;
      const int search = count > 0 || A == alphabet::symbols ? warp::searched(count > 1 ? count : 1) : 0;
      if (row_count - row < warp::rows_of(search) + 2 * digit_rows * digits) return false;
      p.search = static_cast<std::uint8_t>(search);
      p.digits = static_cast<std::uint8_t>(digits);
      w.make_rows(plan.rows + row, b.threshold, count, w.all());
      for (int k = count; k < search; ++k) w.make_dead(plan.rows[row + warp::rows_of(k)]);
      row += warp::rows_of(search);
      for (int k = 0; k < digits; ++k, row += 2 * digit_rows) {
        const warp::lane_set live = w.at_least(b.lane_digits, k + 1);
        w.make_rows(plan.rows + row, b.digit[k].zero, 2, live);
        w.make_rows(plan.rows + row + digit_rows, b.digit[k].nonzero, 2, live);
        if (w.leads()) plan.refined[i * rans_max_digits + k] = live;
      }
    }
    if (w.leads()) plan.block[i] = p;
  }
  w.sync();
  return true;
}

template <alphabet A>
SLUICE_BODY_FN bool make_plan(const warp& w, encode_plan<A>& plan, const void* tables, int blocks, int row_count) {
  if (blocks < 0 || blocks > rans_max_blocks) return false;
  int row = 0;
  for (int i = 0; i < blocks; ++i) {
    planned_block p{static_cast<std::uint16_t>(row), 0, 0};
    if constexpr (A == alphabet::digits) {
      const ternary_block& b = static_cast<const ternary_block*>(tables)[i];
      if (row_count - row < 6) return false;
      w.make_codes(plan.rows + row, b.zero, 2, w.all());
      w.make_codes(plan.rows + row + 3, b.nonzero, 2, w.all());
      row += 6;
    } else {
      const base_block& b = static_cast<const base_block*>(tables)[i];
      if (!plausible(b)) return false;
      const int digits = A == alphabet::values ? b.digits : 0;
      if (row_count - row < b.symbols + 6 * digits) return false;
      p.search = static_cast<std::uint8_t>(b.symbols - 1);
      p.digits = static_cast<std::uint8_t>(digits);
      w.make_codes(plan.rows + row, b.threshold, p.search, w.all());
      row += b.symbols;
      for (int k = 0; k < digits; ++k, row += 6) {
        const warp::lane_set live = w.at_least(b.lane_digits, k + 1);
        w.make_codes(plan.rows + row, b.digit[k].zero, 2, live);
        w.make_codes(plan.rows + row + 3, b.digit[k].nonzero, 2, live);
        if (w.leads()) plan.refined[i * rans_max_digits + k] = live;
      }
    }
    if (w.leads()) plan.block[i] = p;
  }
  w.sync();
  return true;
}

// --- decoding ---

// A code on its way. A step decodes one block of one row.
template <alphabet A>
struct decode_cursor {
  using value = std::conditional_t<A == alphabet::symbols, std::uint8_t, std::int16_t>;

  warp::state x;
  warp::source in;
  value* out;
  const decode_plan<A>* plan;
  const std::uint16_t* row;  // where the row at work stands in the job's order; null = rows as they are
  value* first;              // row 0
  std::int64_t stride;       // to the next row
  std::int64_t steps;        // yet to do before the run ends or the states settle
  std::int64_t of_run;       // of the run, behind those
  std::int64_t unsettled;    // before the states settle, behind those
  int tail;                  // steps after the states settle; -1 once they have, or where they never do
  int run;
  int block, blocks;
};

template <alphabet A, int Count = 1>
SLUICE_BODY_INLINE warp::hit search(const warp& w, warp::state x, const warp::row* rows, int count) {
  if constexpr (Count < rans_max_symbols - 1)
    if (count != Count) return search<A, warp::searched(Count + 1)>(w, x, rows, count);
  return w.template search<A, Count>(x, rows);
}

template <alphabet A>
SLUICE_BODY_INLINE void decode_step(const warp& w, decode_cursor<A>& c) {
  const planned_block b = c.plan->block[c.block];
  const warp::row* rows = c.plan->rows + b.row;
  if constexpr (A == alphabet::digits) {
    const warp::words parent = w.load(c.out);
    const warp::digit_hit h = w.search_digit(c.x, rows, parent);
    w.advance(c.x, h, c.in);
    w.store(c.out, w.refined(parent, h));
  } else if constexpr (A == alphabet::symbols) {
    const warp::hit h = search<A>(w, c.x, rows, b.search);
    w.advance(c.x, h, c.in);
    w.store_symbols(c.out, h);
  } else {
    warp::words v = w.zero();
    if (b.search != 0) {
      const warp::hit h = search<A>(w, c.x, rows, b.search);
      w.advance(c.x, h, c.in);
      v = w.decoded(h);
    }
    rows += warp::rows_of(b.search);
    for (int k = b.digits; k-- > 0;) {
      const warp::digit_hit h = w.search_digit(c.x, rows + 2 * warp::rows_of(2) * k, v);
      w.advance(c.x, h, c.in);
      v = w.select(c.plan->refined[c.block * rans_max_digits + k], w.refined(v, h), v);
    }
    w.store(c.out, v);
  }
  c.out += rans_lanes;
  if (++c.block == c.blocks) {
    c.block = 0;
    c.out = c.row == nullptr ? c.out + c.stride - std::int64_t{c.blocks} * rans_lanes
                             : c.first + std::int64_t{*++c.row} * c.stride;
  }
}

// How many steps the run and the states allow.
template <alphabet A>
SLUICE_BODY_FN void next_steps(decode_cursor<A>& c) {
  c.steps = c.of_run < c.unsettled ? c.of_run : c.unsettled;
  c.of_run -= c.steps;
  c.unsettled -= c.steps;
}

/// Whether the code can be decoded at all; nothing has been written then.
template <alphabet A>
SLUICE_BODY_FN bool decode_begin(const warp& w, decode_cursor<A>& c, const decode_job& job, const decode_plan<A>& plan,
                                 std::uint8_t* tail) {
  const std::uint32_t states = job.continues ? 0 : rans_state_bytes, head = states + (job.goes_on ? 0 : 1);
  const std::int64_t steps = std::int64_t{job.blocks} * job.rows;
  if (job.rows < 0 || job.size < head) return false;
  c.x = w.load_state(job.continues ? job.states : job.bytes);
  c.tail = job.goes_on ? -1 : job.bytes[states];
  if (!w.valid(c.x) || c.tail > steps) return false;
  c.in = warp::source::of(job.bytes + head, job.size - head, tail);
  if constexpr (A == alphabet::symbols)
    c.out = job.symbols;
  else
    c.out = job.values;
  c.plan = &plan;
  c.row = job.order;
  c.first = c.out;
  c.stride = job.stride;
  if (c.row != nullptr && job.rows > 0) c.out += std::int64_t{*c.row} * c.stride;
  c.run = 0;
  c.of_run = std::int64_t{job.blocks} * run_of(job, 0).rows;
  c.unsettled = job.goes_on ? steps : steps - c.tail;
  next_steps(c);
  c.block = 0;
  c.blocks = job.blocks;
  return true;
}

/// What follows where the steps are done: those of settled states, or of the next run, whose plan takes the place of the
/// one before. False where there is nothing more.
template <alphabet A>
SLUICE_BODY_FN bool decode_more(const warp& w, decode_cursor<A>& c, const decode_job& job, decode_plan<A>& plan,
                                int row_count) {
  if (c.unsettled == 0 && c.tail >= 0) {
    c.x = w.settle(c.x);
    c.unsettled = c.tail;
    c.tail = -1;
  }
  while (c.of_run == 0 && c.run + 1 < runs_of(job)) {
    const table_run next = run_of(job, ++c.run);
    if (next.rows == 0) continue;
    w.sync();  // others may still read the plan
    if (!make_plan(w, plan, next.tables, job.blocks, row_count)) return false;
    c.of_run = std::int64_t{job.blocks} * next.rows;
  }
  next_steps(c);
  return c.steps > 0;
}

/// Whether the bytes ended where the symbols did, and with the states that encoders start from, or another code does.
template <alphabet A>
SLUICE_BODY_FN bool decode_end(const warp& w, const decode_cursor<A>& c, const decode_job& job) {
  if (job.goes_on) w.store_state(job.states, c.x);
  return c.of_run == 0 && c.unsettled == 0 && c.in.used_up() && (job.goes_on || w.home(c.x));
}

// --- encoding: the decoder's steps backwards, from the last byte to the first ---

struct encoder {
  warp::state x;
  warp::lane_set impossible;  // lanes that met a symbol without a code
  std::uint8_t* p;

  SLUICE_BODY_INLINE void put(const warp& w, warp::code c) {
    impossible = w.either(impossible, w.impossible(c));
    w.push(x, c, p);
  }
};

template <alphabet A>
SLUICE_BODY_INLINE void encode_step(const warp& w, encoder& e, const encode_plan<A>& plan, const encode_job& job,
                                    int block, std::int64_t at) {
  const planned_block b = plan.block[block];
  const warp::code_row* rows = plan.rows + b.row;
  if constexpr (A == alphabet::digits) {
    e.put(w, w.find_digit(rows, w.load(job.values + at), w.load_signed_bytes(job.digits + at)));
  } else if constexpr (A == alphabet::symbols) {
    e.put(w, w.find(rows, b.search, w.load_bytes(job.symbols + at)));
  } else {
    warp::words v = w.load(job.values + at);
    for (int k = 0; k < b.digits; ++k) {
      const warp::lane_set live = plan.refined[block * rans_max_digits + k];
      const warp::words parent = w.third(v), digit = w.minus_triple(v, parent);
      v = w.select(live, parent, v);
      e.put(w, w.find_digit(rows + b.search + 1 + 6 * k, v, w.select(live, digit, w.zero())));
    }
    e.put(w, w.find(rows, b.search, w.symbol_of(v)));
  }
}

template <alphabet A>
SLUICE_BODY_FN int most_digits(const encode_job& job) {
  int most = 0;
  if constexpr (A == alphabet::values)
    for (int r = 0; r < runs_of(job); ++r)
      for (int i = 0; i < job.blocks; ++i) {
        const int d = static_cast<const base_block*>(run_of(job, r).tables)[i].digits;
        most = most < d ? d : most;
      }
  return most;
}

// Rows of a job from the last to the first, and the plan of the run that they are in.
template <alphabet A>
struct encode_rows_back {
  const encode_job& job;
  encode_plan<A>& plan;
  int row_count;            // that the plan has room for
  int run;                  // whose plan it is; -1 = none
  std::int64_t first, end;  // of its rows

  // Goes to the run that has a row; false where its tables make no plan.
  SLUICE_BODY_FN bool seek(const warp& w, std::int64_t row) {
    if (run >= 0 && row >= first && row < end) return true;
    std::int64_t at = 0;
    for (int i = 0; i < runs_of(job); ++i) {
      const table_run r = run_of(job, i);
      if (row >= at && row < at + r.rows) {
        w.sync();  // others may still read the plan
        run = i, first = at, end = at + r.rows;
        return make_plan(w, plan, r.tables, job.blocks, row_count);
      }
      at += r.rows;
    }
    return false;
  }
  SLUICE_BODY_FN std::int64_t at(std::int64_t row, int block) const {
    return (job.order == nullptr ? row : std::int64_t{job.order[row]}) * job.stride + std::int64_t{block} * rans_lanes;
  }
};

/// Encodes as many of the last steps as fit into the states, and lifts these; returns how many steps that are.
template <alphabet A>
SLUICE_BODY_FN int encode_tail(const warp& w, encoder& e, encode_rows_back<A>& rows) {
  const encode_job& job = rows.job;
  std::uint8_t* const end = e.p;
  warp::state fits = e.x;
  int tail = 0, block = job.blocks;
  std::int64_t row = job.rows - 1;
  for (int n = 1; n <= rans_max_tail && row >= 0 && job.blocks > 0 && rows.seek(w, row); ++n) {
    --block;
    encode_step(w, e, rows.plan, job, block, rows.at(row, block));
    if (e.p != end) break;
    if (w.liftable(e.x)) fits = e.x, tail = n;
    if (block == 0) block = job.blocks, --row;
  }
  w.sync();  // other lanes write where the step that did not fit has written
  e.p = end;
  e.x = w.lift(fits);
  return tail;
}

/// Fills bytes, size and ok of the job; `plan` is memory for a plan of `row_count` rows, those of one run at a time.
template <alphabet A>
SLUICE_BODY_FN void encode_stream(const warp& w, encode_job& job, encode_plan<A>& plan, int row_count) {
  const std::uint8_t* bytes = nullptr;
  std::int64_t size = 0;
  std::int64_t all = 0;  // rows of the runs
  for (int i = 0; i < runs_of(job); ++i) all += run_of(job, i).rows;
  if (job.rows >= 0 && all == job.rows && job.blocks >= 0 && job.blocks <= rans_max_blocks &&
      job.capacity >= encoded_bound(job.blocks, job.rows, most_digits<A>(job))) {
    std::uint8_t* const end = job.scratch + job.capacity;
    encoder e{w.first_state(), w.none(), end};
    encode_rows_back<A> rows{job, plan, row_count, -1, 0, 0};
    bool planned = job.blocks == 0 || job.rows == 0 || rows.seek(w, job.rows - 1);
    // The last steps of the code, for as long as no state runs full; then those before them, from states of at least 256.
    int tail = 0;
    if (job.goes_on)
      e.x = w.load_state(job.states);
    else if (planned)
      tail = encode_tail(w, e, rows);
    const std::int64_t steps = std::int64_t{job.blocks} * job.rows - tail;
    std::int64_t row = job.blocks > 0 ? steps / job.blocks : 0;
    for (int block = job.blocks > 0 ? static_cast<int>(steps % job.blocks) : 0; planned && row >= 0;
         --row, block = job.blocks) {
      if (block > 0) planned = rows.seek(w, row);
      while (planned && block-- > 0) encode_step(w, e, plan, job, block, rows.at(row, block));
    }
    if (!job.goes_on) {
      --e.p;
      if (w.leads()) *e.p = static_cast<std::uint8_t>(tail);
    }
    if (!job.continues) e.p -= rans_state_bytes;
    w.store_state(job.continues ? job.states : e.p, e.x);
    bytes = !planned || w.any(e.impossible) ? nullptr : e.p;
    size = end - e.p;
  }
  job.ok = bytes != nullptr && size <= INT64_C(0xffffffff);
  job.bytes = job.ok ? bytes : nullptr;
  job.size = job.ok ? static_cast<std::uint32_t>(size) : 0;
}

#if !SLUICE_TARGET_CUDA

// --- several codes on one core, a step of each in turn, so that they hide each other's latency ---

template <alphabet A, int N>
struct decode_group {
  decode_cursor<A> mine;
  decode_group<A, N - 1> others;
};
template <alphabet A>
struct decode_group<A, 0> {};

template <alphabet A, int N>
SLUICE_BODY_INLINE void gather(decode_group<A, N>& g, decode_cursor<A>* const* c) {
  if constexpr (N > 0) {
    g.mine = **c;
    gather<A, N - 1>(g.others, c + 1);
  }
}
template <alphabet A, int N>
SLUICE_BODY_INLINE void scatter(const decode_group<A, N>& g, decode_cursor<A>* const* c, std::int64_t steps) {
  if constexpr (N > 0) {
    **c = g.mine;
    (*c)->steps -= steps;
    scatter<A, N - 1>(g.others, c + 1, steps);
  }
}
template <alphabet A, int N>
SLUICE_BODY_INLINE void step_all(const warp& w, decode_group<A, N>& g) {
  if constexpr (N > 0) {
    decode_step(w, g.mine);
    step_all<A, N - 1>(w, g.others);
  }
}

// As many steps as all N codes have left. Copies of the cursors, for those nobody else points to stay in registers.
template <alphabet A, int N>
SLUICE_BODY_FN void decode_together(decode_cursor<A>* const* cursors) {
  const warp w = warp::make();
  std::int64_t steps = cursors[0]->steps;
  for (int i = 1; i < N; ++i) steps = cursors[i]->steps < steps ? cursors[i]->steps : steps;
  decode_group<A, N> g;
  gather<A, N>(g, cursors);
  for (std::int64_t n = steps; n > 0; --n) step_all<A, N>(w, g);
  scatter<A, N>(g, cursors, steps);
}

// Raw symbols come from strips, two at a time.
SLUICE_BODY_FN constexpr int side_by_side(alphabet a) {
  return a == alphabet::symbols && warp::streams > 2 ? 2 : warp::streams;
}

// N codes at a time; where one ends, the next job takes its place.
template <alphabet A, int N = side_by_side(A)>
SLUICE_BODY_FN void decode_codes(decode_job* jobs, std::size_t count) {
  const warp w = warp::make();
  decode_plan<A> plans[N];
  alignas(32) std::uint8_t tails[N][warp::source::tail_bytes];
  decode_cursor<A> cursors[N];
  decode_job* owner[N] = {};
  std::size_t next = 0;
  for (;;) {
    decode_cursor<A>* active[N];
    int n = 0;
    for (int i = 0; i < N; ++i) {
      if (owner[i] != nullptr && cursors[i].steps == 0 &&
          !decode_more(w, cursors[i], *owner[i], plans[i], most_rows(A))) {
        owner[i]->ok = decode_end(w, cursors[i], *owner[i]);
        owner[i] = nullptr;
      }
      while (owner[i] == nullptr && next < count) {
        decode_job& job = jobs[next++];
        std::memset(tails[i], 0, sizeof tails[i]);
        job.ok = false;
        if (make_plan(w, plans[i], run_of(job, 0).tables, job.blocks, most_rows(A)) &&
            decode_begin(w, cursors[i], job, plans[i], tails[i]))
          owner[i] = &job;
      }
      if (owner[i] != nullptr) active[n++] = &cursors[i];
    }
    if (n == 0) return;
    if constexpr (N >= 4) {
      if (n >= 4) {
        decode_together<A, 4>(active);
        continue;
      }
    }
    if constexpr (N >= 2) {
      if (n >= 2) {
        decode_together<A, 2>(active);
        continue;
      }
    }
    decode_together<A, 1>(active);
  }
}

template <alphabet A>
SLUICE_BODY_FN void encode_codes(encode_job* jobs, std::size_t count) {
  const warp w = warp::make();
  encode_plan<A> plan;
  for (std::size_t i = 0; i < count; ++i) encode_stream(w, jobs[i], plan, most_codes(A));
}

SLUICE_KERNEL void decode_values(decode_job* jobs, std::size_t count) noexcept {
  decode_codes<alphabet::values>(jobs, count);
}
SLUICE_KERNEL void decode_digits(decode_job* jobs, std::size_t count) noexcept {
  decode_codes<alphabet::digits>(jobs, count);
}
SLUICE_KERNEL void decode_symbols(decode_job* jobs, std::size_t count) noexcept {
  decode_codes<alphabet::symbols>(jobs, count);
}
SLUICE_KERNEL void encode_values(encode_job* jobs, std::size_t count) noexcept {
  encode_codes<alphabet::values>(jobs, count);
}
SLUICE_KERNEL void encode_digits(encode_job* jobs, std::size_t count) noexcept {
  encode_codes<alphabet::digits>(jobs, count);
}
SLUICE_KERNEL void encode_symbols(encode_job* jobs, std::size_t count) noexcept {
  encode_codes<alphabet::symbols>(jobs, count);
}

#endif

}  // namespace rans
