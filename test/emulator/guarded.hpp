// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fiber.hpp>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>

// Memory whose bounds are watched: pages before and behind it that nobody may touch, and what lies between it and these
// pages is looked at when it is given back. New memory holds no zeros, so that nothing works by luck.

namespace cuda_on_host {

/// What memory holds that nobody wrote: NaN as f16, a huge f32 or bf16, no address, no small number.
inline constexpr unsigned char unwritten = 0x7f;

/// A piece of memory that ends, to its alignment, where a page begins that nobody may touch.
class guarded {
 public:
  static constexpr std::size_t page = 4096;

  /// Room for pieces of at most so many bytes.
  explicit guarded(std::size_t most, std::size_t alignment = 16)
      : alignment_(alignment), room_((most + page - 1) / page * page + page) {
    void* const p = mmap(nullptr, room_ + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) std::perror("cuda_on_host: memory"), std::abort();
    first_ = static_cast<unsigned char*>(p) + page;
    mprotect(first_, room_, PROT_READ | PROT_WRITE);
  }
  ~guarded() {
    open();
    munmap(first_ - page, room_ + 2 * page);
  }
  guarded(const guarded&) = delete;
  guarded& operator=(const guarded&) = delete;

  /// A new piece, in place of the last one.
  CUDA_ON_HOST_UNSEEN void use(std::size_t bytes) {
    open();
    size_ = bytes;
    data_ = first_ + room_ - (bytes + alignment_ - 1) / alignment_ * alignment_;
    std::memset(before(), watched, static_cast<std::size_t>(data_ - before()));
    std::memset(data_, unwritten, size_);
    std::memset(data_ + size_, watched, behind());
#if CUDA_ON_HOST_ASAN
    __asan_poison_memory_region(first_, static_cast<std::size_t>(data_ - first_));
    __asan_poison_memory_region(data_ + size_, behind());
#endif
  }
  /// Whether what lies around the piece is as it was.
  CUDA_ON_HOST_UNSEEN bool intact() {
    open();
    for (const unsigned char* p = before(); p < first_ + room_; p = p + 1 == data_ ? data_ + size_ : p + 1)
      if (*p != watched) return false;
    return true;
  }

  /// Makes the thread sanitizer forget who used it.
  void forget() {
#if CUDA_ON_HOST_TSAN
    mmap(first_, room_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
#endif
  }

  unsigned char* data() const { return data_; }
  std::size_t size() const { return size_; }
  std::ptrdiff_t offset(const void* address) const { return static_cast<const unsigned char*>(address) - data_; }
  /// Whether an address is in the piece's guards.
  bool guards(const void* address) const {
    const auto* const p = static_cast<const unsigned char*>(address);
    return (p >= first_ - page && p < first_) || (p >= first_ + room_ && p < first_ + room_ + page);
  }

 private:
  static constexpr unsigned char watched = 0xe5;

  unsigned char* before() const { return data_ - first_ > 512 ? data_ - 512 : first_; }
  std::size_t behind() const { return static_cast<std::size_t>(first_ + room_ - data_) - size_; }
  void open() {
#if CUDA_ON_HOST_ASAN
    __asan_unpoison_memory_region(first_, room_);
#endif
  }

  std::size_t alignment_, room_;
  unsigned char* first_;
  unsigned char* data_ = nullptr;
  std::size_t size_ = 0;
};

/// What cudaMalloc has given out, by address.
inline std::map<const void*, std::unique_ptr<guarded>>& device_memory() {
  static auto* const all = new std::map<const void*, std::unique_ptr<guarded>>;
  return *all;
}

}  // namespace cuda_on_host
