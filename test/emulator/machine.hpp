// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <faults.hpp>
#include <guarded.hpp>
#include <late_copies.hpp>
#include <turns.hpp>
#include <warp_state.hpp>

#include <algorithm>
#include <bit>
#include <csignal>
#include <cstdarg>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>

// A block of threads on one core: who runs, who waits for whom, and what they have in common. Threads give way only where
// they wait for each other. Wrong use ends the program with a message that says who did what where.

extern "C" char __executable_start, _end;  // of the program, where static shared memory lies too

namespace cuda_on_host {

class machine {
 public:
  static constexpr unsigned most_threads = 1024;
  static constexpr std::size_t most_shared = 232448;
  static constexpr std::uint32_t shared_base = 1024;  // no address of shared memory is zero

  order how = order::up;
  std::uint32_t seed = 1;
  /// For the thread sanitizer: blocks of a launch run at the same time, as far as they are ordered by nothing else. Not
  /// where kernels have __shared__ variables: these would be the same for all of them.
  bool blocks_race = false;
  std::uint64_t switches = 0, launches = 0;
  std::map<const void*, std::size_t> allowed;  ///< dynamic shared memory of kernels that may have more than others

  std::size_t allowed_shared(const void* kernel) const {
    const auto found = allowed.find(kernel);
    return std::max<std::size_t>(49152, found == allowed.end() ? 0 : found->second);
  }

  /// Runs a kernel: `body` is called by every thread.
  template <class F>
  void run(unsigned blocks, unsigned threads, std::size_t shared, F& body) {
    if (running_) fail("a kernel that launches a kernel");
    call_ = [](void* f) { (*static_cast<F*>(f))(); };
    body_ = &body;
    const fault_watch watch(&machine::fault);
    start(blocks, threads);
    for (unsigned i = 0; i < blocks; ++i) {
      blockIdx.x.value = i;
      run_block(shared);
    }
    stop();
  }

  // --- warps ---

  /// A warp operation: `combine(warp, lanes)` is called once, when all lanes of the mask that are alive have come.
  CUDA_ON_HOST_UNSEEN void meet(operation what, std::uint32_t mask, site where, combination* combine) {
    warp_state& w = my_warp();
    const unsigned l = lane();
    if (!(mask >> l & 1))
      fail("%s(%08x) at %s:%d: lane %u is not in the mask", name_of(what), mask, where.file, where.line, l);
    for (std::uint32_t others = w.here & mask; others != 0; others &= others - 1) {
      const int i = std::countr_zero(others);
      if ((w.mask[i] >> l & 1) && (w.what[i] != what || w.mask[i] != mask))
        fail("lanes of a warp meet in different operations: lane %u in %s(%08x) at %s:%d, lane %d in %s(%08x) at %s:%d",
             l, name_of(what), mask, where.file, where.line, i, name_of(w.what[i]), w.mask[i], w.where[i].file,
             w.where[i].line);
      if (w.mask[i] == mask) break;  // all others that are here with it have been compared
    }
    w.mask[l] = mask, w.what[l] = what, w.where[l] = where, w.combine[l] = combine;
    w.here |= 1u << l;
    w.ready &= ~(1u << l);
    if (!complete(w, mask)) yield();
  }
  /// What a lane shows to the others, and what it gets.
  CUDA_ON_HOST_UNSEEN std::uint32_t& in(int i) { return my_warp().in[i][lane()]; }
  CUDA_ON_HOST_UNSEEN std::uint32_t out(int i) const { return warps_[me_ / 32].out[i][lane()]; }
  CUDA_ON_HOST_UNSEEN unsigned lane() const { return me_ % 32; }

  void syncwarp(std::uint32_t mask, site where) {
    char* const met = meeting_of(my_warp(), mask);
    happens_before(met);
    {
      const quiet q;
      meet(
          operation::syncwarp, mask, where, +[](warp_state&, std::uint32_t) {});
    }
    happens_after(met);
  }

  // --- blocks ---

  /// The barrier of the whole block; whether all or any voted, or how many.
  unsigned syncthreads(operation what, bool vote, site where) {
    char* const met = &barrier_met_[barriers_ % 2];
    happens_before(met);
    unsigned votes = 0;
    {
      const quiet q;
      votes = wait_for_block(what, vote, where);
    }
    happens_after(met);
    return votes;
  }
  /// Threads of the block that have not ended.
  CUDA_ON_HOST_UNSEEN unsigned alive() const { return threads_ - ended_; }

  // --- shared memory ---

  unsigned char* shared() { return memory_.data(); }
  /// The 32-bit address of something in dynamic or in static shared memory.
  CUDA_ON_HOST_UNSEEN std::uint32_t shared_address(const void* p) {
    const auto at = static_cast<std::size_t>(static_cast<const unsigned char*>(p) - memory_.data());
    if (at <= memory_.size()) return shared_base + static_cast<std::uint32_t>(at);
    return static_address(p);
  }
  /// Where `bytes` at a 32-bit address lie; ends the program where these are not shared memory.
  CUDA_ON_HOST_UNSEEN unsigned char* at(std::uint32_t address, std::size_t bytes, std::size_t alignment) {
    if (address >= static_base) return reinterpret_cast<unsigned char*>(&__executable_start) + (address - static_base);
    const std::size_t offset = std::size_t{address} - shared_base;
    if (offset > memory_.size() || bytes > memory_.size() - offset)
      fail("%zu bytes at offset %td of the %zu bytes of shared memory", bytes,
           static_cast<std::ptrdiff_t>(address) - std::ptrdiff_t{shared_base}, memory_.size());
    if (offset % alignment != 0) fail("%zu bytes at offset %zu of shared memory: not aligned", alignment, offset);
    return memory_.data() + offset;
  }

  // --- copies that arrive when they are waited for ---

  void copy_later(unsigned char* to, const void* from, std::uint32_t bytes) {
    std::memset(to, unwritten, 16);  // nobody may still read what was there
    const quiet q;
    copies_[me_].add(to, from, bytes);
  }
  void copies_commit() {
    const quiet q;
    copies_[me_].commit();
  }
  /// All but the last `groups` groups arrive.
  void copies_wait(std::uint32_t groups) {
    for (late_copies::copy c; next_copy(groups, c);) {
      std::memcpy(c.to, c.from, c.bytes);
      std::memset(c.to + c.bytes, 0, 16 - c.bytes);
    }
  }

  /// What this thread wrote is seen by those that come here later.
  void fence() {
    happens_after(&fence_met_);
    happens_before(&fence_met_);
  }
  /// For a thread that polls: lets others go on.
  void give_way() {
    const quiet q;
    yield();
  }

  [[noreturn]] __attribute__((format(printf, 2, 3))) void fail(const char* why, ...) {
    std::fprintf(stderr, "cuda_on_host: ");
    if (running_) std::fprintf(stderr, "block %u thread %u: ", blockIdx.x.value, me_);
    va_list list;
    va_start(list, why);
    std::vfprintf(stderr, why, list);
    va_end(list);
    std::fprintf(stderr, "\n");
    std::fflush(nullptr);
    std::abort();
  }

 private:
  static constexpr std::uint32_t static_base = 0x80000000u;

  CUDA_ON_HOST_UNSEEN warp_state& my_warp() { return warps_[me_ / 32]; }
  // Lets those go on who have waited for each other, if all of them have come.
  CUDA_ON_HOST_UNSEEN bool complete(warp_state& w, std::uint32_t mask) {
    const std::uint32_t lanes = mask & w.alive;
    if ((w.here & lanes) != lanes || lanes == 0) return false;
    for (std::uint32_t left = lanes; left != 0; left &= left - 1)
      if (w.mask[std::countr_zero(left)] != mask) return false;
    w.combine[std::countr_zero(lanes)](w, lanes);
    w.here &= ~lanes;
    wake(static_cast<unsigned>(&w - warps_), lanes);
    return true;
  }
  CUDA_ON_HOST_UNSEEN void wake(unsigned warp, std::uint32_t lanes) {
    warps_[warp].ready |= lanes;
    ready_warps_ |= 1u << warp;
  }
  // Those who come first choose an address for the meeting.
  CUDA_ON_HOST_UNSEEN char* meeting_of(warp_state& w, std::uint32_t mask) const {
    std::uint8_t which = static_cast<std::uint8_t>((w.meetings + 1) % sizeof w.met);
    for (std::uint32_t others = w.here & mask; others != 0; others &= others - 1) {
      const int i = std::countr_zero(others);
      if (w.mask[i] == mask && w.what[i] == operation::syncwarp) return &w.met[w.meeting[lane()] = w.meeting[i]];
    }
    return &w.met[w.meeting[lane()] = w.meetings = which];
  }

  CUDA_ON_HOST_UNSEEN unsigned wait_for_block(operation what, bool vote, site where) {
    if (at_barrier_ == 0) {
      barrier_what_ = what, barrier_where_ = where, barrier_votes_ = 0;
    } else if (barrier_what_ != what || barrier_where_.line != where.line || barrier_where_.file != where.file) {
      fail("threads of a block meet at different barriers: %s at %s:%d and %s at %s:%d", name_of(what), where.file,
           where.line, name_of(barrier_what_), barrier_where_.file, barrier_where_.line);
    }
    warp_state& w = my_warp();
    w.ready &= ~(1u << lane());
    w.what[lane()] = what, w.where[lane()] = where;
    barrier_votes_ += vote;
    ++at_barrier_;
    if (at_barrier_ == alive())
      open_barrier();
    else
      yield();
    return barrier_result_;
  }
  CUDA_ON_HOST_UNSEEN void open_barrier() {
    barrier_result_ = barrier_what_ == operation::syncthreads_and  ? barrier_votes_ == at_barrier_
                      : barrier_what_ == operation::syncthreads_or ? barrier_votes_ > 0
                                                                   : barrier_votes_;
    at_barrier_ = 0;
    ++barriers_;
    for (unsigned i = 0; i < num_warps(); ++i)
      if (warps_[i].alive) wake(i, warps_[i].alive);
  }

  CUDA_ON_HOST_UNSEEN unsigned num_warps() const { return (threads_ + 31) / 32; }
  // --- who is next ---

  // Lanes of a warp come after each other, then those of the next warp.
  CUDA_ON_HOST_UNSEEN bool find_next(unsigned& next) {
    unsigned warp = me_ / 32, lane_in_warp = lane();
    bool wraps = true;
    if (warps_[warp].ready != 0) lane_in_warp = turns_.next_of(warps_[warp].ready, lane_in_warp, wraps);
    for (; wraps && ready_warps_ != 0; ready_warps_ &= ~(1u << warp)) {
      bool any = false;
      warp = turns_.next_of(ready_warps_, warp, any);
      if (warps_[warp].ready == 0) continue;
      lane_in_warp = turns_.first_of(warps_[warp].ready);
      break;
    }
    next = 32 * warp + lane_in_warp;
    return (warps_[warp].ready >> lane_in_warp & 1) != 0;
  }
  // To the next thread that can go on, or back to run_block().
  CUDA_ON_HOST_UNSEEN void yield() {
    unsigned next = 0;
    if (find_next(next)) {
      if (next != me_) go(fibers_[next], next);
      return;
    }
    if (alive() > 0) stuck();
    go(main_, 0);
  }
  CUDA_ON_HOST_UNSEEN void go(fiber& to, unsigned thread) {
    const unsigned from = me_;
    ++switches;
    me_ = threadIdx.x.value = thread;
    fiber::change(fibers_[from], to, !(warps_[from / 32].alive >> from % 32 & 1));
  }
  [[noreturn]] void stuck() {
    std::fprintf(stderr, "cuda_on_host: nobody can go on\n");
    for (unsigned i = 0; i < threads_; ++i) {
      const warp_state& w = warps_[i / 32];
      if (!(w.alive >> i % 32 & 1)) continue;
      std::fprintf(stderr, "  thread %u (lane %u) waits in %s at %s:%d", i, i % 32, name_of(w.what[i % 32]),
                   w.where[i % 32].file, w.where[i % 32].line);
      if (w.here >> i % 32 & 1) std::fprintf(stderr, " for lanes %08x", w.mask[i % 32] & w.alive & ~w.here);
      std::fprintf(stderr, "\n");
    }
    fail("threads wait for others that never come");
  }

  // --- life ---

  CUDA_ON_HOST_UNSEEN static void enter();  // the first function of every stack, which nobody returns from
  CUDA_ON_HOST_UNSEEN void end_thread() {
    warp_state& w = my_warp();
    const std::uint32_t bit = 1u << lane();
    w.alive &= ~bit, w.ready &= ~bit;
    ++ended_;
    copies_[me_].forget();
    // It may be the one that others still waited for.
    for (std::uint32_t others = w.here; others != 0; others &= others - 1)
      if (complete(w, w.mask[std::countr_zero(others)])) break;
    if (at_barrier_ > 0 && at_barrier_ == alive()) open_barrier();
  }

  CUDA_ON_HOST_UNSEEN void start(unsigned blocks, unsigned threads) {
    if (blocks == 0 || threads == 0 || threads > most_threads) fail("%u blocks of %u threads", blocks, threads);
    running_ = true;
    ++launches;
    threads_ = threads;
    blockDim = {{threads}, {1}, {1}}, gridDim = {{blocks}, {1}, {1}}, blockIdx = {};
    turns_ = {how, seed == 0 ? 1 : seed};
#if CUDA_ON_HOST_TSAN
    happens_before(&begin_met_);
    main_.tsan = __tsan_get_current_fiber();
    for (unsigned i = 0; i < threads; ++i)
      if (fibers_[i].tsan == nullptr) fibers_[i].tsan = __tsan_create_fiber(0);
#endif
  }
  CUDA_ON_HOST_UNSEEN void stop() {
    happens_after(&end_met_);
    running_ = false;
  }
  static void fault(int, siginfo_t* info, void*);

  CUDA_ON_HOST_UNSEEN void run_block(std::size_t shared) {
    const quiet q;
    if (blocks_race) memory_.forget();
    memory_.use(shared);
    ended_ = at_barrier_ = 0;
    ready_warps_ = 0;
    for (unsigned i = 0; i < num_warps(); ++i) {
      const unsigned lanes = std::min(threads_ - 32 * i, 32u);
      warps_[i].here = 0;
      warps_[i].alive = lanes == 32 ? ~0u : (1u << lanes) - 1;
      warps_[i].ready = 0;
      wake(i, warps_[i].alive);
    }
    for (unsigned i = 0; i < threads_; ++i) {
      fibers_[i].stack = stacks::of(i);
      fibers_[i].where.prepare(i, &enter);
    }
    from_main_ = true;
    if (!blocks_race) happens_before(&begin_met_);
    me_ = how == order::down ? threads_ - 1 : 0;
    threadIdx.x.value = me_;
    fiber::change(main_, fibers_[me_], false);
    if (!blocks_race) happens_after(&end_met_);
    if (!memory_.intact()) fail("a thread of this block wrote beside its %zu bytes of shared memory", memory_.size());
  }

  bool next_copy(std::uint32_t groups, late_copies::copy& c) {
    const quiet q;
    return copies_[me_].take(groups, c);
  }
  CUDA_ON_HOST_UNSEEN std::uint32_t static_address(const void* p) {
    const auto* const at = static_cast<const char*>(p);
    if (at < &__executable_start || at >= &_end) fail("%p is not in shared memory", p);
    return static_base + static_cast<std::uint32_t>(at - &__executable_start);
  }

  warp_state warps_[most_threads / 32];
  fiber fibers_[most_threads];
  late_copies copies_[most_threads];
  fiber main_;
  guarded memory_{most_shared};
  bool running_ = false, from_main_ = false;
  unsigned me_ = 0, threads_ = 0, ended_ = 0;
  std::uint32_t ready_warps_ = 0;
  turns turns_;
  unsigned at_barrier_ = 0, barriers_ = 0, barrier_votes_ = 0, barrier_result_ = 0;
  operation barrier_what_ = operation::syncthreads;
  site barrier_where_{};
  char barrier_met_[2] = {}, begin_met_ = 0, end_met_ = 0, fence_met_ = 0;
  void (*call_)(void*) = nullptr;
  void* body_ = nullptr;
};

/// The machine; never destroyed, since nothing that lives longer may look at it.
inline machine& the_machine = *new machine;

inline void machine::fault(int, siginfo_t* info, void*) {
  machine& m = the_machine;
  const void* const at = info->si_addr;
  if (stacks::overflown(at)) m.fail("its stack of %zu bytes is full", stacks::bytes);
  if (m.memory_.guards(at))
    m.fail("an access at offset %td of the %zu bytes of shared memory", m.memory_.offset(at), m.memory_.size());
  for (const auto& [p, piece] : device_memory())
    if (piece->guards(at)) m.fail("an access at offset %td of a piece of %zu bytes", piece->offset(at), piece->size());
  m.fail("an access at %p, where there is nothing", at);
}

inline void machine::enter() {
  machine& m = the_machine;
#if CUDA_ON_HOST_ASAN
  const bool first = m.from_main_;
  __sanitizer_finish_switch_fiber(nullptr, first ? &m.main_.stack : nullptr, first ? &m.main_.size : nullptr);
#endif
  m.from_main_ = false;
  happens_after(&m.begin_met_);
  m.call_(m.body_);
  happens_before(&m.end_met_);
  m.end_thread();
  m.yield();
  std::abort();
}

}  // namespace cuda_on_host
