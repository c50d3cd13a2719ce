// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/format/frame.hpp>
#include <sluice/model/profile.hpp>
#include <sluice/tensor/view.hpp>

#include <cstddef>
#include <span>
#include <vector>

namespace cuda_bench {

/// The cache of a model of some size.
struct model_size {
  const char* name;
  int layers, heads, head_dim;
  int group_width;  ///< channels that share a basis
};

/// Llama 3's 8B by width of the basis, of which 64 and 192 need heads of 64 channels, and its 70B.
inline constexpr model_size sizes[] = {{"8B", 32, 16, 64, 64},
                                       {"8B", 32, 8, 128, 128},
                                       {"8B", 32, 15, 64, 192},
                                       {"8B", 32, 8, 128, 256},
                                       {"70B", 80, 8, 128, 128}};

/// The captured cache of test/data as that of a larger model: its heads are dealt out to the layers near the same
/// depth, every value is one that was captured, and bases and classes are those of the committed profile, cut to other
/// groups as slice_heads() cuts them. Keys are turned back by the rope they were captured under and forward by this
/// model's.
class grown_model {
 public:
  explicit grown_model(const model_size& size, sluice::dtype type = sluice::dtype::bf16);
  grown_model(const grown_model&) = delete;

  const model_size& size() const noexcept { return size_; }
  const sluice::profile& profile() const noexcept { return profile_; }
  /// All captured tokens, on the host: [layers][tokens][heads][head_dim] of K, then of V. They do not begin the sequence.
  const sluice::kv_view& cache() const noexcept { return cache_; }
  const std::vector<std::byte>& bytes() const noexcept { return bytes_; }
  /// A frame of all of it, made by the CPU; kept for the last codec asked for.
  const std::vector<std::byte>& frame(const sluice::codec_id& codec) const;
  /// What the CPU decodes of it, in the order of bytes().
  std::vector<std::byte> decoded(std::span<const std::byte> frame, int level) const;

 private:
  void fill();

  model_size size_;
  sluice::profile profile_;
  std::vector<std::byte> bytes_;
  sluice::kv_view cache_;
  mutable sluice::codec_id coded_with_{};
  mutable std::vector<std::byte> frame_;
};

/// The model of a size, made once. Errors are said to stderr and end the program.
const grown_model& model_of(const model_size& size);

}  // namespace cuda_bench
