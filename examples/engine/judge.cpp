// SPDX-License-Identifier: Apache-2.0
#include "predictions.hpp"
#include "quality.hpp"

namespace engine {

void suffix_quality::add(const suffix_quality& other) {
  elements += other.elements;
  predicted += other.predicted;
  continued += other.continued;
  nll += other.nll;
  levels.resize(other.levels.size());
  for (std::size_t j = 0; j < levels.size(); ++j) {
    levels[j].level = other.levels[j].level;
    levels[j].bytes += other.levels[j].bytes;
    levels[j].nll += other.levels[j].nll;
    levels[j].distance.add(other.levels[j].distance);
    levels[j].continued.equal += other.levels[j].continued.equal;
    levels[j].continued.prefix += other.levels[j].continued.prefix;
  }
}

suffix_quality judge_window(model& net, std::span<const std::int32_t> ids, const sequence& context, const matrix& exact,
                            std::span<const float> attention, std::span<const std::int32_t> greedy, int level,
                            coded_cache& coded) {
  const int tokens = context.tokens();
  const auto suffix = ids.subspan(std::size_t(tokens), ids.size() - 1 - std::size_t(tokens));
  const auto target = [&](Eigen::Index i) { return ids[std::size_t(tokens + i + 1)]; };
  const page_pool& pages = context.pool();
  suffix_quality out;
  for (Eigen::Index i = 0; i < exact.rows(); ++i) out.nll += surprise(row_of(exact, i), target(i));
  out.predicted = suffix.size();
  out.continued = greedy.size();
  out.elements = std::size_t(tokens) * 2 * std::size_t(pages.layers() * pages.kv_heads() * pages.head_dim());

  coded.encode(context.view(), ids.first(std::size_t(tokens)), attention);
  sequence decoded(context.pool());
  for (const int l : levels_of(level, coded.levels())) {
    suffix_quality::at_level& to = out.levels.emplace_back();
    to.level = l;
    coded.truncate(l);
    to.bytes = coded.bytes();
    decoded.truncate(0);
    coded.decode(decoded);
    net.forward(suffix, decoded, {.logits_from = 0, .on_logits = [&](int position, std::span<const float> logits) {
                                    const Eigen::Index i = position - tokens;
                                    to.distance.add(row_of(exact, i), logits);
                                    to.nll += surprise(logits, target(i));
                                  }});
    decoded.truncate(tokens);
    to.continued = agree(greedy, continue_greedily(net, decoded, suffix.front(), int(greedy.size())));
  }
  return out;
}

agreement agree(std::span<const std::int32_t> a, std::span<const std::int32_t> b) {
  agreement out;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    out.prefix += out.prefix == i && a[i] == b[i];
    out.equal += a[i] == b[i];
  }
  return out;
}

std::vector<std::int32_t> continue_greedily(model& net, sequence& seq, std::int32_t first, int count) {
  const int before = seq.tokens();
  std::vector<std::int32_t> out;
  std::int32_t next = first;
  while (int(out.size()) < count) {
    net.forward({&next, 1}, seq, {.on_logits = [&](int, std::span<const float> logits) { next = likeliest(logits); }});
    out.push_back(next);
  }
  seq.truncate(before);
  return out;
}

}  // namespace engine
