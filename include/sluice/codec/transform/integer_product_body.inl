// SPDX-License-Identifier: Apache-2.0
// The inverse transform in 16-bit integers, which is twice as much for each instruction as in floats, and more where
// coefficients are zero. Part of product_body.inl, on the host. Sums are exact: a result depends neither on the
// tile that it falls in nor on the machine's width.
#include <sluice/warp/pairs.inl>

// Rows that are prepared together; their coefficients and a panel of the matrix share the first-level cache.
inline constexpr int integer_block_rows = 11 * dense_tile_rows;

// A tile of the product over those pairs of coefficients that are not zero in all of its rows.
template <int C, bool Fused>
SLUICE_BODY_ONCE void sum_pairs(const std::int16_t* a, std::ptrdiff_t lda, const std::uint16_t* which, int count,
                                const std::int16_t* panel, float* sums) {
  constexpr int R = dense_tile_rows, step = 2 * floats::width;
  pairs::vec sum[R][C];
  SLUICE_UNROLL
  for (int r = 0; r < R; ++r) {
    SLUICE_UNROLL
    for (int j = 0; j < C; ++j) sum[r][j] = pairs::zero();
  }
  for (int i = 0; i < count; ++i) {
    const std::int16_t* m = panel + std::ptrdiff_t{which[i]} * (2 * integer_panel);
    const std::int16_t* c = a + std::ptrdiff_t{which[i]} * 2;
    pairs::vec row[C];
    SLUICE_UNROLL
    for (int j = 0; j < C; ++j) row[j] = pairs::load(m + j * step);
    SLUICE_UNROLL
    for (int r = 0; r < R; ++r) {
      const pairs::vec both = pairs::both(c + r * lda);
      SLUICE_UNROLL
      for (int j = 0; j < C; ++j) sum[r][j] = pairs::template madd<Fused>(sum[r][j], row[j], both);
    }
  }
  SLUICE_UNROLL
  for (int r = 0; r < R; ++r) {
    SLUICE_UNROLL
    for (int j = 0; j < C; ++j)
      floats::store(sums + r * integer_panel + j * floats::width,
                    floats::from_ints(reinterpret_cast<floats::ints>(sum[r][j])));
  }
}

// Sixteen sums, whatever the width, so that the total has one order.
struct sixteen_sums {
  static constexpr int vectors = 16 / floats::width;
  floats::vec v[vectors];
  SLUICE_BODY_FN sixteen_sums() {
    SLUICE_UNROLL
    for (int i = 0; i < vectors; ++i) v[i] = floats::set(0.0f);
  }
  SLUICE_BODY_FN float total() const {
    if constexpr (vectors == 4)
      return pairs::total(floats::add(floats::add(v[0], v[2]), floats::add(v[1], v[3])));
    else if constexpr (vectors == 2)
      return pairs::total(floats::add(v[0], v[1]));
    else
      return pairs::total(v[0]);
  }
};

// One row of coefficients times their weights; `any` collects the rows of a tile. False where it does not fit.
SLUICE_BODY_FN bool weigh_row(const std::int16_t* c, int k, const integer_matrix& m, std::int16_t* to,
                              std::int16_t* any, bool first, float& energy) {
  constexpr int step = 2 * floats::width;
  sixteen_sums squares;
  bool fits = true;
  for (int i = 0; i < k; i += 32)
    for (int v = 0; v < sixteen_sums::vectors; ++v) {
      const int at = i + v * step;
      const pairs::vec x = pairs::load(c + at);
      fits = fits && !pairs::outside(x, pairs::load(m.limit + at));
      const pairs::vec y = pairs::times(x, pairs::load(m.weight + at));
      pairs::store(to + at, y);
      pairs::store(any + at, first ? y : pairs::either(y, pairs::load(any + at)));
      const auto square = pairs::template madd<false>(pairs::zero(), y, y);
      squares.v[v] = floats::add(squares.v[v], floats::from_ints(reinterpret_cast<floats::ints>(square)));
    }
  energy = squares.total();
  return fits && energy <= m.most_energy;
}

// Whether every head of a row is loud enough beside the error of its sums; see integer_matrix::noise.
SLUICE_BODY_FN bool exact_enough(const float* x, int n, const integer_matrix& m, float energy) {
  using f = floats;
  for (int h = 0; h * m.head_dim < n; ++h) {
    const float* head = x + std::ptrdiff_t{h} * m.head_dim;
    sixteen_sums squares;
    for (int i = 0; i < m.head_dim; i += 16)
      for (int v = 0; v < sixteen_sums::vectors; ++v) {
        const int at = i + v * f::width, left = m.head_dim - at < f::width ? m.head_dim - at : f::width;
        if (left <= 0) continue;
        const f::vec y = f::load(head + at, left);
        squares.v[v] = f::fma(y, y, squares.v[v]);
      }
    float mean = squares.total() / static_cast<float>(m.head_dim);
    if (!(mean >= 3.7252903e-9f)) mean = 3.7252903e-9f;  // of the smallest normal f16
    std::uint32_t bits;
    std::memcpy(&bits, &mean, sizeof bits);
    bits = (((bits >> 23) - 1) | 1) << 23;  // 4^floor(log2(rms)): exponents are biased by an odd number
    std::memcpy(&mean, &bits, sizeof mean);
    if (!(energy * m.noise[h] <= mean)) return false;
  }
  return true;
}

// Where rows that are done again in floats go: among those of a block.
struct again_sink {
  reconstruct_sink block;
  const std::uint8_t* rows;  // of the block
};
SLUICE_BODY_FN void put_row(const again_sink& out, int r, int c, int count, const float* sums) {
  put_row(out.block, out.rows[r], c, count, sums);
}

// What corrections make of the coefficients of a block's rows: whole numbers, however a frame came to them. `state` says
// of each row where it is: as it was, in `a`, or nowhere in 16 bits.
enum class place : std::uint8_t { job, block, beyond };
SLUICE_BODY_FN void correct_rows(const inverse_job& job, int r0, int rows, std::int16_t* a, place* state) {
  const std::ptrdiff_t lda = dense_round_up(job.k);
  for (int r = 0; r < rows; ++r) state[r] = place::job;
  for (std::size_t i = 0; i < job.num_corrections; ++i) {
    const coefficient_correction& e = job.corrections[i];
    if (e.row < r0 || e.row >= r0 + rows || e.coefficient < 0 || e.coefficient >= job.k) continue;
    place& at = state[e.row - r0];
    std::int16_t* const row = a + (e.row - r0) * lda;
    if (at == place::job) {
      std::memcpy(row, job.c + e.row * job.ldc, static_cast<std::size_t>(lda) * 2);
      at = place::block;
    }
    const float sum = static_cast<float>(row[e.coefficient]) + e.value;
    if (sum >= -32767.0f && sum <= 32767.0f && sum == static_cast<float>(static_cast<int>(sum)))
      row[e.coefficient] = static_cast<std::int16_t>(sum);
    else
      at = place::beyond;
  }
}

template <bool Fused>
SLUICE_BODY_FN void sum_panel(int vectors, const std::int16_t* a, std::ptrdiff_t lda, const std::uint16_t* which,
                              int count, const std::int16_t* panel, float* sums) {
  switch (vectors) {
    case 1: return sum_pairs<1, Fused>(a, lda, which, count, panel, sums);
    case 2: return sum_pairs<2, Fused>(a, lda, which, count, panel, sums);
#if SLUICE_TARGET_AVX512
    case 3: return sum_pairs<3, Fused>(a, lda, which, count, panel, sums);
    default: return sum_pairs<4, Fused>(a, lda, which, count, panel, sums);
#endif
  }
}

// Some rows of a job. Sets flags of rows that have to be done in floats; those are not to be relied on.
SLUICE_BODY_FN void inverse_block(const inverse_job& job, int r0, int rows, std::int16_t* a, std::uint8_t* again) {
  using f = floats;
  constexpr int R = dense_tile_rows, width = dense_tile_vectors * f::width;
  const integer_matrix& m = *job.integers;
  const int n = job.n, k = job.k, tiles = (rows + R - 1) / R;
  const std::ptrdiff_t lda = dense_round_up(k);
  std::int16_t* any = a + tiles * R * lda;
  auto* which = reinterpret_cast<std::uint16_t*>(any + lda);
  int count[integer_block_rows / R] = {};
  float energy[integer_block_rows];
  place state[integer_block_rows];
  correct_rows(job, r0, rows, a, state);
  for (int t = 0; t < tiles; ++t) {
    for (int r = t * R; r < (t + 1) * R; ++r) {
      const bool fits = r < rows && state[r] != place::beyond &&
                        weigh_row(state[r] == place::job ? job.c + (r0 + r) * job.ldc : a + r * lda, k, m, a + r * lda,
                                  any, r == t * R, energy[r]);
      if (r < rows) again[r] = !fits;
      if (!fits) {
        std::memset(a + r * lda, 0, static_cast<std::size_t>(lda) * 2);
        if (r == t * R) std::memset(any, 0, static_cast<std::size_t>(lda) * 2);
      }
    }
    std::uint16_t* list = which + t * (lda / 2);
    int found = 0;
    for (int p = 0; 2 * p < k; ++p) {
      std::int32_t pair;
      std::memcpy(&pair, any + 2 * p, sizeof pair);
      list[found] = static_cast<std::uint16_t>(p);
      found += pair != 0;
    }
    count[t] = found;
  }
  const bool fused = pairs::fused();
  const std::ptrdiff_t panel_size = std::ptrdiff_t{2 * integer_panel} * ((job.matrix_rows + 1) / 2);
  alignas(64) float sums[R * integer_panel];
  for (int c0 = 0; c0 < n; c0 += width) {
    const int columns = n - c0 < width ? n - c0 : width, vectors = (columns + f::width - 1) / f::width;
    const std::int16_t* panel = m.matrix + c0 / integer_panel * panel_size + c0 % integer_panel * 2;
    for (int t = 0; t < tiles; ++t) {
      const std::int16_t* rows_of = a + t * R * lda;
      const std::uint16_t* list = which + t * (lda / 2);
      fused ? sum_panel<true>(vectors, rows_of, lda, list, count[t], panel, sums)
            : sum_panel<false>(vectors, rows_of, lda, list, count[t], panel, sums);
      for (int r = 0; r < R && t * R + r < rows; ++r) {
        const int row = r0 + t * R + r;
        const f::vec factor = f::set(job.row_scale ? job.scale * job.row_scale[row] : job.scale);
        for (int j = 0; j < columns; j += f::width) {
          const int left = columns - j < f::width ? columns - j : f::width;
          const f::vec unit = f::mul(f::load(m.unit + c0 + j), factor);
          const f::vec base = job.mean ? f::load(job.mean + c0 + j, left) : f::set(0.0f);
          f::store(job.x + row * job.ldx + c0 + j, f::fma(f::load(sums + r * integer_panel + j), unit, base), left);
        }
      }
    }
  }
  for (int r = 0; r < rows; ++r) {  // the sums' energy in the units of x
    const float factor = job.row_scale ? job.scale * job.row_scale[r0 + r] : job.scale;
    energy[r] *= factor * factor;
  }
  for (int r = 0; r < rows; ++r)
    if (!again[r]) again[r] = !exact_enough(job.x + (r0 + r) * job.ldx, n, m, energy[r]);
}

SLUICE_BODY_FN void inverse_by_integers(const inverse_job& asked, float* workspace) {
  inverse_job job = asked;  // over all coefficients that are not zero
  for (std::size_t i = 0; i < job.num_corrections; ++i) {
    const std::int32_t k = job.corrections[i].coefficient;
    if (k >= job.k && k < job.matrix_rows) job.k = k + 1;
  }
  const std::ptrdiff_t lda = dense_round_up(job.k);
  float* panel = align_floats(workspace);
  float* a = panel + std::ptrdiff_t{dense_panel(job.n)} * job.k;
  // Behind all that floats need, so that no memory is both.
  auto* integers = reinterpret_cast<std::int16_t*>(
      align_floats(workspace + dense_workspace(job.rows, job.k, job.n) - integer_workspace(job.k)));
  for (int r0 = 0; r0 < job.rows; r0 += integer_block_rows) {
    const int rows = job.rows - r0 < integer_block_rows ? job.rows - r0 : integer_block_rows;
    std::uint8_t again[integer_block_rows], which[integer_block_rows];
    inverse_block(job, r0, rows, integers, again);
    int some = 0;
    std::uint8_t at[integer_block_rows];  // where a row is among those that are done again
    for (int r = 0; r < rows; ++r) {
      if (!again[r]) continue;
      widen_row(job.c + (r0 + r) * job.ldc, job.k, a + some * lda);
      at[r] = static_cast<std::uint8_t>(some);
      which[some++] = static_cast<std::uint8_t>(r);
    }
    if (some == 0) continue;
    for (std::size_t i = 0; i < job.num_corrections; ++i) {
      const coefficient_correction& e = job.corrections[i];
      if (e.row >= r0 && e.row < r0 + rows && again[e.row - r0] && e.coefficient >= 0 && e.coefficient < job.k)
        a[at[e.row - r0] * lda + e.coefficient] += e.value;
    }
    zero_tail_rows(a, lda, some);
    const reconstruct_sink block{
        job.x + r0 * job.ldx, job.ldx, job.mean, job.scale, rows, job.n, job.row_scale ? job.row_scale + r0 : nullptr};
    multiply_block(a, lda, some, job.k, job.matrix, job.n, job.n, panel, again_sink{block, which});
  }
}
