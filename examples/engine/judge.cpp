// SPDX-License-Identifier: Apache-2.0
#include "hidden.hpp"
#include "predictions.hpp"
#include "quality.hpp"

#include <algorithm>
#include <ctime>

namespace engine {

void suffix_quality::add(const suffix_quality& other) {
  elements += other.elements;
  predicted += other.predicted;
  continued += other.continued;
  nll += other.nll;
  encode_seconds += other.encode_seconds;
  levels.resize(other.levels.size());
  for (std::size_t j = 0; j < levels.size(); ++j) {
    levels[j].level = other.levels[j].level;
    levels[j].bytes += other.levels[j].bytes;
    levels[j].nll += other.levels[j].nll;
    levels[j].expected += other.levels[j].expected;
    levels[j].decode_seconds += other.levels[j].decode_seconds;
    levels[j].attention.error += other.levels[j].attention.error;
    levels[j].attention.exact += other.levels[j].attention.exact;
    levels[j].distance.add(other.levels[j].distance);
    levels[j].continued.equal += other.levels[j].continued.equal;
    levels[j].continued.prefix += other.levels[j].continued.prefix;
  }
}

document_probe::document_probe(model& net, std::span<const std::int32_t> ids, const sequence& context)
    : net_(&net), context_(&context) {
  const int half = context.tokens() / 2, chunk = coded_cache::chunk_tokens;
  const int begin = half < chunk ? half : half / chunk * chunk;
  before_ = ids.first(std::size_t(begin));
  after_ = ids.subspan(std::size_t(begin), std::size_t(std::min(most, context.tokens() - begin)));
  sequence copy(context.pool());
  copy_tokens(context, begin, copy);
  exact_ = predict(net, after_, copy);
}

sluice::document_steps document_probe::steps(coded_cache& coded, double target) {
  constexpr std::size_t too_few = 32;
  if (!sluice::steps_move(coded.codec()) || after_.size() < too_few) return {};
  coded.encode(context_->view().slice(0, std::int64_t(before_.size())), before_);
  const int level = sluice::level_losing(target, coded.profile(), coded.codec(), coded.levels());
  // Products of 8 bits move predictions whatever the cache is; the finest level shows by how much.
  const double noise = lost(coded, coded.levels() - 1), all = lost(coded, level);
  // What follows the whole context has twice as much before it, and loses so many times as much (three models).
  constexpr double growth = 1.3;
  return sluice::steps_for(target, growth * std::max(all - noise, all / 10), coded.profile(), coded.codec(), level);
}

double document_probe::lost(coded_cache& coded, int level) {
  coded.truncate(level);
  sequence decoded(context_->pool());
  coded.decode(decoded);
  return distance(exact_, predict(*net_, after_, decoded)).kl();
}

attention_probe::attention_probe(model& net, std::span<const std::int32_t> suffix, sequence& context)
    : net_(&net), ids_(suffix.first(std::min(most, suffix.size()))) {
  const int tokens = context.tokens();
  const auto keep = [](auto& all) {
    return [&all](int, int, std::span<const float> x) { all.emplace_back(x.begin(), x.end()); };
  };
  net.forward(ids_, context, {.on_hidden = keep(entering_), .on_attended = keep(attended_)});
  context.truncate(tokens);
}

attention_probe::distance attention_probe::of(sequence& decoded) const {
  const int tokens = decoded.tokens();
  if (decoded.grow(int(ids_.size())) != sluice::status::ok) throw std::runtime_error("the KV cache is full");
  distance out;
  for (std::size_t l = 0; l < attended_.size(); ++l)
    net_->forward(ids_, decoded,
                  {.on_attended =
                       [&](int, int, std::span<const float> x) {
                         for (std::size_t i = 0; i < x.size(); ++i) {
                           const double exact = double(attended_[l][i]), off = double(x[i]) - exact;
                           out.error += off * off;
                           out.exact += exact * exact;
                         }
                       },
                   .position = tokens,
                   .first_layer = int(l),
                   .hidden = entering_[l],
                   .end_layer = int(l) + 1});
  decoded.truncate(tokens);
  return out;
}

namespace {

double thread_seconds() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
}

}  // namespace

suffix_quality judge_window(model& net, std::span<const std::int32_t> ids, const sequence& context, const matrix& exact,
                            std::span<const float> attention, const sluice::document_steps& steps,
                            std::span<const std::int32_t> greedy, int level, coded_cache& coded,
                            const attention_probe* probe, const sequence* hidden) {
  const int tokens = context.tokens();
  const auto suffix = ids.subspan(std::size_t(tokens), ids.size() - 1 - std::size_t(tokens));
  const auto target = [&](Eigen::Index i) { return ids[std::size_t(tokens + i + 1)]; };
  const page_pool& pages = context.pool();
  suffix_quality out;
  for (Eigen::Index i = 0; i < exact.rows(); ++i) out.nll += surprise(row_of(exact, i), target(i));
  out.predicted = suffix.size();
  out.continued = greedy.size();
  out.elements = std::size_t(tokens) * pages.values_of_token();

  double begin = thread_seconds();
  coded.encode((hidden ? *hidden : context).view(), ids.first(std::size_t(tokens)), attention, steps);
  out.encode_seconds = thread_seconds() - begin;
  sequence decoded(context.pool());
  for (const int l : levels_of(level, coded.levels())) {
    suffix_quality::at_level& to = out.levels.emplace_back();
    to.level = l;
    coded.truncate(l);
    to.bytes = coded.bytes();
    to.expected = coded.expected_loss(l) * double(suffix.size());
    decoded.truncate(0);
    begin = thread_seconds();
    if (hidden) {
      sequence states(hidden->pool());
      coded.decode(states);
      if (decoded.grow(tokens) != sluice::status::ok) throw std::runtime_error("the KV cache is full");
      project(net, states, 0, tokens, decoded);
    } else {
      coded.decode(decoded);
    }
    to.decode_seconds = thread_seconds() - begin;
    if (probe) to.attention = probe->of(decoded);
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
