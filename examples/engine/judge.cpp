// SPDX-License-Identifier: Apache-2.0
#include "predictions.hpp"
#include "quality.hpp"

namespace engine {

void judge_window(model& net, std::span<const std::int32_t> ids, int context, int level, page_pool& pages,
                  coded_cache& coded, suffix_quality& sum) {
  const auto suffix = ids.subspan(std::size_t(context), ids.size() - 1 - std::size_t(context));
  sequence exact(pages), decoded(pages);
  net.forward(ids.first(std::size_t(context)), exact);
  coded.encode(exact.view());
  const matrix expected = predict(net, suffix, exact);
  const auto target = [&](Eigen::Index i) { return ids[std::size_t(context + i + 1)]; };
  for (Eigen::Index i = 0; i < expected.rows(); ++i) sum.nll += surprise(row_of(expected, i), target(i));
  sum.predicted += suffix.size();
  sum.elements += std::size_t(context) * 2 * std::size_t(pages.layers() * pages.kv_heads() * pages.head_dim());

  const std::vector<int> levels = levels_of(level, coded.levels());
  sum.levels.resize(levels.size());
  for (std::size_t j = 0; j < levels.size(); ++j) {
    suffix_quality::at_level& to = sum.levels[j];
    to.level = levels[j];
    coded.truncate(levels[j]);
    to.bytes += coded.bytes();
    decoded.truncate(0);
    coded.decode(decoded);
    net.forward(suffix, decoded, {.logits_from = 0, .on_logits = [&](int position, std::span<const float> logits) {
                                    const Eigen::Index i = position - context;
                                    to.distance.add(row_of(expected, i), logits);
                                    to.nll += surprise(logits, target(i));
                                  }});
  }
}

}  // namespace engine
