// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <string>
#include <string_view>
#include <vector>

/// The little that plots need: text, scales, shapes, and labels that keep out of each other's way.
namespace svg {

inline std::string format(const char* pattern, auto... args) {
  char text[1024];
  std::snprintf(text, sizeof text, pattern, args...);
  return text;
}

inline std::string escape(std::string_view s) {
  std::string out;
  for (char c : s)
    out += c == '<' ? "&lt;" : c == '>' ? "&gt;" : c == '&' ? "&amp;" : c == '"' ? "&quot;" : std::string(1, c);
  return out;
}

/// Maps values to places, by their logarithm or as they are.
struct scale {
  double low, high, from, to;
  bool log = false;
  double operator()(double v) const {
    const double share = log ? std::log(v / low) / std::log(high / low) : (v - low) / (high - low);
    return from + share * (to - from);
  }
};

/// 1, 2, 5, 10, 20, ... between two positive values.
inline std::vector<double> log_ticks(double low, double high) {
  std::vector<double> out;
  for (double decade = std::pow(10, std::floor(std::log10(low))); decade <= high; decade *= 10)
    for (double step : {1.0, 2.0, 5.0})
      if (decade * step >= low * 0.999 && decade * step <= high * 1.001) out.push_back(decade * step);
  return out;
}

/// About `count` round steps from 0.
inline std::vector<double> ticks(double high, int count) {
  const double rough = high / count, decade = std::pow(10, std::floor(std::log10(rough)));
  const double step = decade * (rough <= decade ? 1 : rough <= 2 * decade ? 2 : rough <= 5 * decade ? 5 : 10);
  std::vector<double> out;
  for (int i = 0; i * step <= high * 1.001; ++i) out.push_back(i * step);
  return out;
}

inline double text_width(std::string_view s, double size = 13) { return 0.61 * size * double(s.size()); }

/// One drawing. Colours and type come from the page: every shape has a class.
class canvas {
 public:
  canvas(double width, double height, std::string_view what)
      : body_(format("<svg viewBox=\"0 0 %g %g\" role=\"img\" aria-label=\"%s\">\n", width, height,
                     escape(what).c_str())) {}

  void line(double x1, double y1, double x2, double y2, const char* css) {
    body_ += format("<line class=\"%s\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>\n", css, x1, y1, x2, y2);
  }
  void rect(double x, double y, double w, double h, const std::string& css, std::string_view tip = {}) {
    body_ += format("<rect class=\"%s\" x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\">%s</rect>\n", css.c_str(),
                    x, y, std::max(w, 0.0), std::max(h, 0.0), title(tip).c_str());
  }
  void circle(double x, double y, double r, const std::string& css, std::string_view tip = {}) {
    body_ += format("<circle class=\"%s\" cx=\"%.1f\" cy=\"%.1f\" r=\"%g\">%s</circle>\n", css.c_str(), x, y, r,
                    title(tip).c_str());
  }
  void curve(const std::vector<double>& x, const std::vector<double>& y, const std::string& css) {
    body_ += "<polyline class=\"" + css + "\" points=\"";
    for (std::size_t i = 0; i < x.size(); ++i) body_ += format("%.1f,%.1f ", x[i], y[i]);
    body_ += "\"/>\n";
  }
  /// anchor: start, middle or end.
  void text(double x, double y, std::string_view s, const char* anchor = "start", const std::string& css = {}) {
    body_ += format("<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\" class=\"%s\">%s</text>\n", x, y, anchor,
                    css.c_str(), escape(s).c_str());
  }
  std::string str() const { return body_ + "</svg>\n"; }

 private:
  static std::string title(std::string_view tip) { return tip.empty() ? "" : "<title>" + escape(tip) + "</title>"; }
  std::string body_;
};

/// Moves places apart until neighbours are at least `gap` from each other, keeping their order and staying above `low`.
inline std::vector<double> spread(const std::vector<double>& wanted, double gap, double low, double high) {
  std::vector<std::size_t> order(wanted.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return wanted[a] < wanted[b]; });
  std::vector<double> at = wanted;
  for (int round = 0; round < 200; ++round)
    for (std::size_t i = 0; i + 1 < order.size(); ++i) {
      double &a = at[order[i]], &b = at[order[i + 1]];
      const double lack = gap - (b - a);
      if (lack > 0) a -= lack / 2, b += lack / 2;
      a = std::max(a, low + gap * double(i));
      b = std::min(b, high - gap * double(order.size() - 2 - i));
    }
  return at;
}

/// Finds free places for labels beside points: right, left, above or below, further away where it is crowded.
class labels {
 public:
  explicit labels(double size = 13) : size_(size) {}
  void block(double x, double y, double w, double h) { taken_.push_back({x, y, w, h}); }
  void block_point(double x, double y, double r) { block(x - r, y - r, 2 * r, 2 * r); }
  /// A line is kept free by blocking small pieces of it.
  void block_line(double x1, double y1, double x2, double y2) {
    const int n = int(std::hypot(x2 - x1, y2 - y1) / 4) + 1;
    for (int i = 0; i <= n; ++i) block_point(x1 + (x2 - x1) * i / n, y1 + (y2 - y1) * i / n, 2);
  }

  struct place {
    double x, y;
    const char* anchor;
  };
  place find(double x, double y, std::string_view s) {
    const double w = text_width(s, size_), up = 0.8 * size_;
    for (double away = 10; away < 60; away += 6) {
      const place tries[] = {{x + away, y + 0.35 * size_, "start"},
                             {x - away, y + 0.35 * size_, "end"},
                             {x, y - away, "middle"},
                             {x, y + away + up, "middle"},
                             {x + 0.7 * away, y - 0.7 * away, "start"},
                             {x - 0.7 * away, y - 0.7 * away, "end"},
                             {x + 0.7 * away, y + 0.7 * away + up, "start"},
                             {x - 0.7 * away, y + 0.7 * away + up, "end"}};
      for (const place& p : tries) {
        const double left = p.anchor[0] == 's' ? p.x : p.anchor[0] == 'e' ? p.x - w : p.x - w / 2;
        const box b{left - 2, p.y - up, w + 4, size_};
        if (std::any_of(taken_.begin(), taken_.end(), [&](const box& o) { return b.overlaps(o); })) continue;
        taken_.push_back(b);
        return p;
      }
    }
    return {x + 10, y, "start"};
  }

 private:
  struct box {
    double x, y, w, h;
    bool overlaps(const box& o) const { return x < o.x + o.w && o.x < x + w && y < o.y + o.h && o.y < y + h; }
  };
  double size_;
  std::vector<box> taken_;
};

}  // namespace svg
