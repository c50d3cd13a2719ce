// SPDX-License-Identifier: Apache-2.0
// The header of a capture that is accepted describes layers that a profile can hold and tokens that end where the sequence
// ends; written again it says the same. A line with a = is metadata, any other a tensor: name, type, shape.
#include <capture_layout.hpp>
#include <safetensors.hpp>
#include <sluice/model/profile.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

namespace {

void require(bool fact) {
  if (!fact) std::abort();
}

// The next word of a line.
std::string_view word(std::string_view& line) {
  line.remove_prefix(std::min(line.find_first_not_of(' '), line.size()));
  const std::string_view w = line.substr(0, line.find(' '));
  line.remove_prefix(w.size());
  return w;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::string_view text(reinterpret_cast<const char*>(data), size);
  safetensors::metadata meta;
  std::vector<safetensors::tensor> tensors;
  while (!text.empty()) {
    std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(line.size() + 1, text.size()));
    if (const std::size_t equals = line.find('='); equals != line.npos) {
      meta[std::string(line.substr(0, equals))] = line.substr(equals + 1);
      continue;
    }
    safetensors::tensor t;
    t.name = word(line);
    const std::string_view type = word(line);
    for (std::size_t i = 0; i < safetensors::dtypes.size(); ++i)
      if (safetensors::dtypes[i].name == type) t.type = safetensors::dtype(i);
    while (t.shape.size() < 5)
      if (const auto n = capture_detail::number<std::int64_t>(word(line)))
        t.shape.push_back(*n);
      else
        break;
    const bool there = std::any_of(tensors.begin(), tensors.end(), [&](const auto& u) { return u.name == t.name; });
    if (!there) tensors.push_back(std::move(t));
  }

  capture_layout layout;
  if (const auto wrong = layout.read(meta, tensors)) {
    require(!wrong->empty());
    return 0;
  }
  require(layout.layers.size() == layout.shape.layers.size() && layout.position >= 0 && layout.tokens >= 0);
  safetensors::metadata again{{"layers", std::to_string(layout.layers.size())},
                              {"position", std::to_string(layout.position)}};
  std::size_t present = 0;
  for (std::size_t l = 0; l < layout.layers.size(); ++l) {
    const capture_layout::layer& at = layout.layers[l];
    const sluice::layer_shape& s = layout.shape.layers[l];
    require(sluice::detail::valid_layer(s, layout.shape.ropes));
    require(s.absent() == !at.k);
    if (!at.k) continue;
    ++present;
    require(at.k->shape[0] == at.tokens && at.k->shape[1] == s.num_kv_heads && at.k->shape[2] == s.head_dim_k);
    require(!at.v ||
            (at.v->shape[0] == at.tokens && at.v->shape[1] == s.num_kv_heads && at.v->shape[2] == s.head_dim_v));
    require(at.position >= layout.position && at.position + at.tokens == layout.position + layout.tokens);
    require(at.tokens == layout.tokens || s.window > 0);
    write_layer_metadata(again, int(l), s, layout.shape.ropes);
  }
  require(present > 0);

  capture_layout back;
  require(!back.read(again, tensors));
  require(back.shape == layout.shape && back.position == layout.position && back.tokens == layout.tokens);

  std::size_t width = 0;
  for (const sluice::layer_shape& s : layout.shape.layers) width += std::size_t(s.num_kv_heads);
  if (width > 4096) return 0;
  const sluice::profile p = sluice::profile::uncalibrated(layout.shape);
  const auto read = sluice::profile::parse(p.serialize());
  require(read && read->shape == layout.shape);
  return 0;
}
