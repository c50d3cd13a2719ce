// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/cuda/entropy/class_rows.cuh>
#include <sluice/cuda/entropy/class_section.cuh>
#include <sluice/cuda/entropy/class_tables.hpp>
#include <sluice/cuda/entropy/row_steps.cuh>
#include <sluice/cuda/launch.cuh>
#include <sluice/cuda/strand.hpp>

#include <cstddef>
#include <cstdint>

// class_rans on a GPU: the entropy stage of a decode. A warp takes a part of a strand, 8 blocks of 32 coefficients of all
// its rows, through all passes one after the other, since a pass may begin with the states that the one before ends with.
// Integers of a pass lie in the workspace until the next one refines them; a lane reads what it wrote itself. Where rows
// have steps of their own (Steps), those of one class come after another, with the part's classes moved for each.

namespace sluice::cuda {

__device__ inline const class_tables_image& class_tables_of(const decode_state& d) {
  return *in_image<class_tables_image>(d.image, head_of(d.image).class_tables_at);
}

/// Says that a strand is corrupt; several warps may.
__device__ inline void refuse(strand& s, unsigned lane) {
  if (lane == 0) atomicOr(reinterpret_cast<unsigned*>(&s.state), static_cast<unsigned>(status::corrupt_tile));
}

/// How far the classes of a part move for the rows that are widest.
__device__ inline int most_shift(const row_steps& steps) {
  int most = steps.count == 0 ? 0 : -max_row_spread - max_row_step;
  for (int c = 0; c < steps.count; ++c) most = max(most, steps.shift(c));
  return most;
}

/// The classes of a part's strand for rows that are wider by `shift`; parts of its base section as parse_section() says.
__device__ inline tile_classes classes_of(const part_job& job, const section_parts& base, int shift) {
  return {base.classes != nullptr ? base.classes : job.known, base.deltas, base.delta_blocks, job.width, shift};
}

/// Gives a lane its classes in the blocks of a part.
__device__ inline void take_classes(const part_job& job, const tile_classes& classes, part_lane& l) {
  l.low = l.high = 0;
  for (int b = 0; b < detail::rans_max_blocks; ++b) {
    const std::uint32_t cls = 32 * (job.first + b) < job.width ? classes.of(job.first + b, l.lane) : 0;
    (b < 4 ? l.low : l.high) |= cls << 8 * (b % 4);
  }
}
/// The same for rows of a class, of a part that was opened.
__device__ inline void take_classes(const part_job& job, int shift, part_lane& l) {
  section_parts base;
  (void)parse_section(base, job.frame + job.of->entropy[0].at, job.of->entropy[0].size, 0, job.width);
  take_classes(job, classes_of(job, base, shift), l);
}

/// What is known of a part before any code is read: classes and live blocks. False where a host refuses the strand; job.of
/// is null where there is nothing to do.
template <bool Steps>
__device__ bool open_part(const decode_state& d, std::int64_t item, int max_parts, const std::uint8_t* facts,
                          part_job& job, part_lane& l) {
  job = {};
  if (item >= std::int64_t{d.num_strands} * max_parts) return true;
  strand& s =
      d.strands[strand_in_turn(static_cast<std::int32_t>(item / max_parts), d.num_strands, head_of(d.image).strands)];
  const group_model& group = group_of(d.image, s.group);
  job.first = static_cast<int>(item % max_parts) * detail::rans_max_blocks;
  if (s.state != status::ok || 32 * job.first >= group.width) return true;
  job.of = &s;
  job.frame = reinterpret_cast<const std::uint8_t*>(d.requests[s.request].asked.frame);
  job.luts = class_tables_of(d).base;
  job.known = group.classes_at != 0 ? in_image<std::uint8_t>(d.image, group.classes_at) : nullptr;
  job.out = s.values_at + sizeof(std::int16_t) * 32 * static_cast<unsigned>(job.first);
  job.ld = group.ld;
  job.rows = s.rows();
  job.width = group.width;
  job.depth = head_of(d.image).depth;
  job.level = s.level;
  if (job.rows == 0) {  // a tile without rows has no sections
    bool none = true;
    for (int pass = 0; pass <= s.level; ++pass) none = none && s.entropy[pass].size == 0;
    return none;
  }
  section_parts base;
  if (!parse_section(base, job.frame + s.entropy[0].at, s.entropy[0].size, 0, job.width)) return false;
  const bool described = s.quantizer.size == 0 && job.known != nullptr;
  if (base.classes != nullptr ? base.deltas != nullptr : !described) return false;
  // What is alive stays so where it is wider.
  const int widest = Steps ? most_shift(steps_of(job)) : 0;
  job.live = count_live(classes_of(job, base, widest), facts, job.depth, job.level, l.lane);
  take_classes(job, classes_of(job, base, 0), l);
  if (job.first != 0 && job.blocks_of(job.level) == 0) job.of = nullptr;
  return true;
}

/// The bytes of a part of a code among the others, with its states; false where their sizes do not fill the code.
__device__ inline bool find_part(const section_parts& s, int blocks, int part, const std::uint8_t*& bytes,
                                 std::uint32_t& size) {
  const auto parts = static_cast<std::uint32_t>((blocks + detail::rans_max_blocks - 1) / detail::rans_max_blocks);
  bytes = s.code;
  size = s.code_size;
  if (parts == 0) return size == 0;
  if (parts == 1) return true;
  if (s.code_size < 4 * parts) return false;
  std::uint64_t at = 4 * parts;
  for (std::uint32_t i = 0; i < parts; ++i) {
    const std::uint32_t n = sluice::detail::load_u32(s.code + 4 * i);
    if (static_cast<int>(i) == part) {
      bytes = s.code + at;
      size = n;
    }
    at += n;
    if (at > s.code_size) return false;
  }
  return at == s.code_size;
}

/// What the threads of a block share.
struct class_rans_memory {
  std::uint32_t at;  ///< shared address of all of it: of the ternary rows
  const std::uint8_t* facts;
  std::uint8_t* slot_of;
  class_set* used;
  int warps, slots;

  __device__ std::uint32_t ring(int warp) const {
    return at + static_cast<std::uint32_t>(class_rans_shape::rings_at + warp * (ring_bytes + job_bytes));
  }
  __device__ std::uint32_t luts() const { return at + static_cast<std::uint32_t>(class_rans_shape::luts_at(warps)); }
};

/// Copies what all classes need, and clears the set of classes.
__device__ inline void load_facts(const class_rans_memory& m, const class_tables_image& from) {
  const auto* bytes = reinterpret_cast<const std::byte*>(&from);
  for (std::uint32_t i = 16 * threadIdx.x; i < class_facts_bytes; i += 16 * blockDim.x)
    ptx::copy_async(m.at + i, bytes + i);
  ptx::copy_commit();
  if (threadIdx.x < 8) m.used->word[threadIdx.x] = 0;
  ptx::copy_wait<0>();
  __syncthreads();
}

/// Notes the classes that a part looks up in its base pass; all that are dead look up the same.
__device__ inline void note_classes(const class_rans_memory& m, const part_job& job, const part_lane& l) {
  for (int b = 0; b < job.blocks_of(0); ++b) {
    const std::uint8_t cls = l.cls(b, job.depth - 1), same = m.facts[cls] & class_alive ? cls : std::uint8_t{0};
    atomicOr(&m.used->word[same / 32], 1u << same % 32);
  }
}

/// Gives the classes of a block of threads their slots, in order, for as long as there are any, and copies their tables.
__device__ inline void load_classes(const class_rans_memory& m, const class_tables_image& from, int warp,
                                    unsigned lane) {
  const bool dead = has(*m.used, 0);
  for (int cls = warp; cls < 256; cls += m.warps) {
    int slot = no_slot;
    if (has(*m.used, cls) || (dead && !(m.facts[cls] & class_alive))) {
      slot = place_in(*m.used, has(*m.used, cls) ? cls : 0);
      if (slot >= m.slots) slot = no_slot;
    }
    if (lane == 0) m.slot_of[cls] = static_cast<std::uint8_t>(slot);
    if (slot == no_slot || !has(*m.used, cls)) continue;
    const auto* bytes = reinterpret_cast<const std::byte*>(&from.base[cls]);
    for (std::uint32_t i = 16 * lane; i < sizeof(class_lut); i += 512)
      ptx::copy_async(m.luts() + static_cast<std::uint32_t>(slot) * static_cast<std::uint32_t>(sizeof(class_lut)) + i,
                      bytes + i);
  }
  ptx::copy_commit();
  ptx::copy_wait<0>();
  __syncthreads();
}

/// Finds the code of a part in a pass and gets its states, unless it `continues`. False where it is corrupt; job.blocks is 0
/// where there is none.
__device__ inline bool open_code_of(part_job& job, part_lane& l, const section_parts& section, int pass,
                                    bool continues) {
  const std::uint8_t* bytes;
  std::uint32_t size;
  if (!find_part(section, job.live.of(pass), job.first / detail::rans_max_blocks, bytes, size)) return false;
  const int blocks = job.blocks_of(pass), steps = job.rows * blocks;
  int tail = -1;
  if (blocks != 0) {
    if (!continues) {
      const std::uint32_t packed = load_states(bytes, size, l.x, l.lane, l.before);
      if (packed == 0) return false;
      bytes += packed;
      size -= packed;
    }
    if (!section.goes_on) {
      if (size == 0) return false;
      tail = bytes[0];
      if (tail > steps) return false;
      ++bytes;
      --size;
    }
    if (size > most_code_bytes(job.rows, blocks)) return false;
  }
  __syncwarp();
  if (l.lane == 0) {
    job.pass = pass;
    job.blocks = blocks;
    job.tail = tail;
    job.left = tail < 0 ? INT32_MAX : steps - tail;
  }
  __syncwarp();
  if (blocks != 0) l.in = open_code(job.source, bytes, size, l.ring, l.lane);
  return true;
}

/// What the steps of a base pass need besides: digits of its blocks. Whether all classes have slots.
__device__ inline bool plan_base(const class_rans_memory& m, part_job& job, const part_lane& l) {
  std::uint32_t digits = 0;
  bool slots = true;
  for (int b = 0; b < job.blocks; ++b) {
    const std::uint8_t cls = l.cls(b, job.back());
    std::uint32_t most = 0;
    for (std::uint32_t n = 1; n <= detail::rans_max_digits; ++n)
      if (__any_sync(whole_warp, (m.facts[cls] & class_digits) >= n)) most = n;
    digits |= most << 4 * b;
    slots = slots && m.slot_of[cls] != no_slot;
  }
  if (l.lane == 0) job.digits = digits;
  __syncwarp();
  return __all_sync(whole_warp, slots) != 0;
}

/// Rows of a pass that come one after the other: job.due of them.
template <class Rows>
__device__ void decode_rows(const class_rans_memory& m, part_job& job, part_lane& l, Rows rows) {
  const bool slots = job.pass != 0 || plan_base(m, job, l);
  if (l.lane == 0) {
    job.whole = slots && job.left > 0 ? min(job.due, job.left / job.blocks) : 0;
    job.left -= job.whole * job.blocks;
  }
  __syncwarp();
  if (job.pass != 0) {
    for_blocks(job.blocks, [&]<int Blocks>() { ternary_rows<Blocks>(job, l, rows); });
    single_steps<false>(job, l, rows);
  } else {
    int symbols = job.blocks;  // of a lane in a row, digits included
    for (std::uint32_t d = job.digits; d != 0; d >>= 4) symbols += static_cast<int>(d & 15);
    const auto whole = [&]<row_digits Digits>() {
      for_blocks(job.blocks, [&]<int Blocks>() { base_rows<Blocks, Digits>(job, l, rows, m.slot_of, m.luts()); });
    };
    if (symbols == job.blocks)
      whole.template operator()<row_digits::none>();
    else if (32 * symbols <= most_between_looks)
      whole.template operator()<row_digits::few>();
    else
      whole.template operator()<row_digits::many>();
    single_steps<true>(job, l, rows);
  }
}

/// Says which rows come next.
__device__ inline void set_rows(part_job& job, int cls, int rows, unsigned lane) {
  __syncwarp();  // nobody reads what it said of those before
  if (lane == 0) job.rows_of = cls, job.due = rows;
  __syncwarp();
}

/// All rows of a pass. False where its code does not end as it must.
template <bool Steps>
__device__ bool decode_code(const class_rans_memory& m, part_job& job, part_lane& l) {
  if (Steps && steps_of(job).count != 0) {
    for (int c = 0; c < steps_of(job).count; c = job.rows_of + 1) {  // kept there meanwhile, not in a register
      set_rows(job, c, rows_of_class(job, l.lane, c), l.lane);
      take_classes(job, steps_of(job).shift(c), l);
      decode_rows(m, job, l, rows_of_one_class());
    }
  } else {
    set_rows(job, 0, job.rows, l.lane);
    decode_rows(m, job, l, rows_in_turn(job, l));
  }
  if (job.left == 0) l.x -= 256;
  return used_up(job.source, l.in) && (job.tail < 0 || __all_sync(whole_warp, l.x == state_bias));
}

/// All passes of a part; false where the strand is corrupt. The warp of the first part says what else there is to say.
template <bool Steps>
__device__ bool decode_passes(const class_rans_memory& m, part_job& job, part_lane& l) {
  bool goes_on = false;  // the code of this part in the pass before
  for (int pass = 0; pass <= job.level; ++pass) {
    strand& s = *job.of;
    section_parts section;
    if (!parse_section(section, job.frame + s.entropy[pass].at, s.entropy[pass].size, pass, job.width)) return false;
    if (job.first == 0) {
      if (!exceptions_fit(section, job.rows, job.width, l.lane)) return false;
      if (l.lane == 0)
        s.exceptions[pass] = {static_cast<std::uint64_t>(section.exceptions - job.frame),
                              static_cast<std::uint32_t>(sizeof(exception)) * section.num_exceptions};
    }
    if (!open_code_of(job, l, section, pass, goes_on)) return false;
    goes_on = section.goes_on && job.blocks != 0;
    if (job.blocks != 0 && !decode_code<Steps>(m, job, l)) return false;
    // Blocks that begin in the next pass begin with zeros.
    for (int b = job.blocks; pass < job.level && b < job.blocks_of(pass + 1); ++b)
      for (int r = 0; r < job.rows; ++r) l.values(job, r)[32 * b] = 0;
  }
  return true;
}

static_assert(sizeof(part_job) <= job_bytes);
static_assert(class_rans_shape::luts_at(class_rans_warps) + most_slots * sizeof(class_lut) <= max_shared &&
              most_slots < no_slot);

/// The entropy stage: a warp for each of max_parts parts of every strand. Sets values, exceptions and live of the strands
/// that are ok, and their state where a host would. Steps: whether rows have their own.
template <bool Steps>
__global__ void __launch_bounds__(32 * class_rans_warps, class_rans_residents)
    class_rans_kernel(decode_state d, int max_parts, int slots) {
  unsigned char* const shared = ptx::dynamic_shared();
  const int warps = static_cast<int>(blockDim.x / 32), warp = static_cast<int>(threadIdx.x / 32);
  const class_rans_memory m{ptx::shared_address(shared),
                            shared + offsetof(class_tables_image, facts),
                            shared + class_rans_shape::slot_of_at,
                            reinterpret_cast<class_set*>(shared + class_rans_shape::used_at),
                            warps,
                            slots};
  part_lane l{};
  l.lane = threadIdx.x % 32;
  l.before = ptx::lanes_before();
  l.workspace = d.workspace;
  l.tables = m.at;
  l.ring = m.ring(warp);
  part_job& job = *reinterpret_cast<part_job*>(shared + (l.ring - m.at) + ring_bytes);
  load_facts(m, class_tables_of(d));
  bool sound;
  {
    part_job opened;
    sound = open_part<Steps>(d, std::int64_t{blockIdx.x} * warps + warp, max_parts, m.facts, opened, l);
    if (l.lane == 0) job = opened;
    __syncwarp();
  }
  const bool decodes = job.of != nullptr && sound && job.rows != 0;
  if (decodes) {
    const row_steps steps = Steps ? steps_of(job) : row_steps{};
    if (steps.count == 0) note_classes(m, job, l);
    for (int c = 0; c < steps.count; ++c) {
      take_classes(job, steps.shift(c), l);
      note_classes(m, job, l);
    }
  }
  __syncthreads();
  load_classes(m, class_tables_of(d), warp, l.lane);
  if (job.of == nullptr) return;
  if (job.first == 0) {
    if (l.lane < max_passes) job.of->exceptions[l.lane] = {};
    if (l.lane == 0) job.of->live = decodes ? min(job.width, 32 * job.live.of(job.level)) : 0;
    __syncwarp();
  }
  if (!sound || (decodes && !decode_passes<Steps>(m, job, l))) refuse(*job.of, l.lane);
}

/// Decodes the entropy sections of all strands into the workspace, in blocks of threads of this very shape. Errors:
/// cuda_error.
template <bool Steps = false>
status launch_class_rans(const decode_state& d, int max_parts, const class_rans_shape& shape, cudaStream_t stream) {
  const std::int64_t warps = std::int64_t{d.num_strands} * max_parts;
  return launch(&class_rans_kernel<Steps>, (warps + shape.warps - 1) / shape.warps, 32 * shape.warps, shape.shared,
                stream, d, max_parts, shape.slots);
}

/// Decodes the entropy sections of all strands into the workspace; max_parts as of the model's widest group. The kernel
/// was let have shape.shared (allow_class_rans). Errors: cuda_error.
template <bool Steps = false>
status decode_class_rans(const decode_state& d, int max_parts, const class_rans_shape& shape, cudaStream_t stream) {
  return launch_class_rans<Steps>(d, max_parts, shape_for(shape, std::int64_t{d.num_strands} * max_parts), stream);
}

/// Once for each device. Errors: cuda_error.
template <bool Steps = false>
status allow_class_rans(const class_rans_shape& shape) {
  return allow_shared(&class_rans_kernel<Steps>, shape.shared);
}

}  // namespace sluice::cuda
