// SPDX-License-Identifier: Apache-2.0

#include <charts.hpp>
#include <svg.hpp>

namespace {

using svg::format;

constexpr double width = 860;

std::string percent(double share) { return format(share < 0.1 ? "%.2g %%" : "%.0f %%", 100 * share); }
std::string milliseconds(double s) { return format(s < 0.0995 ? "%.2g ms" : "%.0f ms", 1e3 * s); }

struct key {
  std::string name, css;
};

// A row of names behind their colours.
void legend(svg::canvas& c, double x, double y, const std::vector<key>& keys) {
  for (const key& k : keys) {
    c.rect(x, y - 10, 12, 12, "fill " + k.css);
    c.text(x + 18, y, k.name, "start", "label");
    x += 40 + svg::text_width(k.name, 12.5);
  }
}

}  // namespace

std::string colour_of(const codec_row& r) {
  if (r.level >= 0) return format("l%d", std::min(r.level, 3));
  if (r.name == "exact" || r.name == "raw") return r.name;
  return r.lossless ? "zstd" : "fixed";
}

std::string rate_error_chart(const facts& f) {
  double low = 1, high = 0, few = 16;
  for (const codec_row& r : f.rows) {
    few = std::min(few, f.bits(r.bytes));
    if (!r.lossless) low = std::min(low, r.error), high = std::max(high, r.error);
  }
  constexpr double left = 70, right = width - 60, top = 26, bottom = 396, strip = 436, axis = 470;
  const svg::scale x{few / 1.5, 16, left, right, true}, y{low / 1.5, high * 1.5, bottom, top, true};
  svg::canvas c(width, 540, "Bits per value against the error of attention outputs, for every codec");
  svg::labels labels;
  labels.block(0, 0, left + 4, 540);

  for (double t : svg::log_ticks(y.low, y.high)) {
    c.line(left, y(t), right, y(t), "grid");
    c.text(left - 10, y(t) + 4, percent(t), "end", "tick");
  }
  for (double t = 0.25; t <= 16; t *= 2)
    if (t >= x.low) {
      c.line(x(t), top, x(t), axis, "grid");
      c.text(x(t), axis + 18, format(t == 1 ? "%g bit" : "%g bits", t), "middle", "tick");
      c.text(x(t), axis + 35, t == 16 ? "f16" : format("%g× smaller", 16 / t), "middle", "tick faint");
    }
  c.line(left, axis, right, axis, "axis");
  c.line(left, bottom, right, bottom, "axis faint");
  c.text(left - 10, strip + 4, "none", "end", "tick");
  c.text(left, top - 12, "error of attention outputs", "start", "name");
  c.text(right, axis + 62, "stored bits per value, everything counted", "end", "name");
  c.text(left + 12, bottom - 12, "↙ better: fewer bytes, less error", "start", "tick faint");
  labels.block(left, bottom - 26, 260, 20);

  std::vector<double> line_x, line_y;
  for (const codec_row& r : f.rows)
    if (r.level >= 0) line_x.push_back(x(f.bits(r.bytes))), line_y.push_back(y(r.error));
  c.curve(line_x, line_y, "line levels");
  for (std::size_t i = 0; i + 1 < line_x.size(); ++i)
    labels.block_line(line_x[i], line_y[i], line_x[i + 1], line_y[i + 1]);
  const auto place = [&](const codec_row& r) { return r.lossless ? strip : y(r.error); };
  for (const codec_row& r : f.rows) labels.block_point(x(f.bits(r.bytes)), place(r), 7);

  std::vector<bool> done(f.rows.size());
  for (std::size_t i = 0; i < f.rows.size(); ++i) {
    const codec_row& r = f.rows[i];
    const double px = x(f.bits(r.bytes)), py = place(r);
    std::string name = r.name;
    for (std::size_t k = i + 1; k < f.rows.size(); ++k)  // points on top of each other share a label
      if (!done[i] && std::hypot(px - x(f.bits(f.rows[k].bytes)), py - place(f.rows[k])) < 6)
        name += f.rows[k].name.starts_with("zstd") ? ", " + f.rows[k].name.substr(5) : ", " + f.rows[k].name,
            done[k] = true;
    c.circle(px, py, 6, "dot " + colour_of(r),
             format("%s: %.2f bits, %.2f times smaller, error %s", r.name.c_str(), f.bits(r.bytes), f.ratio(r.bytes),
                    r.lossless ? "none" : percent(r.error).c_str()));
    if (done[i]) continue;
    if (r.level >= 0) name += format(", %.1f×", f.ratio(r.bytes));
    const auto at = labels.find(px, py, name);
    c.text(at.x, at.y, name, at.anchor, r.level >= 0 ? "name" : "label");
  }
  return c.str();
}

std::string delivery_chart(const facts& f) {
  constexpr double left = 92, right = width - 64, top = 34, bottom = 400, slow = 0.05, fast = 200;
  std::vector<const codec_row*> shown;
  for (const codec_row& r : f.rows)
    if (r.level >= 0 || r.name == "exact" || r.name == "raw") shown.push_back(&r);
  double low = 1e9, high = 0;
  for (const codec_row* r : shown) {
    low = std::min(low, f.seconds(*r, fast));
    high = std::max(high, f.seconds(*r, slow));
  }
  const svg::scale x{slow, fast, left, right, true}, y{low / 1.4, high * 1.15, bottom, top, true};
  svg::canvas c(width, 456, "Time to deliver over links of different speed, for the raw cache, exact, and each level");
  for (double t : svg::log_ticks(y.low, y.high)) {
    const bool decade = std::abs(std::log10(t) - std::round(std::log10(t))) < 0.01;
    c.line(left, y(t), right, y(t), decade ? "grid" : "grid faint");
    if (decade) c.text(right + 10, y(t) + 4, t >= 1 ? format("%g s", t) : format("%g ms", 1e3 * t), "start", "tick");
  }
  for (const delivery& d : f.links) {
    c.line(x(d.gigabits), top, x(d.gigabits), bottom, "grid");
    c.text(x(d.gigabits), bottom + 20, format("%g Gbit/s", d.gigabits), "middle", "tick");
  }
  c.line(left, bottom, right, bottom, "axis");
  c.text(right, bottom + 42, "speed of the link", "end", "name");
  c.text(left, top - 14, "time until all values are in their pages", "start", "name");

  std::vector<double> ends;
  for (const codec_row* r : shown) {
    std::vector<double> px, py;
    for (int i = 0; i <= 96; ++i) {
      const double gigabits = slow * std::pow(fast / slow, i / 96.0);
      px.push_back(x(gigabits));
      py.push_back(y(f.seconds(*r, gigabits)));
    }
    c.curve(px, py, "line " + colour_of(*r));
    ends.push_back(y(f.seconds(*r, slow)));
  }
  const std::vector<double> at = svg::spread(ends, 17, top, bottom);
  for (std::size_t i = 0; i < shown.size(); ++i) {
    c.line(left - 26, at[i], left - 2, ends[i], "leader");
    c.text(left - 30, at[i] + 4, shown[i]->name, "end", "name t-" + colour_of(*shown[i]));
  }
  for (const delivery& d : f.links) {
    const codec_row& best = f.rows[d.fastest];
    const double px = x(d.gigabits), py = y(d.seconds[d.fastest]);
    c.circle(px, py, 6, "dot " + colour_of(best));
    c.text(px - 30, py + 23, best.name + ": " + milliseconds(d.seconds[d.fastest]), "middle", "name halo");
  }
  return c.str();
}

std::string bits_chart(const facts& f) {
  constexpr double left = 92, right = width - 160, top = 44, bar = 32, step = 46;
  const double most = f.bits(f.level(f.levels - 1).bytes);
  const svg::scale x{0, most, left, right};
  const double bottom = top + step * f.levels - 6;
  svg::canvas c(width, bottom + 52, "What the bits of each level are spent on");
  for (double t : svg::ticks(most, 5)) {
    c.line(x(t), top - 8, x(t), bottom, "grid");
    c.text(x(t), bottom + 18, format("%g", t), "middle", "tick");
  }
  c.text(right, bottom + 40, "stored bits per value", "end", "name");

  std::vector<key> keys{{"exact tokens", "exact"}, {"base pass", "l0"}};
  for (int p = 1; p < f.levels; ++p) keys.push_back({format("refinement %d", p), format("l%d", std::min(p, 3))});
  keys.push_back({"overhead", "over"});
  legend(c, left, 18, keys);

  for (int j = 0; j < f.levels; ++j) {
    const double y = top + step * j;
    double at = left;
    const auto segment = [&](const key& k, std::size_t bytes, bool dark_text) {
      const double w = x(f.bits(bytes)) - left;
      c.rect(at, y, w, bar, "fill " + k.css, format("%s: %zu bytes, %.3f bits", k.name.c_str(), bytes, f.bits(bytes)));
      if (w > 30)
        c.text(at + w / 2, y + bar / 2 + 4.5, format("%.2f", f.bits(bytes)), "middle",
               dark_text ? "on-light" : "on-dark");
      at += w;
    };
    std::size_t exact = 0, over = f.account.bytes.index;
    for (std::size_t p = 0; p <= std::size_t(j); ++p) {
      exact += f.account.bytes.passes[p].exact;
      over += f.overhead(p);
    }
    segment(keys[0], exact, false);
    for (std::size_t p = 0; p <= std::size_t(j); ++p)
      segment(keys[p + 1], f.account.bytes.passes[p].coded() - f.account.classes[p].states, p == 0);
    segment(keys.back(), over, false);
    c.text(left - 10, y + bar / 2 + 4.5, format("level %d", j), "end", "name");
    const codec_row& r = f.level(j);
    c.text(at + 10, y + bar / 2 + 4.5, format("%.2f bits, %.1f×", f.bits(r.bytes), f.ratio(r.bytes)), "start", "label");
  }
  return c.str();
}

std::string overhead_chart(const facts& f) {
  const int level = f.chosen_level();
  sluice::pass_account sum;
  for (int p = 0; p <= level; ++p) sum += f.account.bytes.passes[std::size_t(p)];
  struct part {
    const char* name;
    std::size_t bytes;
    const char* css;
  };
  const part parts[] = {{"coder states", f.account.classes_of(std::size_t(level) + 1).states, "o0"},
                        {"index and checksums", f.account.bytes.index, "o1"},
                        {"tile heads", sum.heads, "o2"}};
  std::size_t all = 0;
  for (const part& p : parts) all += p.bytes;
  constexpr double left = 92, right = width - 160, bar = 22;
  svg::canvas c(width, 62, "What the overhead consists of");
  c.text(left - 10, 8 + bar / 2 + 4.5, "overhead", "end", "name");
  double at = left;
  std::vector<key> keys;
  for (const part& p : parts) {
    const double w = (right - left) * double(p.bytes) / double(all);
    c.rect(at, 8, w, bar, std::string("fill ") + p.css, format("%s: %zu bytes", p.name, p.bytes));
    keys.push_back({format("%s %.2f %%", p.name, 100 * double(p.bytes) / double(f.level(level).bytes)), p.css});
    at += w;
  }
  legend(c, left, 52, keys);
  c.text(right + 10, 8 + bar / 2 + 4.5,
         format("%.2f %% of level %d", 100 * double(all) / double(f.level(level).bytes), level), "start", "label");
  return c.str();
}

std::string layers_chart(const facts& f) {
  constexpr double left = 70, right = width - 20, height = 120, gap = 58, top = 34;
  const int level = f.chosen_level();
  const codec_row& r = f.level(level);
  std::vector<std::array<double, 2>> bytes(std::size_t(f.layers)), error(bytes), loss(bytes);
  for (std::size_t l = 0; l < bytes.size(); ++l) {
    for (int p = 0; p <= level; ++p)
      for (std::size_t i : {0u, 1u}) bytes[l][i] += double(f.account.bytes.passes[std::size_t(p)].layers[l][i]) / 1e3;
    error[l] = {100 * r.layer_error[l], 0};
    loss[l] = {1e3 * r.layer_kl[l][0], 1e3 * r.layer_kl[l][1]};
  }
  svg::canvas c(width, top + 2 * (height + gap) + height + 24, "Bytes, error and expected loss of each layer");
  const double pitch = (right - left) / f.layers;
  const auto panel = [&](int n, const char* name, const auto& data, bool stacked, const char* unit) {
    const double y0 = top + n * (height + gap) + height;
    double high = 0;
    for (const auto& d : data) high = std::max(high, d[0] + d[1]);
    const svg::scale y{0, high * 1.05, y0, y0 - height};
    for (double t : svg::ticks(y.high, 4)) {
      c.line(left, y(t), right, y(t), "grid");
      c.text(left - 10, y(t) + 4, format(unit, t), "end", "tick");
    }
    for (std::size_t l = 0; l < data.size(); ++l) {
      const double x = left + pitch * double(l) + pitch * 0.14, w = pitch * 0.72;
      c.rect(x, y(data[l][0]), w, y0 - y(data[l][0]), stacked ? "fill k" : "fill both",
             format("layer %zu%s: %.3g", l, stacked ? " K" : "", data[l][0]));
      if (stacked)
        c.rect(x, y(data[l][0] + data[l][1]), w, y(data[l][0]) - y(data[l][0] + data[l][1]), "fill v",
               format("layer %zu V: %.3g", l, data[l][1]));
    }
    c.line(left, y0, right, y0, "axis");
    c.text(left, y0 - height - 12, name, "start", "name");
    for (int l = 0; l < f.layers; l += 5)
      c.text(left + pitch * (l + 0.5), y0 + 17, format(l ? "%d" : "layer %d", l), "middle", "tick");
  };
  panel(0, "kilobytes", bytes, true, "%g");
  panel(1, "error of attention outputs", error, false, "%g %%");
  panel(2, "expected loss, thousandths of a nat", loss, true, "%g");
  for (int n : {0, 2}) {
    const double y = top + n * (height + gap) - 21;
    c.rect(right - 74, y, 12, 12, "fill k");
    c.text(right - 57, y + 10, "K", "start", "label");
    c.rect(right - 32, y, 12, 12, "fill v");
    c.text(right - 15, y + 10, "V", "start", "label");
  }
  return c.str();
}
