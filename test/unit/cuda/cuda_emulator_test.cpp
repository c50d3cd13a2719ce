// SPDX-License-Identifier: Apache-2.0
// The emulator itself: what its operations give, and what it must not let pass.
// races: *
#include <cuda_on_host.hpp>

#include <cuda_fp16.h>
#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>
#include <sluice/cuda/launch.cuh>
#include <sluice/tensor/half.hpp>
#include <support/device.hpp>

#include <array>
#include <bit>
#include <cmath>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

using namespace sluice;
using cuda_on_host::order;
using cuda_on_host::the_machine;

namespace {

constexpr unsigned seed = 20261129;
constexpr unsigned everyone = 0xffffffffu;

/// Runs f in all orders of threads.
template <class F>
void in_all_orders(F f) {
  for (const order how : {order::up, order::down, order::random})
    for (unsigned s = 1; s <= (how == order::random ? 4u : 1u); ++s) {
      the_machine.how = how, the_machine.seed = s;
      f();
    }
  the_machine.how = order::up;
}

template <class... Parameters, class... Arguments>
void run(void (*kernel)(Parameters...), int blocks, int threads, std::size_t shared, const Arguments&... arguments) {
  REQUIRE(cuda::launch(kernel, blocks, threads, shared, nullptr, arguments...) == status::ok);
}

/// What a process says before it ends because of f; empty where it does not.
template <class F>
std::string complaint(F f) {
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  std::fflush(nullptr);
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    dup2(ends[1], STDERR_FILENO);
    if (std::freopen("/dev/null", "w", stdout) == nullptr) _exit(1);
    for (const int s : {SIGABRT, SIGSEGV, SIGBUS}) std::signal(s, SIG_DFL);
    f();
    _exit(0);
  }
  close(ends[1]);
  std::string said;
  char part[4096];
  for (ssize_t n; (n = read(ends[0], part, sizeof part)) > 0;) said.append(part, static_cast<std::size_t>(n));
  close(ends[0]);
  int how = 0;
  REQUIRE(waitpid(child, &how, 0) == child);
  const bool ended_well = WIFEXITED(how) && WEXITSTATUS(how) == 0;
  CHECK(ended_well == said.empty());
  return ended_well ? "" : said;
}
bool says(const std::string& said, const char* what) { return said.find(what) != std::string::npos; }
// A page that nobody may touch: a sanitizer tells of it in its own words.
bool tells_of_bounds(const std::string& said, const char* what) { return says(said, what) || says(said, "Sanitizer"); }

struct lane_results {
  unsigned ballot, part, match, add, smallest, largest, either, both, differ;
  int all, any, lowest, from, up, down, other, within;
  double wide;
};

__global__ void warp_operations(const unsigned* values, lane_results* out) {
  const unsigned v = values[threadIdx.x], lane = threadIdx.x % 32;
  lane_results r{};
  r.ballot = __ballot_sync(everyone, v & 1);
  const unsigned half = lane < 16 ? 0xffffu : 0xffff0000u;  // two operations of a warp at the same time
  r.part = lane < 16 ? __ballot_sync(half, v & 2) : __reduce_add_sync(half, v);
  r.match = __match_any_sync(everyone, v % 5);
  r.add = __reduce_add_sync(everyone, v);
  r.smallest = __reduce_min_sync(everyone, v);
  r.largest = __reduce_max_sync(everyone, v);
  r.lowest = __reduce_min_sync(everyone, static_cast<int>(v));
  r.either = __reduce_or_sync(everyone, v);
  r.both = __reduce_and_sync(everyone, v);
  r.differ = __reduce_xor_sync(everyone, v);
  r.all = __all_sync(everyone, v > 10);
  r.any = __any_sync(everyone, v > 4000000000u);
  const int mine = static_cast<int>(v);
  r.from = __shfl_sync(everyone, mine, static_cast<int>(v % 32));
  r.up = __shfl_up_sync(everyone, mine, 3);
  r.down = __shfl_down_sync(everyone, mine, 5);
  r.other = __shfl_xor_sync(everyone, mine, 17);
  r.within = __shfl_down_sync(everyone, mine, 1, 8);
  r.wide = __shfl_sync(everyone, static_cast<double>(v) / 3, 31 - static_cast<int>(lane));
  out[threadIdx.x] = r;
}

__global__ void block_operations(int* out, unsigned threads_of_first) {
  auto* const shared = reinterpret_cast<int*>(cuda::ptx::dynamic_shared());
  const auto me = static_cast<int>(threadIdx.x), n = static_cast<int>(blockDim.x);
  if (blockIdx.x == 1 && threadIdx.x >= threads_of_first) return;  // who has ended is not waited for
  shared[me] = me;
  __syncthreads();
  const int next = shared[blockIdx.x == 1 ? me : (me + 1) % n];
  const int count = __syncthreads_count(me % 3 == 0), all = __syncthreads_and(me < n), any = __syncthreads_or(me < 0);
  out[blockIdx.x * blockDim.x + threadIdx.x] = 1000000 * next + 100 * count + 10 * all + any;
}

__global__ void atomics(unsigned* u, int* i, unsigned long long* l, float* f) {
  const unsigned t = blockIdx.x * blockDim.x + threadIdx.x;
  atomicAdd(u, t);
  atomicMax(u + 1, t * 7919 % 1009);
  atomicMin(u + 2, t * 7919 % 1009 + 3);
  atomicOr(u + 3, 1u << t % 32);
  atomicExch(u + 4, 5u);
  if (atomicCAS(u + 5, 0u, t + 1) == 0) atomicAdd(u + 6, 1u);
  atomicMin(i, -static_cast<int>(t));
  atomicMax(l, static_cast<unsigned long long>(t) << 33);
  atomicAdd(f, 0.25f);
}

}  // namespace

TEST_CASE("emulator: votes, shuffles and reductions are what their definitions say") {
  MESSAGE("seed ", seed);
  std::mt19937 random(seed);
  std::vector<unsigned> v(96);
  for (unsigned& x : v) x = static_cast<unsigned>(random());
  in_all_orders([&] {
    const device_buffer<unsigned> in(v);
    const device_buffer<lane_results> out(v.size());
    run(warp_operations, 1, 96, 0, in.data(), out.data());
    const auto got = out.download();
    for (std::size_t first = 0; first < 96; first += 32) {
      lane_results w{};
      unsigned second_bits = 0, second_sum = 0;
      w.smallest = everyone, w.both = everyone, w.all = 1, w.lowest = INT32_MAX;
      for (unsigned i = 0; i < 32; ++i) {
        const unsigned x = v[first + i];
        w.ballot |= (x & 1) << i, w.add += x, w.smallest = std::min(w.smallest, x), w.largest = std::max(w.largest, x);
        w.either |= x, w.both &= x, w.differ ^= x, w.all &= x > 10, w.any |= x > 4000000000u;
        w.lowest = std::min(w.lowest, static_cast<int>(x));
        if (i < 16) second_bits |= (x >> 1 & 1) << i;
        if (i >= 16) second_sum += x;
      }
      for (unsigned i = 0; i < 32; ++i) {
        const auto at = [&](unsigned lane) { return static_cast<int>(v[first + lane]); };
        const lane_results& r = got[first + i];
        unsigned match = 0;
        for (unsigned k = 0; k < 32; ++k) match |= (v[first + k] % 5 == v[first + i] % 5 ? 1u : 0u) << k;
        CHECK(r.ballot == w.ballot);
        CHECK(r.part == (i < 16 ? second_bits : second_sum));
        CHECK(r.match == match);
        CHECK(std::array{r.add, r.smallest, r.largest, r.either, r.both, r.differ} ==
              std::array{w.add, w.smallest, w.largest, w.either, w.both, w.differ});
        CHECK(std::array{r.all, r.any, r.lowest} == std::array{w.all, w.any, w.lowest});
        CHECK(r.from == at(v[first + i] % 32));
        CHECK(r.up == at(i >= 3 ? i - 3 : i));
        CHECK(r.down == at(i < 27 ? i + 5 : i));
        CHECK(r.other == at(i ^ 17));
        CHECK(r.within == at(i % 8 == 7 ? i : i + 1));
        CHECK(r.wide == static_cast<double>(v[first + 31 - i]) / 3);
      }
    }
  });
}

TEST_CASE("emulator: barriers of a block, and who has left it") {
  in_all_orders([&] {
    constexpr int n = 80, fewer = 45;
    const device_buffer<int> out(2 * n);
    run(block_operations, 2, n, n * sizeof(int), out.data(), fewer);
    const auto got = out.download();
    for (int i = 0; i < n; ++i) {
      CHECK(got[static_cast<std::size_t>(i)] == 1000000 * ((i + 1) % n) + 100 * ((n + 2) / 3) + 10);
      CHECK(got[static_cast<std::size_t>(n + i)] ==
            (i < fewer ? 1000000 * i + 100 * ((fewer + 2) / 3) + 10 : 0x7f7f7f7f));
    }
  });
}

TEST_CASE("emulator: atomics") {
  in_all_orders([&] {
    constexpr unsigned n = 4 * 64;
    device_buffer<unsigned> u(std::vector<unsigned>{0, 0, everyone, 0, 0, 0, 0});
    const device_buffer<int> i(std::vector<int>{0});
    const device_buffer<unsigned long long> l(std::vector<unsigned long long>{1});
    const device_buffer<float> f(std::vector<float>{0});
    run(atomics, 4, 64, 0, u.data(), i.data(), l.data(), f.data());
    unsigned largest = 0, smallest = everyone;
    for (unsigned t = 0; t < n; ++t)
      largest = std::max(largest, t * 7919 % 1009), smallest = std::min(smallest, t * 7919 % 1009 + 3);
    const auto got = u.download();
    CHECK(got[0] == n * (n - 1) / 2);
    CHECK(got[1] == largest);
    CHECK(got[2] == smallest);
    CHECK(got[3] == everyone);
    CHECK(got[4] == 5);
    CHECK(got[5] >= 1);
    CHECK(got[5] <= n);
    CHECK(got[6] == 1);
    CHECK(i.download()[0] == -static_cast<int>(n - 1));
    CHECK(l.download()[0] == static_cast<unsigned long long>(n - 1) << 33);
    CHECK(f.download()[0] == 64.0f);
  });
}

TEST_CASE("emulator: arithmetic") {
  MESSAGE("seed ", seed);
  std::mt19937 random(seed);
  for (int i = 0; i < 2000; ++i) {
    const auto a = static_cast<unsigned>(random()), b = static_cast<unsigned>(random()),
               c = static_cast<unsigned>(random());
    const auto byte = [](unsigned v, unsigned k) { return v >> 8 * k & 255; };
    const auto sbyte = [&](unsigned v, unsigned k) { return static_cast<int>(byte(v, k) ^ 128) - 128; };
    unsigned dot = c, reversed = 0, permuted = 0;
    int signed_dot = static_cast<int>(c) / 4;
    for (unsigned k = 0; k < 4; ++k) dot += byte(a, k) * byte(b, k), signed_dot += sbyte(a, k) * sbyte(b, k);
    for (unsigned k = 0; k < 32; ++k) reversed = reversed << 1 | (a >> k & 1);
    for (unsigned k = 0; k < 4; ++k) {
      const unsigned s = c >> 4 * k & 7;
      permuted |= byte(s < 4 ? a : b, s % 4) << 8 * k;
    }
    CHECK(__dp4a(a, b, c) == dot);
    CHECK(__dp4a(static_cast<int>(a), static_cast<int>(b), static_cast<int>(c) / 4) == signed_dot);
    CHECK(__dp2a_lo(a, b, c) == c + (a & 0xffff) * byte(b, 0) + (a >> 16) * byte(b, 1));
    CHECK(__dp2a_hi(a, b, c) == c + (a & 0xffff) * byte(b, 2) + (a >> 16) * byte(b, 3));
    CHECK(__brev(a) == reversed);
    CHECK(__byte_perm(a, b, c & 0x7777) == permuted);
    CHECK(__funnelshift_r(a, b, c) == (c % 32 ? a >> c % 32 | b << (32 - c % 32) : a));
    CHECK(__funnelshift_l(a, b, c) == (c % 32 ? b << c % 32 | a >> (32 - c % 32) : b));
    CHECK(__umulhi(a, b) == static_cast<unsigned>(std::uint64_t{a} * b >> 32));
    CHECK(__popc(a) + __popc(~a) == 32);
    const unsigned shifted = a >> c % 32;
    CHECK(__clz(static_cast<int>(shifted)) == (shifted ? 31 - static_cast<int>(std::log2(double{1} * shifted)) : 32));
    CHECK(__ffs(static_cast<int>(a << c % 32)) == (a << c % 32 ? std::countr_zero(a << c % 32) + 1 : 0));
  }
  CHECK(__byte_perm(0x80u, 0, 0x9888) == 0x00ffffffu);  // the sign of a byte
  CHECK(__float2int_rn(2.5f) == 2);
  CHECK(__float2int_rn(3.5f) == 4);
  CHECK(__float2int_rz(-2.9f) == -2);
  CHECK(__float2int_rn(1e20f) == INT32_MAX);
  CHECK(__float2int_rn(-1e20f) == INT32_MIN);
  CHECK(__float2int_rn(NAN) == 0);
  CHECK(__float2uint_rz(-1.0f) == 0);
  CHECK(__float2uint_rz(4e9f) == 4000000000u);
  CHECK(__fmaf_rn(1 + 0x1p-23f, 1 - 0x1p-23f, -1) == -0x1p-46f);
  for (unsigned h = 0; h < 65536; ++h) {
    const float f = __half2float(__ushort_as_half(static_cast<std::uint16_t>(h)));
    const float want = to_float(f16{static_cast<std::uint16_t>(h)});
    CHECK((std::bit_cast<unsigned>(f) == std::bit_cast<unsigned>(want) || (std::isnan(f) && std::isnan(want))));
  }
  for (int i = 0; i < 20000; ++i) {
    const float f = std::bit_cast<float>(static_cast<unsigned>(random()) % 0x48800000u | (i % 2 ? 0x80000000u : 0u));
    CHECK(__half_as_ushort(__float2half_rn(f)) == from_float<f16>(f).bits);
    CHECK(cuda_on_host::narrowed_bf16(f) == from_float<bf16>(f).bits);
  }
}

namespace {

// Each warp: c = a * b, 16 x 16 by 16 x 8, from halves in shared memory; b is [k][n] and its fragments are transposed.
__global__ void multiply(const std::uint16_t* a, const std::uint16_t* b, float* c) {
  auto* const left = reinterpret_cast<std::uint16_t*>(cuda::ptx::dynamic_shared());
  std::uint16_t* const right = left + 256;
  const unsigned lane = threadIdx.x % 32;
  for (unsigned i = lane; i < 256; i += 32) left[i] = a[i];
  for (unsigned i = lane; i < 256; i += 32) right[i] = i % 16 < 8 ? b[i / 16 * 8 + i % 16] : std::uint16_t{0};
  __syncwarp();
  std::uint32_t f[4], g[4];
  cuda::ptx::load_matrices(f, cuda::ptx::shared_address(left + lane % 16 * 16 + lane / 16 * 8));
  cuda::ptx::load_matrices_transposed(g, cuda::ptx::shared_address(right + lane % 16 * 16 + lane / 16 * 8));
  float d[4] = {1, 2, 3, 4};
  cuda::ptx::multiply_add(d, f, g[0], g[1]);
  for (unsigned r = 0; r < 4; ++r) c[(lane / 4 + 8 * (r / 2)) * 8 + 2 * (lane % 4) + r % 2] = d[r];
}

__global__ void copies(const unsigned char* from, unsigned char* to, int step) {
  unsigned char* const shared = cuda::ptx::dynamic_shared();
  const std::uint32_t at = cuda::ptx::shared_address(shared);
  if (threadIdx.x == 0) {
    for (std::uint32_t i = 0; i < 3; ++i) {
      cuda::ptx::copy_async(at + 16 * i, from + 16 * i, i == 2 ? 5 : 16);
      if (i < 2 || step != 3) cuda::ptx::copy_commit();
    }
    if (step == 1) cuda::ptx::copy_wait<1>();
    if (step >= 2) cuda::ptx::copy_wait<0>();
  }
  __syncthreads();
  to[threadIdx.x] = shared[threadIdx.x];
}

}  // namespace

TEST_CASE("emulator: tensor cores") {
  MESSAGE("seed ", seed);
  std::mt19937 random(seed);
  std::vector<std::uint16_t> a(256), b(128);
  for (auto* m : {&a, &b})
    for (std::uint16_t& v : *m)
      v = from_float<f16>(static_cast<float>(static_cast<int>(random() % 2001) - 1000) / 64).bits;
  in_all_orders([&] {
    const device_buffer<std::uint16_t> left(a), right(b);
    const device_buffer<float> c(128);
    run(multiply, 1, 32, 1024, left.data(), right.data(), c.data());
    const auto got = c.download();
    for (std::size_t m = 0; m < 16; ++m)
      for (std::size_t n = 0; n < 8; ++n) {
        double want = static_cast<double>(1 + n % 2 + (m < 8 ? 0 : 2));
        for (std::size_t k = 0; k < 16; ++k)
          want += static_cast<double>(to_float(f16{a[16 * m + k]})) * static_cast<double>(to_float(f16{b[8 * k + n]}));
        CHECK(std::abs(static_cast<double>(got[8 * m + n]) - want) < 1e-2);
      }
  });
}

TEST_CASE("emulator: copies arrive when they are waited for") {
  std::vector<unsigned char> bytes(48);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<unsigned char>(i + 1);
  const device_buffer<unsigned char> from(bytes), to(48);
  for (int step = 0; step < 4; ++step) {  // 0: no wait; 1: for all but the last; 2: for all; 3: the last not committed
    run(copies, 1, 48, 48, from.data(), to.data(), step);
    const auto got = to.download();
    for (std::size_t i = 0; i < 48; ++i) {
      const bool there = step == 2 || (step != 0 && i < 32);
      CHECK(got[i] == (there ? (i < 37 ? bytes[i] : 0) : 0x7f));
    }
  }
}

namespace {

enum class wrong : std::uint8_t {
  nothing,
  write_behind,
  read_behind,
  write_before,
  address_behind,
  misaligned,
  not_shared,
  global_behind,
  other_operation,
  other_mask,
  other_barrier,
  left_alone,
  half_a_warp_at_barrier,
  not_in_mask,
  deep,
};

int fall(int depth) {
  volatile char room[4096];
  for (char v = 0; volatile char& c : room) c = v++;
  room[depth] = static_cast<char>(depth == 0 ? 0 : fall(depth - 1));
  return room[2 * depth];
}

__global__ void misuse(wrong what, unsigned* global, unsigned size) {
  auto* const shared = cuda::ptx::dynamic_shared();
  const unsigned lane = threadIdx.x % 32;
  unsigned mine = lane;
  switch (what) {
    case wrong::nothing: break;
    case wrong::write_behind: shared[size + 15 + lane] = 1; break;
    case wrong::read_behind: mine = shared[(size + 15) / 16 * 16 + lane]; break;
    case wrong::write_before: shared[-1 - static_cast<int>(lane)] = 1; break;
    case wrong::address_behind: mine = cuda::ptx::load_table(cuda::ptx::shared_address(shared) + size - 2); break;
    case wrong::misaligned: mine = cuda::ptx::load_table(cuda::ptx::shared_address(shared) + 2); break;
    case wrong::not_shared: mine = cuda::ptx::shared_address(global); break;
    case wrong::global_behind: global[4 + lane] = 1; break;
    case wrong::other_operation:
      if (lane < 7)
        __syncwarp();
      else
        mine = __ballot_sync(everyone, 1);
      break;
    case wrong::other_mask: mine = __ballot_sync(lane == 3 ? 0xffffu : everyone, 1); break;
    case wrong::other_barrier:
      if (lane < 7)
        __syncthreads();
      else
        __syncthreads();
      break;
    case wrong::left_alone:
      if (lane != 5) __syncwarp();
      __syncthreads();
      break;
    case wrong::half_a_warp_at_barrier:
      if (lane < 16)
        __syncthreads();
      else
        __syncwarp();
      break;
    case wrong::not_in_mask: __syncwarp(0xfffffffeu); break;
    case wrong::deep: mine = static_cast<unsigned>(fall(100)); break;
  }
  if (global != nullptr) atomicAdd(global, mine);
}

}  // namespace

// The thread sanitizer does not follow a process of many threads into its child.
TEST_CASE("emulator: what a kernel must not do ends the program and says where" * doctest::skip(CUDA_ON_HOST_TSAN)) {
  constexpr unsigned size = 100;
  for (const order how : {order::up, order::down}) {
    the_machine.how = how;
    const auto said = [&](wrong what) {
      return complaint([&] {
        const device_buffer<unsigned> global(4);
        run(misuse, 1, 32, size, what, global.data(), size);
      });
    };
    CHECK(said(wrong::nothing) == "");
    CHECK(tells_of_bounds(said(wrong::write_behind), "offset"));
    CHECK(tells_of_bounds(said(wrong::read_behind), "of the 100 bytes of shared memory"));
    CHECK(tells_of_bounds(said(wrong::write_before), "wrote beside its 100 bytes of shared memory"));
    CHECK(says(said(wrong::address_behind), "4 bytes at offset 98 of the 100 bytes of shared memory"));
    CHECK(says(said(wrong::misaligned), "not aligned"));
    CHECK(says(said(wrong::not_shared), "is not in shared memory"));
    CHECK(tells_of_bounds(said(wrong::global_behind), "of a piece of 16 bytes"));
    CHECK(says(said(wrong::other_operation), "lanes of a warp meet in different operations"));
    CHECK(says(said(wrong::other_operation), "cuda_emulator_test.cpp"));
    CHECK(says(said(wrong::other_mask), "lanes of a warp meet in different operations"));
    CHECK(says(said(wrong::other_barrier), "threads of a block meet at different barriers"));
    CHECK(says(said(wrong::left_alone), "nobody can go on"));
    CHECK(says(said(wrong::left_alone), "for lanes 00000020"));
    CHECK(says(said(wrong::half_a_warp_at_barrier), "nobody can go on"));
    CHECK(says(said(wrong::not_in_mask), "lane 0 is not in the mask"));
    CHECK(tells_of_bounds(said(wrong::deep), "its stack of"));
  }
  the_machine.how = order::up;
}

TEST_CASE("emulator: launches that a GPU would refuse") {
  constexpr auto nothing = [](int*) {};
  void (*const kernel)(int*) = nothing;
  CHECK(cuda::launch(kernel, 0, 32, 0, nullptr, nullptr) == status::ok);
  CHECK(cuda::launch(kernel, 1, 1025, 0, nullptr, nullptr) == status::cuda_error);
  CHECK(cudaGetLastError() != cudaSuccess);
  CHECK(cuda::launch(kernel, 1, 32, 49153, nullptr, nullptr) == status::cuda_error);
  CHECK(cudaGetLastError() != cudaSuccess);
  CHECK(cuda::allow_shared(kernel, cuda::max_shared + 1) == status::cuda_error);
  CHECK(cudaGetLastError() != cudaSuccess);
  CHECK(cuda::allow_shared(kernel, cuda::max_shared) == status::ok);
  CHECK(cuda::launch(kernel, 1, 32, cuda::max_shared, nullptr, nullptr) == status::ok);
}
