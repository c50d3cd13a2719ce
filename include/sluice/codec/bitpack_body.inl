// SPDX-License-Identifier: Apache-2.0
// Fixed-width codes of 32 lanes, eight rows at a time. A width is a sum of parts of 8, 4, 2 and 1 bits; a part of P bits
// of eight rows is P planes of 32 bytes, byte i for lane i, so that packing is shifts and masks of whole planes and a
// warp's loads are contiguous.

#if SLUICE_TARGET_CUDA

struct lane_bytes {
  using vec = std::uint32_t;
  static SLUICE_BODY_FN vec load(const std::uint8_t* p) { return p[threadIdx.x & 31]; }
  static SLUICE_BODY_FN void store(std::uint8_t* p, vec v) { p[threadIdx.x & 31] = static_cast<std::uint8_t>(v); }
  static SLUICE_BODY_FN vec zero() { return 0; }
  static SLUICE_BODY_FN vec field(vec v, int shift, unsigned mask) { return v >> shift & mask; }
  static SLUICE_BODY_FN vec join(vec v, vec more, int shift) { return v | more << shift; }
  struct codes {
    int code[8];
    SLUICE_BODY_FN void set(int row, vec v) { code[row] = static_cast<int>(v); }
    SLUICE_BODY_FN floats::ints get(int row, int) const { return code[row]; }
  };
};

#else

struct lane_bytes {
#if SLUICE_TARGET_PORTABLE
  using words = std::uint64_t __attribute__((vector_size(16)));
  static constexpr int parts = 2;
  struct vec {
    words w[parts];
  };

  static SLUICE_BODY_FN vec load(const std::uint8_t* p) {
    vec v;
    std::memcpy(&v, p, 32);
    return v;
  }
  static SLUICE_BODY_FN void store(std::uint8_t* p, const vec& v) { std::memcpy(p, &v, 32); }
#else
  using words = std::uint64_t __attribute__((vector_size(32)));
  static constexpr int parts = 1;
  struct vec {
    words w[parts];
  };

  static SLUICE_BODY_FN vec load(const std::uint8_t* p) {
    return {{reinterpret_cast<words>(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))}};
  }
  static SLUICE_BODY_FN void store(std::uint8_t* p, const vec& v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), reinterpret_cast<__m256i>(v.w[0]));
  }
#endif
  static SLUICE_BODY_FN vec zero() { return {}; }
  /// (v >> shift) & mask in every byte; what the wider shift carries over from a neighbour, the mask must clear.
  static SLUICE_BODY_FN vec field(vec v, int shift, unsigned mask) {
    for (int i = 0; i < parts; ++i) v.w[i] = v.w[i] >> shift & (mask * 0x0101010101010101u);
    return v;
  }
  /// v | more << shift in every byte; no bit of `more` may leave its byte.
  static SLUICE_BODY_FN vec join(vec v, const vec& more, int shift) {
    for (int i = 0; i < parts; ++i) v.w[i] |= more.w[i] << shift;
    return v;
  }
  /// Eight rows of codes, read as the integers of the float machine: its `part`-th vector of a row.
  struct codes {
    alignas(32) std::uint8_t code[8][32];
    SLUICE_BODY_FN void set(int row, const vec& v) { store(code[row], v); }
    SLUICE_BODY_FN floats::ints get(int row, int part) const {
      return floats::load_u8(code[row] + floats::width * part);
    }
  };
};

#endif

// Rows [0, count) of one group of at most eight rows; returns what follows in the packed bytes.
template <int Width, int Part = 8, int Above = 0>
SLUICE_BODY_FN std::uint8_t* pack_rows(const std::uint8_t* values, std::int64_t stride, int count, std::uint8_t* out) {
  if constexpr (Part == 0) {
    return out;
  } else if constexpr ((Width & Part) == 0) {
    return pack_rows<Width, Part / 2, Above>(values, stride, count, out);
  } else {
    constexpr int per_plane = 8 / Part;
    SLUICE_UNROLL
    for (int first = 0; first < 8; first += per_plane) {
      if (first >= count) break;
      auto plane = lane_bytes::zero();
      SLUICE_UNROLL
      for (int i = 0; i < per_plane; ++i)
        if (first + i < count)
          plane = lane_bytes::join(
              plane, lane_bytes::field(lane_bytes::load(values + (first + i) * stride), Above, (1u << Part) - 1),
              i * Part);
      lane_bytes::store(out, plane);
      out += 32;
    }
    return pack_rows<Width, Part / 2, Above + Part>(values, stride, count, out);
  }
}

template <int Width, int Part = 8, int Above = 0, class Vec>
SLUICE_BODY_FN const std::uint8_t* unpack_rows(const std::uint8_t* in, int count, Vec (&rows)[8]) {
  if constexpr (Part == 0) {
    return in;
  } else if constexpr ((Width & Part) == 0) {
    return unpack_rows<Width, Part / 2, Above>(in, count, rows);
  } else {
    constexpr int per_plane = 8 / Part;
    SLUICE_UNROLL
    for (int first = 0; first < 8; first += per_plane) {
      if (first >= count) break;
      const auto plane = lane_bytes::load(in);
      in += 32;
      SLUICE_UNROLL
      for (int i = 0; i < per_plane; ++i) {
        const auto bits = lane_bytes::field(plane, i * Part, (1u << Part) - 1);
        rows[first + i] = Above == 0 ? bits : lane_bytes::join(rows[first + i], bits, Above);
      }
    }
    return unpack_rows<Width, Part / 2, Above + Part>(in, count, rows);
  }
}

template <int Width>
SLUICE_BODY_FN void pack(const bitpack_job& job) {
  std::uint8_t* out = job.packed;
  for (int row = 0; row < job.rows; row += 8)
    for (int block = 0; block < job.blocks; ++block) {
      const std::uint8_t* values = job.values + row * job.stride + 32 * block;
      const int count = job.rows - row;
      out =
          count >= 8 ? pack_rows<Width>(values, job.stride, 8, out) : pack_rows<Width>(values, job.stride, count, out);
    }
}

// Calls each(rows, count, row, block) for every group of up to eight rows.
template <int Width, class Each>
SLUICE_BODY_FN void for_each_group(const bitpack_job& job, Each each) {
  const std::uint8_t* in = job.packed;
  for (int row = 0; row < job.rows; row += 8)
    for (int block = 0; block < job.blocks; ++block) {
      lane_bytes::vec rows[8];
      const int count = job.rows - row;
      if (count >= 8) {
        in = unpack_rows<Width>(in, 8, rows);
      } else {
        for (auto& r : rows) r = lane_bytes::zero();
        in = unpack_rows<Width>(in, count, rows);
      }
      each(rows, count < 8 ? count : 8, row, block);
    }
}

template <int Width>
SLUICE_BODY_FN void unpack(const bitpack_job& job) {
  const auto store = [&](const lane_bytes::vec(&rows)[8], int count, int row, int block) {
    std::uint8_t* values = job.values + row * job.stride + 32 * block;
    SLUICE_UNROLL
    for (int r = 0; r < 8; ++r)
      if (r < count) lane_bytes::store(values + r * job.stride, rows[r]);
  };
  for_each_group<Width>(job, store);
}

// code * step is exact in a float (8 and 11 bits), so that a fused addition rounds as a separate one does.
template <int Width>
SLUICE_BODY_FN void dequantize_packed(const bitpack_job& job) {
  constexpr int vectors = 32 / floats::width;
  const auto store = [&](const lane_bytes::vec(&rows)[8], int count, int row, int block) {
    const std::uint8_t* scale = job.scales + 128 * (row / job.group_rows * job.blocks + block);
    float* out = job.floats + row * job.stride + 32 * block;
    lane_bytes::codes codes;
    SLUICE_UNROLL
    for (int r = 0; r < 8; ++r) codes.set(r, rows[r]);
    SLUICE_UNROLL
    for (int v = 0; v < vectors; ++v) {
      const auto step = floats::load_f16(scale + 2 * floats::width * v);
      const auto zero = floats::load_f16(scale + 64 + 2 * floats::width * v);
      SLUICE_UNROLL
      for (int r = 0; r < 8; ++r)
        if (r < count)
          floats::store(out + r * job.stride + floats::width * v,
                        floats::fma(floats::from_ints(codes.get(r, v)), step, zero));
    }
  };
  for_each_group<Width>(job, store);
}

#if !SLUICE_TARGET_CUDA

// The smallest and largest value of each lane over a group of rows.
SLUICE_BODY_FN void lane_ranges(const float* x, std::int64_t stride, int rows, float* low, float* high) {
  for (int v = 0; v < 32; v += floats::width) {
    const auto none = floats::set(0);
    auto lo = floats::bits(floats::load(x + v)), hi = lo;
    for (int r = 1; r < rows; ++r) {
      const auto y = floats::load(x + r * stride + v);
      const auto below = floats::bits(floats::sub(floats::as_float(lo), y));
      const auto above = floats::bits(floats::sub(y, floats::as_float(hi)));
      lo = floats::select(floats::greater(below, none), floats::bits(y), lo);
      hi = floats::select(floats::greater(above, none), floats::bits(y), hi);
    }
    floats::store(low + v, floats::as_float(lo));
    floats::store(high + v, floats::as_float(hi));
  }
}

// Codes of one group of up to eight rows: clamp(round((x - zero) / step)); `inverse` is 1 / step or 0.
template <int Width>
SLUICE_BODY_FN std::uint8_t* quantize_rows(const float* x, std::int64_t stride, int count, const float* zero,
                                           const float* inverse, std::uint8_t* out) {
  constexpr int most = (1 << Width) - 1;
  alignas(32) std::uint8_t codes[8][32] = {};
  for (int r = 0; r < count; ++r)
    for (int v = 0; v < 32; v += floats::width) {
      const auto y =
          floats::mul(floats::sub(floats::load(x + r * stride + v), floats::load(zero + v)), floats::load(inverse + v));
      const auto code = floats::round(floats::clamp(y, static_cast<float>(most)));
      floats::store_u8(codes[r] + v, floats::select(floats::greater(code, floats::set(0)), code, floats::set(0)));
    }
  return pack_rows<Width>(codes[0], 32, count, out);
}

/// False where the range of a group does not fit f16.
template <int Width>
SLUICE_BODY_FN bool quantize_packed(const bitpack_job& job) {
  alignas(64) float low[32], high[32], inverse[32];
  std::uint8_t* scale = job.scales;
  // Ranges first: the codes of a row group follow one another over all blocks.
  for (int row = 0; row < job.rows; row += job.group_rows)
    for (int block = 0; block < job.blocks; ++block, scale += 128) {
      const int count = job.rows - row < job.group_rows ? job.rows - row : job.group_rows;
      lane_ranges(job.floats + row * job.stride + 32 * block, job.stride, count, low, high);
      for (int lane = 0; lane < 32; ++lane) {
        f16 step, zero;
        if (!group_scale(low[lane], high[lane], (1 << Width) - 1, step, zero)) return false;
        std::memcpy(scale + 2 * lane, &step.bits, 2);
        std::memcpy(scale + 64 + 2 * lane, &zero.bits, 2);
      }
    }
  std::uint8_t* out = job.packed;
  for (int row = 0; row < job.rows; row += 8)
    for (int block = 0; block < job.blocks; ++block) {
      scale = job.scales + 128 * (row / job.group_rows * job.blocks + block);
      for (int v = 0; v < 32; v += floats::width) {
        floats::store(inverse + v, floats::load_f16(scale + 2 * v));
        floats::store(low + v, floats::load_f16(scale + 64 + 2 * v));
      }
      for (float& step : inverse) step = step > 0 ? 1 / step : 0;
      const int count = job.rows - row < 8 ? job.rows - row : 8;
      out = quantize_rows<Width>(job.floats + row * job.stride + 32 * block, job.stride, count, low, inverse, out);
    }
  return true;
}

#endif

template <int Width>
SLUICE_BODY_FN bool run_bitpack(bitpack_task task, const bitpack_job& job) {
  if (task == bitpack_task::pack) pack<Width>(job);
  if (task == bitpack_task::unpack) unpack<Width>(job);
  if (task == bitpack_task::dequantize) dequantize_packed<Width>(job);
#if !SLUICE_TARGET_CUDA
  if (task == bitpack_task::quantize) return quantize_packed<Width>(job);
#endif
  return true;
}

#if !SLUICE_TARGET_CUDA

inline bool run_bitpack(int width, bitpack_task task, const bitpack_job& job) {
  switch (width) {
    case 1: return run_bitpack<1>(task, job);
    case 2: return run_bitpack<2>(task, job);
    case 3: return run_bitpack<3>(task, job);
    case 4: return run_bitpack<4>(task, job);
    case 5: return run_bitpack<5>(task, job);
    case 6: return run_bitpack<6>(task, job);
    case 7: return run_bitpack<7>(task, job);
    default: return run_bitpack<8>(task, job);
  }
}

#endif
