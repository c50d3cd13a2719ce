// SPDX-License-Identifier: Apache-2.0
// The matrix product around the quantiser, over the machine of warp/floats.inl.

// R rows times C vectors of columns: out(row, j, sum over k of a[row][k] * b(k, j)). Every sum runs over k in order,
// so a result depends neither on the tile it falls in nor on the machine's width.
template <int R, int C, class Matrix, class Out>
SLUICE_BODY_FN void multiply_tile(const float* a, std::ptrdiff_t lda, int k, const Matrix& b, const Out& out) {
  using f = floats;
  f::vec sum[R][C];
  SLUICE_UNROLL
  for (int r = 0; r < R; ++r) {
    SLUICE_UNROLL
    for (int j = 0; j < C; ++j) sum[r][j] = f::set(0.0f);
  }
  for (int i = 0; i < k; ++i) {
    f::vec m[C];
    SLUICE_UNROLL
    for (int j = 0; j < C; ++j) m[j] = b(i, j);
    SLUICE_UNROLL
    for (int r = 0; r < R; ++r) {
      const f::vec s = f::set(a[r * lda + i]);
      SLUICE_UNROLL
      for (int j = 0; j < C; ++j) sum[r][j] = f::fma(s, m[j], sum[r][j]);
    }
  }
  SLUICE_UNROLL
  for (int r = 0; r < R; ++r) out.template row<C>(r, sum[r]);
}

// Where the tiles' results go: x = scale * sum + mean.
struct reconstruct_sink {
  float* x;  // the tile's corner
  std::ptrdiff_t ldx;
  const float* mean;  // at the tile's first column; may be null
  float scale;
  int rows, columns;                 // of the tile that exist
  const float* row_scale = nullptr;  // of the tile's first row; may be null

  template <int C>
  SLUICE_BODY_FN void row(int r, const floats::vec (&sum)[C]) const {
    using f = floats;
    if (r >= rows) return;
    const f::vec factor = f::set(row_scale ? scale * row_scale[r] : scale);
    SLUICE_UNROLL
    for (int j = 0; j < C; ++j) {
      const int at = j * f::width;
      const int m = columns - at < f::width ? columns - at : f::width;
      if (m <= 0) continue;
      const f::vec base = mean ? f::load(mean + at, m) : f::set(0.0f);
      f::store(x + r * ldx + at, f::fma(sum[j], factor, base), m);
    }
  }
};

SLUICE_BODY_FN floats::mask beyond_range(floats::vec v) {  // |v| > 32000 or NaN
  using f = floats;
  return f::greater(f::bit_and(f::bits(v), f::set(0x7fffffff)), f::set(0x46fa0000));
}

// Sets what others may set to the same at the same time: warps that share a row.
SLUICE_BODY_FN void raise(std::uint8_t* flag) {
#if SLUICE_TARGET_CUDA
  if (floats::lane() == 0) ptx::store_relaxed(flag, 1);
#else
  *flag = 1;
#endif
}

// Where the tiles' results go: f = the sum rounded.
struct quantize_sink {
  std::int16_t* q;
  std::ptrdiff_t ldq;
  std::uint8_t* beyond;  // of the tile's first row; may be null
  int rows, columns;

  template <int C>
  SLUICE_BODY_FN void row(int r, const floats::vec (&sum)[C]) const {
    using f = floats;
    if (r >= rows) return;
    f::mask bad = f::none();
    SLUICE_UNROLL
    for (int j = 0; j < C; ++j) {
      const int at = j * f::width;
      const int m = columns - at < f::width ? columns - at : f::width;
      if (m <= 0) continue;
      bad = f::either(bad, beyond_range(sum[j]));
      f::store_u16(q + r * ldq + at, f::round(f::clamp(sum[j], 32767.0f)), m);
    }
    if (f::any(bad) && beyond) raise(beyond + r);
  }
};

// to[i] = from[i] as float, zero from n to the end of the last vector.
SLUICE_BODY_FN void widen_row(const std::int16_t* from, int n, float* to) {
  using f = floats;
  for (int i = 0; i < n; i += f::width)
    f::store(to + i, f::from_ints(f::load_i16(from + i, n - i < f::width ? n - i : f::width)));
}

// to = (from - mean) * scale, zero from n to the end of the last vector.
SLUICE_BODY_FN void centre_row(const float* from, const float* mean, float scale, int n, float* to) {
  using f = floats;
  for (int i = 0; i < n; i += f::width) {
    const int m = n - i < f::width ? n - i : f::width;
    const f::vec v = f::load(from + i, m);
    f::store(to + i, f::mul(mean ? f::sub(v, f::load(mean + i, m)) : v, f::set(scale)));
  }
}

// x += s * m: a correction to a coefficient that has no place in the product.
SLUICE_BODY_FN void add_scaled_row(float* x, float s, const std::uint16_t* row, int n) {
  using f = floats;
  for (int i = 0; i < n; i += f::width) {
    const int m = n - i < f::width ? n - i : f::width;
    f::store(x + i, f::fma(f::set(s), f::load_f16(row + i, m), f::load(x + i, m)), m);
  }
}

SLUICE_BODY_FN void dequantize_row(const std::int16_t* c, int k, float step, const float* mean, int n, float* x) {
  using f = floats;
  for (int i = 0; i < n; i += f::width) {
    const int m = n - i < f::width ? n - i : f::width;
    const f::vec base = mean ? f::load(mean + i, m) : f::set(0.0f);
    const int live = k - i < m ? k - i : m;
    const f::vec v = live > 0 ? f::from_ints(f::load_i16(c + i, live)) : f::set(0.0f);
    f::store(x + i, f::fma(v, f::set(step), base), m);
  }
}

// True where the row leaves the range.
SLUICE_BODY_FN bool quantize_row(const float* x, const float* mean, float inverse_step, int n, std::int16_t* q) {
  using f = floats;
  f::mask bad = f::none();
  for (int i = 0; i < n; i += f::width) {
    const int m = n - i < f::width ? n - i : f::width;
    const f::vec v = f::load(x + i, m);
    const f::vec y = f::mul(mean ? f::sub(v, f::load(mean + i, m)) : v, f::set(inverse_step));
    bad = f::either(bad, beyond_range(y));
    f::store_u16(q + i, f::round(f::clamp(y, 32767.0f)), m);
  }
  return f::any(bad);
}

#if !SLUICE_TARGET_CUDA  // from here on: how the host walks rows and blocks; on CUDA the grid does

// Tile of the product: with R x C sums, C matrix vectors and one factor all in registers.
#if SLUICE_TARGET_AVX512
inline constexpr int dense_tile_rows = 6, dense_tile_vectors = 4;
#elif SLUICE_TARGET_AVX2 || SLUICE_TARGET_NEON
inline constexpr int dense_tile_rows = 6, dense_tile_vectors = 2;
#else
inline constexpr int dense_tile_rows = 4, dense_tile_vectors = 2;
#endif

template <int C>
struct packed_panel {  // [k][C * width], in the order in which a tile reads it
  const float* p;
  SLUICE_BODY_FN floats::vec operator()(int k, int j) const {
    return floats::load(p + (std::ptrdiff_t{k} * C + j) * floats::width);
  }
};

// Some columns of a matrix as floats in a panel of whole vectors, zero beyond the last column.
template <class Element>
SLUICE_BODY_FN void pack_panel(const Element* matrix, std::ptrdiff_t ldm, int k, int columns, float* to) {
  using f = floats;
  for (int i = 0; i < k; ++i, matrix += ldm)
    for (int j = 0; j < columns; j += f::width, to += f::width) {
      const int m = columns - j < f::width ? columns - j : f::width;
      if constexpr (sizeof(Element) == 2)
        f::store(to, f::load_f16(matrix + j, m));
      else
        f::store(to, f::load(matrix + j, m));
    }
}

// The sums of a tile on their way to a sink: products are compiled once for all sinks, and a tile's sums are few beside
// the terms of each.
struct tile_sums {
  static constexpr int stride = dense_tile_vectors * floats::width;
  float* of;  // [dense_tile_rows][stride]

  template <int C>
  SLUICE_BODY_FN void row(int r, const floats::vec (&sum)[C]) const {
    SLUICE_UNROLL
    for (int j = 0; j < C; ++j) floats::store(of + r * stride + j * floats::width, sum[j]);
  }
};

template <int C>
SLUICE_BODY_ONCE void sum_tile(const float* a, std::ptrdiff_t lda, int k, const float* panel, float* sums) {
  multiply_tile<dense_tile_rows, C>(a, lda, k, packed_panel<C>{panel}, tile_sums{sums});
}

// Sums of a row that lie in memory on their way to a sink, in `count` columns from c on.
SLUICE_BODY_FN void put_row(const reconstruct_sink& out, int r, int c, int count, const float* sums) {
  using f = floats;
  const f::vec factor = f::set(out.row_scale ? out.scale * out.row_scale[r] : out.scale);
  for (int j = 0; j < count; j += f::width) {
    const int m = count - j < f::width ? count - j : f::width;
    const f::vec base = out.mean ? f::load(out.mean + c + j, m) : f::set(0.0f);
    f::store(out.x + r * out.ldx + c + j, f::fma(f::load(sums + j), factor, base), m);
  }
}
SLUICE_BODY_FN void put_row(const quantize_sink& out, int r, int c, int count, const float* sums) {
  using f = floats;
  std::int16_t* const to = out.q + r * out.ldq + c;
  f::mask bad = f::none();
  for (int j = 0; j < count; j += f::width) {
    const f::vec sum = f::load(sums + j);
    bad = f::either(bad, beyond_range(sum));
    f::store_u16(to + j, f::round(f::clamp(sum, 32767.0f)), count - j < f::width ? count - j : f::width);
  }
  if (f::any(bad) && out.beyond) raise(out.beyond + r);
}

// A panel is made right before all rows of the block meet it, which finds it in a near cache; making it again for the
// next block costs little beside that.
template <class Element, class Sink>
SLUICE_BODY_FN void multiply_block(const float* a, std::ptrdiff_t lda, int rows, int k, const Element* matrix,
                                   std::ptrdiff_t ldm, int n, float* panel, const Sink& out) {
  constexpr int width = dense_tile_vectors * floats::width;
  static_assert(width <= dense_panel(64));
  alignas(64) float sums[dense_tile_rows * width];
  for (int c0 = 0; c0 < n; c0 += width) {
    const int columns = n - c0 < width ? n - c0 : width;
    const int vectors = (columns + floats::width - 1) / floats::width;
    pack_panel(matrix + c0, ldm, k, columns, panel);
    for (int r = 0; r < rows; r += dense_tile_rows) {
      switch (vectors) {
        case 1: sum_tile<1>(a + r * lda, lda, k, panel, sums); break;
        case 2: sum_tile<2>(a + r * lda, lda, k, panel, sums); break;
#if SLUICE_TARGET_AVX512
        case 3: sum_tile<3>(a + r * lda, lda, k, panel, sums); break;
        default: sum_tile<4>(a + r * lda, lda, k, panel, sums); break;
#endif
      }
      const int live = rows - r < dense_tile_rows ? rows - r : dense_tile_rows;
      for (int i = 0; i < live; ++i) put_row(out, r + i, c0, columns, sums + i * width);
    }
  }
}

// Rows of the left factor at a time: at most 1 MiB of it, for the second-level cache.
SLUICE_BODY_FN int dense_block_rows(int rows, std::ptrdiff_t lda) {
  const int fit = static_cast<int>(dense_block_floats / (lda > 0 ? lda : 1)) / dense_tile_rows * dense_tile_rows;
  const int most = fit < 4 * dense_tile_rows ? 4 * dense_tile_rows : fit;
  return rows < most ? rows : most;
}

SLUICE_BODY_FN float* align_floats(float* p) {
  return reinterpret_cast<float*>((reinterpret_cast<std::uintptr_t>(p) + 63) & ~std::uintptr_t{63});
}

SLUICE_BODY_FN void zero_tail_rows(float* a, std::ptrdiff_t lda, int from) {
  const int end = (from + dense_tile_rows - 1) / dense_tile_rows * dense_tile_rows;
  if (end > from) std::memset(a + from * lda, 0, static_cast<std::size_t>((end - from) * lda) * sizeof(float));
}

#if SLUICE_TARGET_NEON || defined(__CUDACC__)  // ARM has no pairs yet, nvcc does not know those vectors
SLUICE_KERNEL bool multiplies_integers() noexcept { return false; }
#else
#include <sluice/codec/transform/integer_product_body.inl>
SLUICE_KERNEL bool multiplies_integers() noexcept { return pairs::pays; }
#endif

SLUICE_KERNEL void inverse_transform(const inverse_job& job, float* workspace) noexcept {
#if !SLUICE_TARGET_NEON && !defined(__CUDACC__)
  if (job.integers) return inverse_by_integers(job, workspace);
#endif
  const int n = job.n, k = job.k;
  const std::ptrdiff_t lda = dense_round_up(k);
  float* panel = align_floats(workspace);
  float* a = panel + std::ptrdiff_t{dense_panel(n)} * k;
  const int step = dense_block_rows(job.rows, lda);
  for (int r0 = 0; r0 < job.rows; r0 += step) {
    const int rows = job.rows - r0 < step ? job.rows - r0 : step;
    for (int r = 0; r < rows; ++r) widen_row(job.c + (r0 + r) * job.ldc, k, a + r * lda);
    zero_tail_rows(a, lda, rows);
    for (std::size_t i = 0; i < job.num_corrections; ++i) {
      const coefficient_correction& e = job.corrections[i];
      if (e.row >= r0 && e.row < r0 + rows && e.coefficient >= 0 && e.coefficient < k)
        a[(e.row - r0) * lda + e.coefficient] += e.value;
    }
    multiply_block(a, lda, rows, k, job.matrix, n, n, panel,
                   reconstruct_sink{job.x + r0 * job.ldx, job.ldx, job.mean, job.scale, rows, n,
                                    job.row_scale ? job.row_scale + r0 : nullptr});
  }
  for (std::size_t i = 0; i < job.num_corrections; ++i) {
    const coefficient_correction& e = job.corrections[i];
    if (e.row >= 0 && e.row < job.rows && e.coefficient >= k && e.coefficient < job.matrix_rows)
      add_scaled_row(job.x + e.row * job.ldx, job.scale * (job.row_scale ? job.row_scale[e.row] : 1.0f) * e.value,
                     job.matrix + std::ptrdiff_t{e.coefficient} * n, n);
  }
}

SLUICE_KERNEL void forward_transform(const forward_job& job, float* workspace) noexcept {
  const int n = job.n, k = job.k;
  const std::ptrdiff_t lda = dense_round_up(n);
  float* panel = align_floats(workspace);
  float* a = panel + std::ptrdiff_t{dense_panel(k)} * n;
  const int step = dense_block_rows(job.rows, lda);
  for (int r0 = 0; r0 < job.rows; r0 += step) {
    const int rows = job.rows - r0 < step ? job.rows - r0 : step;
    for (int r = 0; r < rows; ++r)
      centre_row(job.x + (r0 + r) * job.ldx, job.mean, job.row_scale ? job.row_scale[r0 + r] : 1.0f, n, a + r * lda);
    zero_tail_rows(a, lda, rows);
    multiply_block(a, lda, rows, n, job.matrix, job.ldm, k, panel,
                   quantize_sink{job.c + r0 * job.ldc, job.ldc, job.beyond ? job.beyond + r0 : nullptr, rows, k});
  }
}

SLUICE_KERNEL void multiply_rows(const multiply_job& job, float* workspace) noexcept {
  static_assert(dense_tile_rows <= dense_tail_rows + 1);
  const int step = dense_block_rows(job.rows, job.ldf);
  for (int r0 = 0; r0 < job.rows; r0 += step) {
    const int rows = job.rows - r0 < step ? job.rows - r0 : step;
    multiply_block(job.f + r0 * job.ldf, job.ldf, rows, job.k, job.matrix, job.ldm, job.n, align_floats(workspace),
                   reconstruct_sink{job.x + r0 * job.ldx, job.ldx, nullptr, job.scale, rows, job.n});
  }
}

SLUICE_KERNEL void dequantize_rows(const std::int16_t* c, std::ptrdiff_t ldc, int rows, int k, float step,
                                   const float* mean, int n, float* x, std::ptrdiff_t ldx) noexcept {
  for (int r = 0; r < rows; ++r) dequantize_row(c + r * ldc, k, step, mean, n, x + r * ldx);
}

SLUICE_KERNEL void quantize_rows(const float* x, std::ptrdiff_t ldx, int rows, const float* mean, float inverse_step,
                                 int n, std::int16_t* q, std::ptrdiff_t ldq, std::uint8_t* beyond) noexcept {
  for (int r = 0; r < rows; ++r)
    if (quantize_row(x + r * ldx, mean, inverse_step, n, q + r * ldq) && beyond) beyond[r] = 1;
}

#endif
