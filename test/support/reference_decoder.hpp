// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <stdexcept>
#include <utility>
#include <vector>

/// A decoder written from FORMAT.md alone, in the order of its sections, one number at a time; it shares nothing with the
/// library but the table of classes, which is part of the document. What is wrong is thrown.
namespace reference {

using bytes = std::span<const std::uint8_t>;

inline void require(bool fact, const char* what) {
  if (!fact) throw std::runtime_error(what);
}

// --- 2 conventions

class reader {
 public:
  explicit reader(bytes b) : left_(b) {}
  bytes take(std::size_t n) {
    require(n <= left_.size(), "ends too early");
    const bytes taken = left_.first(n);
    left_ = left_.subspan(n);
    return taken;
  }
  template <class T>
  T get() {
    T x;
    std::memcpy(&x, take(sizeof x).data(), sizeof x);
    return x;
  }
  std::size_t left() const { return left_.size(); }
  void only_padding(std::size_t most) {
    require(left_.size() < most, "more than padding");
    for (std::uint8_t b : take(left_.size())) require(b == 0, "padding");
  }

 private:
  bytes left_;
};

inline double half(std::uint16_t h) {
  const int exponent = h >> 10 & 31, mantissa = h & 1023;
  const double magnitude = exponent == 31 ? (mantissa ? NAN : INFINITY)
                           : exponent     ? std::ldexp(1024 + mantissa, exponent - 25)
                                          : std::ldexp(mantissa, -24);
  return h & 0x8000 ? -magnitude : magnitude;
}

inline double element(const std::uint8_t* p, int type) {
  std::uint16_t h = 0;
  switch (type) {
    case 0: {
      float f;
      std::memcpy(&f, p, 4);
      return double(f);
    }
    case 1: std::memcpy(&h, p, 2); return half(h);
    case 2: {
      std::memcpy(&h, p, 2);
      const std::uint32_t wide = std::uint32_t{h} << 16;
      float f;
      std::memcpy(&f, &wide, 4);
      return double(f);
    }
    case 3: {
      const int exponent = *p >> 3 & 15, mantissa = *p & 7;
      const double magnitude = exponent == 15 && mantissa == 7 ? NAN
                               : exponent                      ? std::ldexp(8 + mantissa, exponent - 10)
                                                               : std::ldexp(mantissa, -9);
      return *p & 128 ? -magnitude : magnitude;
    }
    case 4: return half(std::uint16_t(*p << 8));
    default: return 0;
  }
}
inline std::size_t size_of(int type) { return type == 0 ? 4 : type <= 2 ? 2 : 1; }

// --- 2.1 checksum

inline std::uint32_t rotl(std::uint32_t x, int n) { return x << n | x >> (32 - n); }
inline std::uint32_t mix(std::uint32_t a, std::uint32_t w) { return rotl(a + w * 2246822519u, 13) * 2654435761u; }

inline std::uint32_t checksum(bytes b, std::uint32_t seed) {
  std::uint32_t lane[32];
  for (std::uint32_t i = 0; i < 32; ++i) lane[i] = seed + 374761393u * (i + 1);
  std::vector<std::uint8_t> padded(b.begin(), b.end());
  padded.resize((b.size() + 127) / 128 * 128);
  for (std::size_t j = 0; j < padded.size() / 4; ++j) {
    std::uint32_t word;
    std::memcpy(&word, &padded[4 * j], 4);
    lane[j % 32] = mix(lane[j % 32], word);
  }
  std::uint32_t h = mix(mix(seed, std::uint32_t(b.size())), std::uint32_t(std::uint64_t{b.size()} >> 32));
  for (std::uint32_t x : lane) h = rotl(h + x * 3266489917u, 17) * 668265263u;
  h = (h ^ h >> 15) * 2246822519u;
  h = (h ^ h >> 13) * 3266489917u;
  return h ^ h >> 16;
}

// --- 7 profile

struct rope {
  int pairing, scaling, rotary_dims;
  double base, factor, low_freq, high_freq, original_context, attention_factor;
};
struct layer {
  std::int32_t heads, dim[2], rope, window;
};
struct plane {
  std::int32_t width, group_width;
  double scale;
  std::vector<std::uint8_t> classes;
  std::vector<double> mean, matrix;  // the matrices of all groups, one after the other
};
struct optional_section {
  int stage, id;
  std::uint64_t fingerprint;
  std::vector<std::uint8_t> content;
};
struct profile {
  std::uint64_t fingerprint;
  int passes, sinks;
  std::vector<rope> ropes;
  std::vector<layer> layers;
  std::vector<plane> planes;  // K and V of a layer, layer by layer
  std::vector<optional_section> sections;

  const optional_section& section(int stage, int id) const {
    for (const optional_section& s : sections)
      if (s.stage == stage && s.id == id) return s;
    throw std::runtime_error("no such section");
  }
};

inline std::uint64_t fingerprint_of(bytes b) {
  return std::uint64_t{checksum(b, 0x736c7563)} << 32 | checksum(b, 0x65707266);
}

inline profile read_profile(bytes file) {
  require(file.size() >= 92 && checksum(file.first(file.size() - 4), 0) == reader(file.last(4)).get<std::uint32_t>(),
          "profile checksum");
  reader head(file);
  require(head.get<std::uint32_t>() == 0x50434c53, "profile magic");
  require(head.get<std::uint16_t>() == 2 && head.get<std::uint16_t>() == 0, "profile version");
  const auto size = head.get<std::uint64_t>();
  profile p{};
  p.fingerprint = head.get<std::uint64_t>();
  head.take(64);
  require(head.left() - 4 == size, "profile size");
  const bytes body = head.take(size);

  // Four sections of known owners, then others, of which only optional ones may be unknown.
  const std::pair<int, int> own[] = {{0, 0}, {2, 1}, {3, 1}, {5, 1}};
  bytes section[4];
  std::vector<std::uint8_t> hashed;
  reader all(body);
  for (std::size_t i = 0; all.left() > 0; ++i) {
    const bytes head_bytes = all.take(8);
    reader h(head_bytes);
    const int stage = h.get<std::uint8_t>(), id = h.get<std::uint8_t>(), flags = h.get<std::uint16_t>();
    const bytes content = all.take(h.get<std::uint32_t>());
    if (i < 4) require(stage == own[i].first && id == own[i].second && flags == 0, "profile section");
    if (i >= 4) require(flags == 1, "unknown section of a profile");
    if (i < 4) section[i] = content;
    if (flags) {
      std::vector<std::uint8_t> both(8);
      std::memcpy(both.data(), &p.fingerprint, 8);
      both.insert(both.end(), head_bytes.begin(), head_bytes.end());
      both.insert(both.end(), content.begin(), content.end());
      p.sections.push_back({stage, id, fingerprint_of(both), {content.begin(), content.end()}});
      continue;
    }
    hashed.insert(hashed.end(), head_bytes.begin(), head_bytes.end());
    hashed.insert(hashed.end(), content.begin(), content.end());
  }
  require(p.fingerprint == fingerprint_of(hashed), "fingerprint");

  reader r(section[0]);
  p.sinks = r.get<std::uint8_t>();
  require(r.get<std::uint8_t>() == 0, "reserved");
  p.ropes.resize(r.get<std::uint16_t>());
  p.layers.resize(r.get<std::uint32_t>());
  for (rope& e : p.ropes) {
    e.pairing = r.get<std::uint8_t>();
    e.scaling = r.get<std::uint8_t>();
    require(r.get<std::uint16_t>() == 0, "reserved");
    e.rotary_dims = r.get<std::int32_t>();
    for (double* d : {&e.base, &e.factor, &e.low_freq, &e.high_freq, &e.original_context, &e.attention_factor})
      *d = r.get<double>();
  }
  for (layer& l : p.layers)
    for (std::int32_t* v : {&l.heads, &l.dim[0], &l.dim[1], &l.rope, &l.window}) *v = r.get<std::int32_t>();
  for (const layer& l : p.layers) {
    require((l.heads == 0) == (l.dim[0] == 0 && l.dim[1] == 0), "half a layer");
    require(l.heads || (l.rope == 0 && l.window == 0), "absent layer");
    for (const std::int32_t dim : l.dim) {
      plane q{};
      q.width = l.heads * dim;
      q.group_width = r.get<std::int32_t>();
      p.planes.push_back(std::move(q));
    }
  }
  require(r.left() == 0, "model section");

  reader transform(section[1]), quantizer(section[2]), entropy(section[3]);
  p.passes = int(quantizer.get<std::uint32_t>());
  for (plane& q : p.planes) {
    quantizer.take(28);
    q.scale = double(transform.get<float>());
    const bool calibrated = transform.get<std::uint32_t>() != 0;
    for (int c = 0; calibrated && c < q.width; ++c) q.mean.push_back(half(transform.get<std::uint16_t>()));
    for (int g = 0; calibrated && g < q.width; g += q.group_width) {
      const int w = std::min(q.group_width, q.width - g);
      for (int c = 0; c < w * w; ++c) q.matrix.push_back(half(transform.get<std::uint16_t>()));
    }
    require((entropy.get<std::uint32_t>() != 0) == calibrated, "half a plane");
    const bytes c = entropy.take(calibrated ? std::size_t(q.width) : 0);
    q.classes.assign(c.begin(), c.end());
  }
  require(transform.left() == 0 && quantizer.left() == 0 && entropy.left() == 0, "profile body");
  return p;
}

// --- 6.6 prediction: its section

struct predicted_plane {
  plane left;  // what prediction leaves
  int features = 0;
  double scale = 0;
  std::vector<double> matrix;  // [features][width]
};
struct prediction {
  int sources = 0, rank = 0, span = 0;
  std::uint32_t vocab = 0;
  std::vector<predicted_plane> planes;  // as the profile's
  std::vector<double> latent_scale;
  std::vector<std::int8_t> latents;

  // The nearest layer below that holds anything, of those that it may depend on; -1 = none.
  int below(const profile& p, int layer) const {
    int first = span ? layer / (span + 1) * (span + 1) : 0, l = layer - 1;
    while (l >= first && p.layers[std::size_t(l)].heads == 0) --l;
    return l >= first ? l : -1;
  }
};

inline prediction read_prediction(const profile& p, int id) {
  const optional_section& s = p.section(1, id);
  reader r(s.content);
  prediction m;
  require(r.get<std::uint8_t>() == 1, "version of a prediction");
  m.sources = r.get<std::uint8_t>();
  m.rank = r.get<std::uint16_t>();
  m.vocab = r.get<std::uint32_t>();
  m.span = int(r.get<std::uint32_t>());
  require(m.sources == id, "sources");
  for (const plane& own : p.planes) {
    predicted_plane& q = m.planes.emplace_back();
    q.left = own;
    if (own.width == 0) continue;
    q.features = int(r.get<std::uint32_t>());
    if (q.features == 0) continue;
    q.left.scale = double(r.get<float>());
    for (double& x : q.left.mean) x = half(r.get<std::uint16_t>());
    for (double& x : q.left.matrix) x = half(r.get<std::uint16_t>());
    for (std::uint8_t& c : q.left.classes) c = r.get<std::uint8_t>();
    q.scale = double(r.get<float>());
    for (int i = 0; i < q.features * own.width; ++i) q.matrix.push_back(half(r.get<std::uint16_t>()));
  }
  for (int i = 0; i < m.rank; ++i) m.latent_scale.push_back(double(r.get<float>()));
  for (std::size_t i = 0; m.rank && i < std::size_t(m.rank) * m.vocab; ++i) m.latents.push_back(r.get<std::int8_t>());
  require(r.left() == 0, "bytes after a prediction");
  return m;
}

// --- 4.1 row classes

struct row_class {
  int step = 0, spread = 0;
  double factor() const {
    constexpr float quarter[] = {1.f, 1.18920712f, 1.41421356f, 1.68179283f};
    const int of = (step % 4 + 4) % 4;
    return std::ldexp(double(quarter[of]), (step - of) / 4);
  }
};
struct row_classes {
  std::vector<row_class> classes{row_class{}};
  std::vector<int> of;  // of every row
  std::vector<int> order() const {
    std::vector<int> rows(of.size());
    for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = int(i);
    std::stable_sort(rows.begin(), rows.end(), [&](int a, int b) { return of[std::size_t(a)] < of[std::size_t(b)]; });
    return rows;
  }
};

inline row_classes open_row_classes(bytes section, int rows) {
  row_classes c;
  c.of.assign(std::size_t(rows), 0);
  if (section.empty()) return c;
  require(rows > 0, "classes of no rows");
  reader r(section);
  c.classes.resize(std::size_t(r.get<std::uint8_t>()) + 1);
  require(c.classes.size() <= 16, "classes of rows");
  for (row_class& x : c.classes) {
    x.step = r.get<std::int8_t>();
    x.spread = r.get<std::int8_t>();
    require(std::abs(x.step) <= 48 && std::abs(x.spread) <= 63, "class of rows");
  }
  std::size_t b = 0, at = 0;
  while (std::size_t{1} << b < c.classes.size()) ++b;
  const bytes packed = r.take((std::size_t(rows) * b + 7) / 8);
  require(r.left() == 0, "bytes after row classes");
  for (int& x : c.of) {
    for (std::size_t i = 0; i < b; ++i, ++at) x |= (packed[at / 8] >> at % 8 & 1) << i;
    require(std::size_t(x) < c.classes.size(), "class of a row");
  }
  for (; at < 8 * packed.size(); ++at) require((packed[at / 8] >> at % 8 & 1) == 0, "padding");
  return c;
}

// --- 5.1 classes

struct class_row {
  std::uint8_t base[15], digits, zero[2], other[2];
};
inline constexpr class_row class_rows[256] = {
#include <sluice/codec/entropy/class_rans/classes_data.inl>
};
inline const class_row& at_pass(int cls, int back) {
  constexpr int shift[] = {0, 6, 13, 19, 25, 32};
  return class_rows[cls / 64 * 64 + std::max(0, cls % 64 - shift[back])];
}
inline bool dead(const class_row& c) { return c.base[0] == 255; }

// --- 5.3 rANS: one lane's symbol under thresholds

struct states {
  std::uint32_t x[32];
};

inline states plain_states(reader& in) {
  states s;
  for (std::uint32_t& x : s.x) require((x = in.get<std::uint16_t>()) >= 256, "state below 256");
  return s;
}

inline states packed_states(reader& in) {
  const bytes lengths = in.take(12);
  int n[32] = {}, all = 0;
  for (int i = 0; i < 96; ++i) n[i / 3] |= (lengths[std::size_t(i / 8)] >> i % 8 & 1) << i % 3;
  for (int i = 0; i < 32; ++i) all += n[i] + 8;
  const bytes string = in.take(std::size_t(all + 7) / 8);
  states s;
  for (int i = 0, at = 0; i < 32; ++i) {
    s.x[i] = 1u << (n[i] + 8);
    for (int k = 0; k < n[i] + 8; ++k, ++at) s.x[i] |= (string[std::size_t(at / 8)] >> at % 8 & 1u) << k;
  }
  return s;
}

class rans {
 public:
  // A code of so many blocks, all rows together; one that goes on has no tail.
  rans(const states& begin, reader in, int blocks, bool goes_on) : in_(in), state_(begin), left_(blocks) {
    for (std::uint32_t x : state_.x) require(x >= 256, "state below 256");
    if (goes_on) return;
    tail_ = in_.get<std::uint8_t>();
    require(tail_ <= blocks, "tail");
  }
  // Before each block.
  void begin_block() {
    if (left_-- == tail_)
      for (std::uint32_t& x : state_.x) x = (x - 256) & 65535;
  }
  // All lanes decode a symbol at once; thresholds[lane] may be null: the lane codes nothing.
  void step(const std::uint8_t* const (&thresholds)[32], int count, int (&symbol)[32]) {
    for (int i = 0; i < 32; ++i) {
      symbol[i] = 0;
      if (!thresholds[i]) continue;
      const std::uint8_t* t = thresholds[i];
      const std::uint32_t slot = state_.x[i] & 255;
      int s = 0;
      while (s < count && slot > t[s]) ++s;
      const std::uint32_t begin = s ? t[s - 1] + 1u : 0, end = s < count ? t[s] + 1u : 256;
      state_.x[i] = (end - begin) * (state_.x[i] >> 8) + slot - begin;
      symbol[i] = s;
    }
    if (left_ < tail_) return;
    for (std::uint32_t& x : state_.x)
      if (x < 256) x = x * 256 + in_.get<std::uint8_t>();
  }
  states finish() {
    begin_block();  // of a tail of none
    require(in_.left() == 0, "bytes left over");
    for (std::uint32_t x : state_.x) require(tail_ < 0 || x == 0, "end state");
    return state_;
  }

 private:
  reader in_;
  states state_;
  int left_, tail_ = -1;
};

// --- 5.2 symbols; values is [rows][stride]

inline int digit_of(int symbol, int parent) {
  const int r = symbol == 0 ? 0 : symbol == 1 ? -1 : 1;
  return parent < 0 ? -r : r;
}

// The states that the next pass begins with, by part.
using ends = std::vector<states>;

// classes, values: [row][stride].
inline states decode_part(bytes code, const states* begin, bool goes_on, int pass, int back,
                          const std::uint8_t* all_classes, int blocks, const std::vector<int>& order, int* values,
                          int stride) {
  reader in(code);
  const states own = begin ? *begin : packed_states(in);
  rans coder(own, in, int(order.size()) * blocks, goes_on);
  for (const int row : order)
    for (int b = 0; b < blocks; ++b) {
      coder.begin_block();
      int* const v = values + row * stride + 32 * b;
      const std::uint8_t* const classes = all_classes + row * stride;
      const std::uint8_t* t[32];
      int s[32];
      const auto refine = [&](int below, const auto& wanted) {
        for (int i = 0; i < 32; ++i) {
          const class_row& c = at_pass(classes[32 * b + i], below);
          t[i] = !wanted(i) ? nullptr : v[i] == 0 ? c.zero : c.other;
        }
        coder.step(t, 2, s);
        for (int i = 0; i < 32; ++i)
          if (t[i]) v[i] = std::int16_t(3 * v[i] + digit_of(s[i], v[i]));
      };
      if (pass) {
        refine(back, [](int) { return true; });
        continue;
      }
      int most = 0;
      for (int i = 0; i < 32; ++i) {
        const class_row& c = at_pass(classes[32 * b + i], back);
        t[i] = c.base;
        most = std::max<int>(most, c.digits);
      }
      coder.step(t, 15, s);
      for (int i = 0; i < 32; ++i) v[i] = (s[i] >> 1) ^ -(s[i] & 1);
      for (int k = most; k >= 1; --k) {
        // Tables of the class in the base pass, shift[k - 1] further down.
        for (int i = 0; i < 32; ++i) {
          constexpr int shift[] = {0, 6, 13, 19, 25, 32};
          const int cls = classes[32 * b + i], w = std::max(0, cls % 64 - shift[back]);
          const class_row& c = class_rows[cls / 64 * 64 + std::max(0, w - shift[k - 1])];
          t[i] = at_pass(cls, back).digits < k ? nullptr : v[i] == 0 ? c.zero : c.other;
        }
        coder.step(t, 2, s);
        for (int i = 0; i < 32; ++i)
          if (t[i]) v[i] = std::int16_t(3 * v[i] + digit_of(s[i], v[i]));
      }
    }
  return coder.finish();
}

// `before` = of the pass before, if that goes on.
inline ends decode_code(bytes code, const ends& before, bool goes_on, int pass, int back, const std::uint8_t* classes,
                        int blocks, const std::vector<int>& order, int* values, int stride) {
  ends after;
  if (blocks == 0) require(code.empty(), "a code of nothing");
  if (blocks == 0) return after;
  const int parts = (blocks + 7) / 8;
  reader in(code);
  std::vector<std::uint32_t> sizes(std::size_t(parts), std::uint32_t(code.size()));
  for (std::uint32_t& n : sizes)
    if (parts > 1) n = in.get<std::uint32_t>();
  for (int part = 0; part < parts; ++part)
    after.push_back(decode_part(
        in.take(sizes[std::size_t(part)]), std::size_t(part) < before.size() ? &before[std::size_t(part)] : nullptr,
        goes_on, pass, back, classes + 256 * part, std::min(8, blocks - 8 * part), order, values + 256 * part, stride));
  require(in.left() == 0, "parts do not fill the code");
  return goes_on ? after : ends{};
}

// --- 6.2 rotary embedding

inline std::vector<double> frequencies(const rope& r, int d) {
  std::vector<double> f(std::size_t(d / 2));
  const double base = r.scaling == 2 ? r.base * std::pow(r.factor, double(d) / (d - 2)) : r.base, pi = std::acos(-1.0);
  const auto correction = [&](double turns) {
    return d * std::log(r.original_context / (turns * 2 * pi)) / (2 * std::log(base));
  };
  double begin = 0, end = 0;
  if (r.scaling == 3 || r.scaling == 5) {
    begin = correction(r.high_freq), end = correction(r.low_freq);
    if (r.scaling == 3) begin = std::floor(begin), end = std::ceil(end);
    begin = std::max(begin, 0.0), end = std::min(end, d - 1.0);
    if (begin == end) end += 0.001;
  }
  for (int i = 0; i < d / 2; ++i) {
    double x = std::pow(base, -2.0 * i / d);
    if (r.scaling == 1) x /= r.factor;
    if (r.scaling == 3 || r.scaling == 5) {
      const double ramp = std::clamp((i - begin) / (end - begin), 0.0, 1.0);
      x = x / r.factor * ramp + x * (1 - ramp);
    }
    if (r.scaling == 4) {
      const double turns = r.original_context * x / (2 * pi);
      const double smooth = std::clamp((turns - r.low_freq) / (r.high_freq - r.low_freq), 0.0, 1.0);
      x = (1 - smooth) * x / r.factor + smooth * x;
    }
    f[std::size_t(i)] = x;
  }
  return f;
}

inline void rotate(double* head, const rope& r, int dim, double position) {
  if (r.pairing == 0) return;
  const int d = r.rotary_dims ? r.rotary_dims : dim;
  const std::vector<double> f = frequencies(r, d);
  for (int i = 0; i < d / 2; ++i) {
    double &a = head[r.pairing == 1 ? i : 2 * i], &b = head[r.pairing == 1 ? i + d / 2 : 2 * i + 1];
    const double c = std::cos(position * f[std::size_t(i)]) * r.attention_factor,
                 s = std::sin(position * f[std::size_t(i)]) * r.attention_factor;
    const double x = a * c - b * s;
    b = b * c + a * s;
    a = x;
  }
}

// --- 6.3 packed codes, [row][32 * blocks]

inline std::vector<int> unpack(bytes in, int width, int rows, int blocks) {
  std::vector<int> out(std::size_t(rows * blocks * 32));
  reader r(in);
  for (int first = 0; first < rows; first += 8)
    for (int b = 0; b < blocks; ++b) {
      const int m = std::min(8, rows - first);
      int above = 0;
      for (int part = 8; part; part /= 2) {
        if (!(width & part)) continue;
        const int per_plane = 8 / part;
        for (int p = 0; p < (m * part + 7) / 8; ++p) {
          const bytes plane_bytes = r.take(32);
          for (int j = p * per_plane; j < std::min(m, (p + 1) * per_plane); ++j)
            for (int i = 0; i < 32; ++i)
              out[std::size_t(((first + j) * blocks + b) * 32 + i)] |=
                  (plane_bytes[std::size_t(i)] >> part * (j % per_plane) & ((1 << part) - 1)) << above;
        }
        above += part;
      }
    }
  require(r.left() == 0, "bytes after the codes");
  return out;
}

// --- 6.4 split exponent

inline std::vector<std::uint8_t> unsplit(bytes in, int type, int rows, int n) {
  const std::size_t size = size_of(type);
  std::vector<std::uint8_t> out(std::size_t(rows) * std::size_t(n) * size);
  const int strip = type == 5 ? 128 : 256;
  reader r(in);
  for (int first = 0; first < n; first += strip) {
    const int wide = std::min(strip, n - first);
    const int kind = r.get<std::uint8_t>();
    require(kind == 0 || kind == 1 || (kind == 2 && type == 5), "kind of strip");
    if (kind == 0) {
      for (int row = 0; row < rows; ++row) {
        const bytes b = r.take(std::size_t(wide) * size);
        std::copy(b.begin(), b.end(), &out[(std::size_t(row) * std::size_t(n) + std::size_t(first)) * size]);
      }
      continue;
    }
    constexpr int all_bits[] = {32, 16, 16, 8, 8, 8}, mantissas[] = {23, 10, 7, 3, 2, 5};
    const int bits = kind == 2 ? 4 : all_bits[type], mantissa = kind == 2 ? 2 : mantissas[type];
    const int columns = kind == 2 ? 2 * wide : wide;
    const auto counts = r.get<std::uint8_t>(), dropped = r.get<std::uint8_t>();
    require(r.get<std::uint8_t>() == 0, "reserved");
    const int symbols = (counts & 15) + 1, tables = (counts >> 4) + 1;
    const bool has_sign = type != 5;
    require(symbols >= 2 && dropped <= (has_sign ? mantissa : 0), "head of a strip");
    const auto strip_size = r.get<std::uint32_t>(), escapes = r.get<std::uint32_t>();
    require(strip_size >= 12, "strip size");
    reader s(r.take(strip_size - 12));
    // Thresholds of each table, from its frequencies.
    std::vector<std::uint8_t> thresholds(std::size_t(tables * 15), 255);
    for (int t = 0; t < tables; ++t) {
      int sum = 0;
      for (int k = 0; k + 1 < symbols; ++k) {
        sum += s.get<std::uint8_t>() + (k == 0);
        require(sum <= 256, "frequencies");
        thresholds[std::size_t(15 * t + k)] = std::uint8_t(sum - 1);
      }
    }
    const bytes modes = s.take(std::size_t(columns));
    const int m = mantissa - dropped, b = bits - dropped;
    const std::uint64_t mask = (std::uint64_t{1} << b) - 1;
    struct column {
      int mode, shift, field;
      std::uint64_t base;
      bool escape;
      const std::uint8_t* table;
    };
    std::vector<column> c(static_cast<std::size_t>(columns));
    std::size_t row_bits = 0;
    for (int i = 0; i < columns; ++i) {
      column& x = c[std::size_t(i)];
      x.mode = modes[std::size_t(i)] & 15;
      require(modes[std::size_t(i)] >> 4 < tables && (x.mode || has_sign), "table or mode");
      x.table = &thresholds[std::size_t(15 * (modes[std::size_t(i)] >> 4))];
      x.shift = x.mode == 0 ? m : x.mode == 1 ? 0 : m + 3 - x.mode;
      x.field = x.mode == 0 ? m + 1 : x.mode == 1 ? 0 : x.shift;
      require(x.shift >= 0, "mode");
      std::uint64_t base = 0;
      const bytes given = s.take(x.mode == 0 ? 1 : kind == 2 ? 1 : size);
      std::memcpy(&base, given.data(), given.size());
      x.base = x.mode == 0 ? base << m : base;
      const double cells = x.mode == 0 ? std::exp2(bits - 1 - mantissa) : x.mode == 1 ? 1 : std::exp2(b - x.shift);
      x.escape = cells > symbols;
      row_bits += std::size_t(x.field);
    }
    const std::size_t row_bytes = (row_bits + 7) / 8;
    const bytes fields = s.take(row_bytes * std::size_t(rows));
    reader escaped(s.take(escapes * (kind == 2 ? 1 : size)));
    const states begin = plain_states(s);
    rans coder(begin, s, rows * ((columns + 31) / 32), false);
    for (int row = 0; row < rows; ++row) {
      std::size_t bit = 8 * row_bytes * std::size_t(row);
      std::vector<std::uint64_t> v(static_cast<std::size_t>(columns));
      for (int block = 0; block < (columns + 31) / 32; ++block) {
        coder.begin_block();
        const std::uint8_t* t[32];
        int symbol[32];
        for (int i = 0; i < 32; ++i) {
          const int at = 32 * block + i;
          t[i] = at < columns && c[std::size_t(at)].mode != 1 ? c[std::size_t(at)].table : nullptr;
        }
        coder.step(t, symbols - 1, symbol);
        for (int i = 0; i < 32 && 32 * block + i < columns; ++i) {
          const column& x = c[std::size_t(32 * block + i)];
          std::uint64_t field = 0;
          for (int k = 0; k < x.field; ++k, ++bit) field |= std::uint64_t(fields[bit / 8] >> bit % 8 & 1) << k;
          std::uint64_t value = x.base - (std::uint64_t(symbol[i]) << x.shift);
          if (x.mode == 0)
            value += (field & ((std::uint64_t{1} << m) - 1)) + (field >> m << (b - 1));
          else if (x.mode > 1)
            value += field;
          value = (value & mask) << dropped;
          if (x.escape && symbol[i] == symbols - 1) {
            value = 0;
            const bytes given = escaped.take(kind == 2 ? 1 : size);
            std::memcpy(&value, given.data(), given.size());
          }
          v[std::size_t(32 * block + i)] = value;
        }
      }
      for (int i = 0; i < wide; ++i) {
        const std::uint64_t x = kind == 2 ? v[std::size_t(2 * i)] | v[std::size_t(2 * i + 1)] << 4 : v[std::size_t(i)];
        std::memcpy(&out[(std::size_t(row) * std::size_t(n) + std::size_t(first + i)) * size], &x, size);
      }
    }
    coder.finish();
    require(escaped.left() == 0, "escapes left over");
  }
  require(r.left() == 0, "bytes after the strips");
  return out;
}

// --- 6.5 CacheGen's paper

struct distribution {
  std::uint32_t start[257];  // symbol s has the slots from start[s] to start[s + 1] - 1
};

// The block of `percent`: a table for each channel of the model.
inline std::vector<distribution> read_tables(bytes section, int percent, int channels) {
  std::vector<distribution> tables;
  reader r(section);
  while (r.left() > 0) {
    const int of = r.get<std::uint16_t>();
    require(r.get<std::uint16_t>() == 0, "reserved");
    reader block(r.take(r.get<std::uint32_t>()));
    if (of != percent) continue;
    require(tables.empty(), "tables twice");
    for (int c = 0; c < channels; ++c) {
      const int first = block.get<std::uint8_t>(), last = block.get<std::uint8_t>();
      require(first <= last, "window of a table");
      distribution d{};
      for (int s = 0; s < 256; ++s) {
        const int slots = s < first || s > last ? 1 : block.get<std::uint16_t>();
        require(slots > 0, "a symbol without slots");
        d.start[s + 1] = d.start[s] + std::uint32_t(slots);
      }
      require(d.start[256] == 65536, "slots of a table");
      tables.push_back(d);
    }
    require(block.left() == 0, "bytes after the tables");
  }
  require(!tables.empty(), "tables are missing");
  return tables;
}

// rANS with one state.
class one_state {
 public:
  explicit one_state(bytes code) : in_(code), state_(in_.get<std::uint64_t>()) {
    require(state_ >= 1ull << 31 && state_ < 1ull << 63, "state");
  }
  std::uint32_t slot() const { return std::uint32_t(state_ % 65536); }
  void step(std::uint32_t begin, std::uint32_t slots) {
    state_ = slots * (state_ / 65536) + slot() - begin;
    if (state_ < 1ull << 31) state_ = (state_ << 32) + in_.get<std::uint32_t>();
  }
  void finish() const { require(state_ == 1ull << 31 && in_.left() == 0, "end state"); }

 private:
  reader in_;
  std::uint64_t state_;
};

// The integers of all rows; anchors and differences begin at the tile's first channel.
inline std::vector<int> decode_cachegen(bytes code, int rows, int w, const distribution* anchors,
                                        const distribution* differences) {
  one_state coder(code);
  std::vector<int> out;
  for (int row = 0; row < rows; ++row)
    for (int channel = 0; channel < w; ++channel) {
      const distribution& d = (row % 10 ? differences : anchors)[channel];
      int s = 0;
      while (d.start[s + 1] <= coder.slot()) ++s;
      coder.step(d.start[s], d.start[s + 1] - d.start[s]);
      out.push_back(s - 127);
      if (s != 255) continue;
      const std::uint32_t slot = coder.slot();
      coder.step(slot, 1);
      out.back() = int(slot) - 32768;
    }
  coder.finish();
  return out;
}

// The values of all rows, [row][channel].
inline std::vector<float> cachegen_values(const std::vector<int>& q, bytes scales, int rows, int w, float bin) {
  std::vector<float> x;
  reader r(scales);
  float step = 0;
  for (int row = 0; row < rows; ++row) {
    if (row % 10 == 0) {
      const auto scale = r.get<std::uint16_t>();
      require(scale < 0x7c00, "scale of anchors");
      step = float(half(scale)) / 127;
    }
    for (int c = 0; c < w; ++c) {
      const float y = float(q[x.size()]) * (row % 10 ? bin : step);
      x.push_back(row % 10 ? y + x[std::size_t(row / 10 * 10 * w + c)] : y);
    }
  }
  require(r.left() == 0, "scales of nothing");
  return x;
}

// --- 4 tiles

struct envelope {
  int first = 0, count = 0;
  std::vector<int> exact;  // tokens
  bytes exact_rows;
  bytes section[8];
};

inline envelope open_tile(bytes tile, int pass, int tokens, std::size_t row_bytes) {
  envelope e;
  if (pass && tile.empty()) return e;
  reader r(tile);
  int exact = 0;
  if (pass == 0) {
    const int cover = r.get<std::uint16_t>();
    require(cover >> 15 == 0, "reserved");
    e.count = cover & 8191;
    if (cover >> 13 & 1) require((e.first = r.get<std::uint16_t>()) > 0, "first");
    if (cover >> 14 & 1) require((exact = r.get<std::uint16_t>()) > 0, "exact");
    require(e.count >= 1 && e.first + e.count <= tokens && exact <= e.count, "tokens of a tile");
  }
  const int mask = r.get<std::uint8_t>();
  int last = -1;
  for (int i = 0; i < 8; ++i)
    if (mask >> i & 1) last = i;
  std::uint32_t size[8] = {};
  for (int i = 0; i < last; ++i)
    if (mask >> i & 1) require((size[i] = r.get<std::uint32_t>()) > 0, "an empty section");
  for (int i = 0; i < exact; ++i) {
    e.exact.push_back(r.get<std::uint16_t>());
    require(e.exact[std::size_t(i)] < e.count && (i == 0 || e.exact[std::size_t(i)] > e.exact[std::size_t(i - 1)]),
            "exact tokens");
  }
  e.exact_rows = r.take(row_bytes * std::size_t(exact));
  for (int i = 0; i < last; ++i) e.section[i] = r.take(size[i]);
  require((last >= 0) == (r.left() > 0), "the last section");
  if (last >= 0) e.section[last] = r.take(r.left());
  return e;
}
inline constexpr int predictor_section = 0, transform_section = 1, quantizer_section = 2, entropy_section = 3,
                     steps_section = 4;

// --- 5 the section of class_rans

struct exception {
  int row, coefficient, pass;
  std::int32_t correction;
};
struct class_section {
  std::uint32_t mask = 0;  // of blocks whose classes move
  bool goes_on = false;
  bytes nibbles, classes, code;
};

inline class_section open_classes(bytes section, int pass, int rows, int width, std::vector<exception>& corrections) {
  class_section c;
  if (section.empty()) return c;
  reader r(section);
  const int with = r.get<std::uint8_t>(), blocks = (width + 31) / 32;
  require(with <= 15 && !(pass && with & 3), "parts of a section");
  c.goes_on = with & 8;
  if (with & 1) {
    c.mask = r.get<std::uint32_t>();
    require(c.mask && blocks <= 32 && (blocks == 32 || c.mask >> blocks == 0), "mask of deltas");
    int set = 0;
    for (int b = 0; b < 32; ++b) set += c.mask >> b & 1;
    c.nibbles = r.take(std::size_t(16 * set));
  }
  if (with & 2) c.classes = r.take(std::size_t(width));
  if (with & 4) {
    const int n = r.get<std::uint16_t>();
    require(n > 0, "no exceptions");
    for (int i = 0; i < n; ++i) {
      const int row = r.get<std::uint16_t>(), coefficient = r.get<std::uint16_t>();
      corrections.push_back({row, coefficient, pass, r.get<std::int32_t>()});
      require(row < rows && coefficient < width, "exception");
    }
  }
  c.code = r.take(r.left());
  return c;
}

// Coefficients of rows at a level, with what corrects them; P = passes of a complete tile.
inline std::vector<double> decode_classes(std::span<const envelope> tile, const row_classes& of_rows, int width, int P,
                                          const std::uint8_t* known) {
  const int rows = int(of_rows.of.size()), blocks_all = (width + 31) / 32, stride = 32 * blocks_all,
            level = int(tile.size()) - 1;
  std::vector<exception> corrections;
  std::vector<class_section> pass;
  for (int p = 0; p <= level; ++p)
    pass.push_back(open_classes(tile[std::size_t(p)].section[entropy_section], p, rows, width, corrections));
  const class_section& base = pass[0];
  require(known || !base.classes.empty(), "classes are missing");
  require(!base.mask || (known && base.classes.empty()), "deltas of nothing");
  std::vector<std::uint8_t> classes(std::size_t(stride), 0);
  if (!base.classes.empty())
    std::copy(base.classes.begin(), base.classes.end(), classes.begin());
  else
    std::copy_n(known, width, classes.begin());
  for (int block = 0, at = 0; block < 32; ++block) {
    if (!(base.mask >> block & 1)) continue;
    for (int i = 0; i < 32; ++i) {
      int delta = base.nibbles[std::size_t(at + i / 2)] >> (i % 2 ? 4 : 0) & 15;
      if (delta >= 8) delta -= 16;
      std::uint8_t& c = classes[std::size_t(32 * block + i)];
      if (c % 64) c = std::uint8_t(c / 64 * 64 + std::clamp(c % 64 + delta, 1, 63));
    }
    at += 16;
  }
  // Each class of rows moves them.
  std::vector<std::vector<std::uint8_t>> moved;
  for (const row_class& c : of_rows.classes) {
    moved.push_back(classes);
    for (std::uint8_t& k : moved.back())
      if (k % 64 && (c.spread || c.step)) k = std::uint8_t(k / 64 * 64 + std::clamp(k % 64 + c.spread - c.step, 1, 63));
  }
  std::vector<std::uint8_t> all_classes;
  for (const int c : of_rows.of)
    all_classes.insert(all_classes.end(), moved[std::size_t(c)].begin(), moved[std::size_t(c)].end());
  std::vector<int> values(std::size_t(rows * stride));
  int blocks = 0;
  ends before;
  for (int p = 0; p <= level; ++p) {
    for (const auto& of : moved)
      for (int i = 0; i < width; ++i)
        if (!dead(at_pass(of[std::size_t(i)], P - 1 - p))) blocks = std::max(blocks, i / 32 + 1);
    before = decode_code(pass[std::size_t(p)].code, before, pass[std::size_t(p)].goes_on, p, P - 1 - p,
                         all_classes.data(), blocks, of_rows.order(), values.data(), stride);
  }
  std::vector<double> c(values.begin(), values.end());
  for (const exception& e : corrections)  // 5.4
    c[std::size_t(e.row * stride + e.coefficient)] += e.correction * std::pow(3.0, level - e.pass);
  return c;
}

// --- 6.7 fp8 and TurboQuant

inline double fp8_of(int q) {
  const int e = q >> 3 & 15, m = q & 7;
  const double magnitude = e ? std::ldexp(8 + m, e - 10) : std::ldexp(m, -9);
  return q & 128 ? -magnitude : magnitude;
}

inline double level_of(int bits, int q) {
  static constexpr float levels[4][8] = {
      {0.797884561f},
      {0.452780035f, 1.51041761f},
      {0.245094179f, 0.756005281f, 1.34390928f, 2.1519457f},
      {0.12839503f, 0.388048299f, 0.656759119f, 0.942340456f, 1.2562312f, 1.61804639f, 2.06901723f, 2.73258957f}};
  const int half = 1 << (bits - 1);
  return q < half ? -double(levels[bits - 1][half - 1 - q]) : double(levels[bits - 1][q - half]);
}

inline void unturn(double* x, int d, std::uint32_t seed) {
  int b = 1;
  while (2 * b <= d) b *= 2;
  const int rounds = b == d ? 1 : 4;
  std::vector<int> sign(std::size_t(rounds * d));
  for (int& one : sign) one = (seed = 1664525 * seed + 1013904223) >> 31 ? -1 : 1;
  for (int round = rounds; round-- > 0;) {
    if (b < d) std::reverse(x, x + d);
    const std::vector<double> was(x, x + b);
    for (int k = 0; k < b; ++k) {
      x[k] = 0;
      for (int i = 0; i < b; ++i)
        x[k] += __builtin_popcount(unsigned(i & k)) % 2 ? -was[std::size_t(i)] : was[std::size_t(i)];
      x[k] /= std::sqrt(double(b));
    }
    for (int i = 0; i < d; ++i) x[i] *= sign[std::size_t(round * d + i)];
  }
}

// --- 6.8 CacheGen's code: one bit at a time

inline std::vector<int> decode_arithmetic(bytes code, const std::uint16_t* table, int symbols) {
  std::size_t next = 0;
  const auto bit = [&] {
    const std::size_t at = next++;
    return at < 8 * code.size() ? std::uint64_t(code[at / 8] >> (7 - at % 8) & 1) : std::uint64_t{0};
  };
  constexpr std::uint64_t quarter = 1u << 30, middle = 1u << 31;
  std::uint64_t low = 0, high = 2 * middle - 1, v = 0;
  for (int i = 0; i < 32; ++i) v = 2 * v + bit();
  std::vector<int> out;
  while (int(out.size()) < symbols) {
    const std::uint64_t r = high - low + 1, part = ((v - low + 1) * 65536 - 1) / r;
    int s = 31;
    while (table[s] > part) --s;
    const std::uint64_t begin = table[s], end = s == 31 ? 65536 : table[s + 1];
    out.push_back(s);
    high = low + r * end / 65536 - 1;
    low = low + r * begin / 65536;
    for (;;) {
      std::uint64_t off;
      if (high < middle)
        off = 0;
      else if (low >= middle)
        off = middle;
      else if (low >= quarter && high < middle + quarter)
        off = quarter;
      else
        break;
      low = 2 * (low - off), high = 2 * (high - off) + 1, v = 2 * (v - off) + bit();
    }
  }
  require(code.size() == (next - 32 + 2 + 7) / 8, "size of a code");
  require(v == (low >= quarter ? middle : quarter), "end of a code");
  return out;
}

inline std::vector<float> released_values(bytes scales, bytes coded, int rows, int w) {
  if (rows == 0) {
    require(scales.empty() && coded.empty(), "rows of nothing");
    return {};
  }
  reader head(scales), in(coded);
  const int bins = head.get<std::uint8_t>();
  require(bins >= 4 && bins <= 32, "bins");
  std::vector<double> most;
  for (int i = 0; i < rows; ++i) {
    most.push_back(half(head.get<std::uint16_t>()));
    require(std::isfinite(most.back()) && !std::signbit(most.back()), "largest magnitude");
  }
  require(head.left() == 0, "bytes after the largest magnitudes");
  std::vector<std::uint16_t> table(std::size_t(33 * w));
  for (std::uint16_t& x : table) x = in.get<std::uint16_t>();
  for (std::size_t i = 0; i < table.size(); ++i) require(i % 33 ? table[i] > table[i - 1] : table[i] == 0, "table");
  std::vector<std::uint32_t> size(std::size_t((rows + 255) / 256 * w));
  for (std::uint32_t& x : size) x = in.get<std::uint32_t>();
  std::vector<float> out(std::size_t(rows * w));
  const float h = float(bins / 2 - 1);
  for (std::size_t i = 0; i < size.size(); ++i) {
    const int run = int(i) / w, c = int(i) % w, n = std::min(256, rows - 256 * run);
    const std::vector<int> s = decode_arithmetic(in.take(size[i]), &table[std::size_t(33 * c)], n);
    for (int k = 0; k < n; ++k) {
      const int row = 256 * run + k;
      out[std::size_t(row * w + c)] = (float(s[std::size_t(k)]) - h) / h * float(most[std::size_t(row)]);
    }
  }
  require(in.left() == 0, "bytes after the codes");
  return out;
}

// --- 6.9 to 6.11: what their sections are made of

// Numbers of any width, from the lowest bit of the first byte on.
class bit_string {
 public:
  explicit bit_string(bytes b) : bytes_(b) {}
  int get(int bits) {
    int x = 0;
    for (int i = 0; i < bits; ++i, ++at_) x |= (bytes_[at_ / 8] >> at_ % 8 & 1) << i;
    return x;
  }

 private:
  bytes bytes_;
  std::size_t at_ = 0;
};

inline std::size_t bytes_of_bits(std::size_t bits) { return (bits + 7) / 8; }

inline float finite_half(reader& r) {
  const double x = half(r.get<std::uint16_t>());
  require(std::isfinite(x), "no number");
  return float(x);
}
inline std::vector<float> finite_halves(reader& r, std::size_t n) {
  std::vector<float> x(n);
  for (float& f : x) f = finite_half(r);
  return x;
}

template <class T>
std::vector<int> rising(reader& r, std::size_t n) {
  std::vector<int> x;
  for (std::size_t i = 0; i < n; ++i) {
    x.push_back(r.get<T>());
    require(i == 0 || x[i] > x[i - 1], "order");
  }
  return x;
}
inline std::size_t place_of(int wanted, const std::vector<int>& in) {
  const auto at = std::find(in.begin(), in.end(), wanted);
  require(at != in.end(), "not in the section");
  return std::size_t(at - in.begin());
}

// Calls f(plane, width) for every group of a profile.
template <class F>
void for_each_group(const profile& p, F f) {
  for (std::size_t i = 0; i < p.planes.size(); ++i)
    for (int c = 0; c < p.planes[i].width; c += p.planes[i].group_width)
      f(int(i % 2), std::size_t(std::min(p.planes[i].group_width, p.planes[i].width - c)));
}

// --- 6.9 KVTC

struct kvtc_run {
  int first, length, bits;
};
struct kvtc_group {
  float scale = 0;
  std::vector<float> mean, vectors;  // [live][width]
  std::vector<kvtc_run> runs;        // of the ratio
};

inline std::vector<kvtc_group> read_kvtc(const profile& p, int ratio) {
  reader r(p.section(5, 6).content);
  const std::size_t n = r.get<std::uint16_t>();
  require(r.get<std::uint16_t>() == 0, "reserved");
  const std::size_t mine = place_of(ratio, rising<std::uint16_t>(r, n));
  std::vector<kvtc_group> all;
  for_each_group(p, [&](int, std::size_t width) {
    kvtc_group& g = all.emplace_back();
    const int live = r.get<std::uint16_t>();
    g.scale = r.get<float>();
    require(std::size_t(live) <= width && g.scale > 0 && g.scale <= 1e6f, "basis");
    g.mean = finite_halves(r, width);
    g.vectors = finite_halves(r, std::size_t(live) * width);
    for (std::size_t i = 0; i < n; ++i) {
      int next = 0, least = 0;
      for (int k = r.get<std::uint16_t>(); k > 0; --k) {
        constexpr int lengths[] = {1, 16, 64, 256, 1024};
        const int x = r.get<std::uint8_t>(), type = x >> 3;
        require((x & 7) <= 4 && type >= least && type <= 2 && next < live, "run");
        const kvtc_run run{next, std::min(lengths[x & 7], live - next), 8 >> type};
        next += run.length;
        least = type;
        if (i == mine) g.runs.push_back(run);
      }
    }
  });
  require(r.left() == 0, "bytes after the bases");
  return all;
}

// A region of adaptive bytes.
inline std::vector<std::uint8_t> adaptive_region(one_state& coder, std::size_t size) {
  std::vector<std::uint32_t> zeros(256, 32768);
  std::vector<std::uint8_t> out;
  while (out.size() < size) {
    unsigned node = 1;
    while (node < 256) {
      std::uint32_t& z = zeros[node];
      const unsigned bit = coder.slot() >= z;
      coder.step(bit ? z : 0, bit ? 65536 - z : z);
      z = bit ? z - z / 32 : z + (65535 - z) / 32;
      node = 2 * node + bit;
    }
    out.push_back(std::uint8_t(node - 256));
  }
  return out;
}

// Channels of all rows, [row][width], without their rotation.
inline std::vector<double> kvtc_values(bytes code, const kvtc_group& g, std::size_t rows) {
  const std::size_t width = g.mean.size();
  std::vector<double> x;
  for (std::size_t i = 0; i < rows * width; ++i) x.push_back(double(g.mean[i % width]));
  if (rows == 0 || g.runs.empty()) {
    require(code.empty(), "a code of nothing");
    return x;
  }
  one_state coder(code);
  for (const kvtc_run& run : g.runs) {
    std::vector<float> zero(rows), step(rows);
    for (std::vector<float>* to : {&zero, &step}) {
      if (run.bits == 8) break;
      const auto low = adaptive_region(coder, rows), high = adaptive_region(coder, rows);
      for (std::size_t i = 0; i < rows; ++i) {
        const double h = half(std::uint16_t(low[i] | high[i] << 8));
        require(std::isfinite(h), "zero or step");
        (*to)[i] = float(h);
      }
    }
    const std::size_t row_bytes = bytes_of_bits(std::size_t(run.length * run.bits));
    const auto codes = adaptive_region(coder, rows * row_bytes);
    for (std::size_t row = 0; row < rows; ++row) {
      bit_string bits(bytes(codes).subspan(row * row_bytes, row_bytes));
      for (int k = run.first; k < run.first + run.length; ++k) {
        const int q = bits.get(run.bits);
        require(run.bits < 8 || (q & 127) != 127, "no code");
        const float c = run.bits == 8 ? g.scale * float(fp8_of(q)) : float(q) * step[row] + zero[row];
        for (std::size_t i = 0; i < width; ++i)
          x[row * width + i] += double(c) * double(g.vectors[std::size_t(k) * width + i]);
      }
    }
  }
  coder.finish();
  return x;
}

// --- 6.10 KVQuant

struct kvquant_group {
  std::vector<float> center, span;  // of K
  std::vector<float> level;         // of the width
};

inline std::vector<kvquant_group> read_kvquant(const profile& p, int b) {
  reader r(p.section(5, 7).content);
  const std::size_t n = r.get<std::uint8_t>();
  const std::vector<int> widths = rising<std::uint8_t>(r, n);
  for (const int x : widths) require(x >= 1 && x <= 6, "bits");
  const std::size_t mine = place_of(b, widths);
  std::vector<kvquant_group> all;
  for_each_group(p, [&](int which, std::size_t width) {
    kvquant_group& g = all.emplace_back();
    if (which == 0) {
      g.center = finite_halves(r, width);
      g.span = finite_halves(r, width);
      for (const float s : g.span) require(!(s < 0), "span");
    }
    for (std::size_t i = 0; i < n; ++i) {
      std::vector<float> level = finite_halves(r, std::size_t{1} << widths[i]);
      require(std::is_sorted(level.begin(), level.end()) && level.front() >= -1 && level.back() <= 1, "levels");
      if (i == mine) g.level = std::move(level);
    }
  });
  require(r.left() == 0, "bytes after the levels");
  return all;
}

// Channels of all rows, [row][width], of K without their rotation.
inline std::vector<double> kvquant_values(bytes side, bytes codes, const kvquant_group& g, bool key, int b,
                                          std::size_t rows, std::size_t width) {
  std::vector<double> x;
  if (rows == 0) {
    require(side.empty() && codes.empty(), "rows of nothing");
    return x;
  }
  reader in(side);
  std::vector<float> ranges = finite_halves(in, key ? 0 : 2 * rows);
  std::vector<std::size_t> outliers(rows);
  std::size_t all = 0;
  for (std::size_t& n : outliers) all += n = in.get<std::uint8_t>();
  std::vector<std::size_t> channel(all);
  for (std::size_t& c : channel) c = width > 256 ? in.get<std::uint16_t>() : in.get<std::uint8_t>();
  const std::vector<float> value = finite_halves(in, all);
  require(in.left() == 0, "bytes after the outliers");
  require(codes.size() == bytes_of_bits(rows * width * std::size_t(b)), "size of the codes");
  bit_string bits(codes);
  for (std::size_t row = 0, next = 0; row < rows; ++row) {
    for (std::size_t c = 0; c < width; ++c) {
      const float center = key ? g.center[c] : ranges[2 * row], span = key ? g.span[c] : ranges[2 * row + 1];
      const double inside = double(g.level[std::size_t(bits.get(b))]) * double(span);  // exact
      x.push_back(double(float(inside + double(center))));
    }
    for (std::size_t i = 0; i < outliers[row]; ++i, ++next) {
      require(channel[next] < width && (i == 0 || channel[next] > channel[next - 1]), "channels of outliers");
      x[row * width + channel[next]] = double(value[next]);
    }
  }
  return x;
}

// --- 6.11 AATC

struct aatc_group {
  std::vector<float> deviation;
  std::vector<std::uint8_t> bits;  // of the rate
};

inline std::vector<aatc_group> read_aatc(const profile& p, int rate) {
  reader r(p.section(5, 8).content);
  const std::size_t n = r.get<std::uint16_t>();
  require(r.get<std::uint16_t>() == 0, "reserved");
  const std::size_t mine = place_of(rate, rising<std::uint16_t>(r, n));
  std::vector<aatc_group> all;
  for_each_group(p, [&](int, std::size_t width) {
    aatc_group& g = all.emplace_back();
    for (std::size_t k = 0; k < width; ++k) {
      g.deviation.push_back(r.get<float>());
      require(g.deviation.back() >= 0 && g.deviation.back() <= 1e9f, "deviation");
    }
    for (std::size_t i = 0; i < n; ++i) {
      const bytes bits = r.take(width);
      for (std::size_t k = 0; k < width; ++k) require(bits[k] <= 12 && (g.deviation[k] > 0 || bits[k] == 0), "bits");
      if (i == mine) g.bits.assign(bits.begin(), bits.end());
    }
  });
  require(r.left() == 0, "bytes after the bits");
  return all;
}

// Coefficients of all rows, [row][width].
inline std::vector<float> aatc_coefficients(bytes scales, bytes codes, const aatc_group& g, std::size_t rows) {
  std::vector<float> c;
  reader in(scales);
  std::size_t row_bits = 0;
  for (const std::uint8_t b : g.bits) row_bits += b;
  require(codes.size() == bytes_of_bits(rows * row_bits), "size of the codes");
  bit_string bits(codes);
  for (std::size_t row = 0; row < rows; ++row) {
    const float scale = finite_half(in);
    for (std::size_t k = 0; k < g.bits.size(); ++k) {
      const float unit = g.deviation[k] * scale;
      const float at = (float(bits.get(g.bits[k])) + 0.5f) * (2 / float(1 << g.bits[k])) - 1;
      c.push_back(g.bits[k] ? at * unit : 0);
    }
  }
  require(in.left() == 0, "bytes after the scales");
  return c;
}

// --- 3 frame, 6 values

/// What a frame holds of a plane of a layer: [token][channel], as numbers and, for tokens kept as stored, as bytes.
struct plane_values {
  int width = 0, type = 0;
  std::vector<double> x;
  std::vector<std::uint8_t> stored;       // [token][channel] elements
  std::vector<std::uint8_t> held, exact;  // [token][channel]: there at all; bit for bit as stored
};
struct frame {
  std::int64_t position = 0;
  int tokens = 0, passes = 0;
  std::vector<plane_values> planes;  // K and V of a layer, layer by layer
};

inline frame decode(bytes file, const profile& p, int level, std::int64_t position = -1,
                    std::span<const std::int32_t> ids = {}) {
  require(file.size() >= 96, "truncated");
  reader h(file);
  require(h.get<std::uint32_t>() == 0x46434c53, "magic");
  require(h.get<std::uint8_t>() == 0 && h.get<std::uint8_t>() == 4, "version");
  require(h.get<std::uint16_t>() == 96 &&
              checksum(file.first(92), 0x46434c53) == reader(file.subspan(92)).get<std::uint32_t>(),
          "header");
  const auto fingerprint = h.get<std::uint64_t>();
  frame out;
  out.position = h.get<std::int64_t>();
  const auto frame_size = h.get<std::uint64_t>();
  out.tokens = int(h.get<std::uint32_t>());
  const auto tile_tokens = int(h.get<std::uint32_t>());
  const auto index_size = h.get<std::uint32_t>(), index_checksum = h.get<std::uint32_t>();
  const auto layers = h.get<std::uint16_t>(), runs = h.get<std::uint16_t>();
  require(h.get<std::uint16_t>() == 0, "reserved");
  out.passes = h.get<std::uint8_t>();
  const int present = h.get<std::uint8_t>();
  // 3.2
  int id[6], parameter[6];
  for (int i = 0; i < 6; ++i) {
    const auto stage = h.get<std::uint32_t>();
    id[i] = int(stage & 255), parameter[i] = int(stage >> 8);
  }
  const int method = id[0], transform = id[2], quantizer = id[3], entropy = id[5];
  const bool sectioned = method >= 4;  // 6.9 to 6.11: all that they know of the model is in a section of their own
  require((transform == 2 || parameter[2] == 0) && parameter[5] == 0, "codec");
  if (id[1] == 0)
    require(parameter[1] == 0, "codec");
  else
    require(id[1] <= 7 && method == 0 && transform == 1 && quantizer == 1, "codec");
  if (method == 0)
    require(transform <= 2 && (quantizer == 1 ? parameter[3] <= 5 && entropy == 1 : quantizer >= 2 && quantizer <= 5) &&
                (quantizer < 4 || parameter[3] == 0) && (entropy == 1 || entropy == 2),
            "codec");
  else if (sectioned)
    require(method <= 6 && transform == 0 && quantizer == 0 && id[4] == 0 && entropy == method + 2, "codec");
  else if (method == 3)
    require(transform == 0 && quantizer == 0 && parameter[3] == 0 && id[4] == 2 && entropy == 0, "codec");
  else if (method == 2)
    require(transform == 0 && quantizer == 0 && parameter[3] >= 1 && parameter[3] <= 1000 && entropy == 5, "codec");
  else
    require(method == 1 && transform == 0 && quantizer == 0 && parameter[3] == 0 && (entropy == 3 || entropy == 4),
            "codec");
  const auto side = h.get<std::uint32_t>();
  h.take(6);  // expected losses
  require(h.get<std::uint16_t>() == 0, "reserved");
  if (side == 0) ids = {};
  if (side != 0) {
    require(ids.size() >= std::size_t(out.tokens), "token ids are missing");
    ids = ids.first(std::size_t(out.tokens));
    const std::uint32_t sum =
        checksum({reinterpret_cast<const std::uint8_t*>(ids.data()), ids.size_bytes()}, 0x46434c53);
    require(side == (sum ? sum : 1), "token ids");
  }
  prediction predictor;
  if (id[1]) {
    predictor = read_prediction(p, id[1]);
    require(parameter[1] == predictor.rank + 4096 * predictor.span, "codec");
  }
  const bool profiled = method == 2 || sectioned || (method == 0 && (transform == 1 || entropy == 1));
  const int P = method == 0 && quantizer == 1 ? p.passes : 1;  // passes of a complete tile
  const int most = method == 0 && quantizer == 1 ? std::min(P, parameter[3] + 1) : 1;
  require(out.position >= 0 && out.position <= INT64_MAX - (1 << 20), "position");
  require(out.tokens >= 1 && out.tokens <= 1 << 20 && tile_tokens >= 1 && tile_tokens <= 4096, "tokens");
  require(present >= 1 && present <= out.passes && out.passes <= most, "passes");
  require((96 + index_size) % 16 == 0, "index size");
  require(fingerprint == (method == 2 ? p.section(5, 5).fingerprint
                          : sectioned ? p.section(5, entropy).fingerprint
                          : id[1]     ? p.section(1, id[1]).fingerprint
                          : profiled  ? p.fingerprint
                                      : 0),
          "profile");
  require(layers == p.layers.size(), "layers");
  level = std::min(level, present - 1);
  if (position < 0) position = out.position;

  require(file.size() - 96 >= index_size, "truncated");
  const bytes index = file.subspan(96, index_size);
  require(checksum(index, 0x46434c53) == index_checksum, "index");
  reader in(index);
  struct shape {
    std::uint16_t heads, dim[2], group_width[2];
    std::uint8_t type[2];
  };
  std::vector<shape> shapes;
  for (int i = 0; i < runs; ++i) {
    const auto n = in.get<std::uint16_t>();
    const auto heads = in.get<std::uint16_t>(), k = in.get<std::uint16_t>(), v = in.get<std::uint16_t>();
    const auto gk = in.get<std::uint16_t>(), gv = in.get<std::uint16_t>();
    const auto tk = in.get<std::uint8_t>(), tv = in.get<std::uint8_t>();
    require(n >= 1 && (heads == 0) == (k == 0 && v == 0) && in.get<std::uint16_t>() == 0, "run");
    shapes.insert(shapes.end(), n, shape{heads, {k, v}, {gk, gv}, {tk, tv}});
  }
  require(shapes.size() == layers, "runs");
  for (int l = 0; l < layers; ++l)
    for (int which = 0; which < 2; ++which) {
      const shape& s = shapes[std::size_t(l)];
      const layer& known = p.layers[std::size_t(l)];
      require(s.heads == known.heads && s.dim[which] == known.dim[which], "shape");
      require(!profiled || s.group_width[which] == p.planes[std::size_t(2 * l + which)].group_width, "groups");
      require(s.dim[which] ? s.group_width[which] && s.group_width[which] % s.dim[which] == 0 : !s.group_width[which],
              "groups");
      require(s.dim[which] ? s.type[which] <= 5 : s.type[which] == 0, "type");
    }
  const int token_tiles = (out.tokens + tile_tokens - 1) / tile_tokens;
  const auto groups = [&](int l, int plane) {
    const shape& s = shapes[std::size_t(l)];
    return s.dim[plane] ? (s.heads * s.dim[plane] + s.group_width[plane] - 1) / s.group_width[plane] : 0;
  };
  std::size_t tiles = 0;
  for (int l = 0; l < layers; ++l) tiles += std::size_t((groups(l, 0) + groups(l, 1)) * token_tiles);
  require(tiles > 0, "absent layers only");
  std::vector<bytes> tile;                // by ordinal, as far as they are present
  std::vector<int> finest(tiles, level);  // level of each tile of a pass
  std::vector<bool> cut(tiles);
  std::size_t at = 96 + index_size;
  for (std::size_t i = 0; i < tiles * std::size_t(out.passes); ++i) {
    const auto size = in.get<std::uint32_t>(), sum = in.get<std::uint32_t>();
    const int pass = int(i / tiles);
    if (size == 0xffffffff) {  // 3.4
      require(pass > 0 && sum == 0, "cut base");
      if (!cut[i % tiles]) finest[i % tiles] = std::min(level, pass - 1);
      cut[i % tiles] = true;
      if (pass <= level) tile.push_back({});
      continue;
    }
    require(!cut[i % tiles], "tile size");
    if (i < tiles * std::size_t(level + 1)) {
      require(at + size <= file.size(), "truncated");
      tile.push_back(file.subspan(at, size));
      require(checksum(tile.back(), std::uint32_t(i)) == sum, "tile checksum");
    }
    at += size;
  }
  require(at == frame_size, "frame size");
  in.only_padding(16);

  std::vector<distribution> anchors, differences;
  if (method == 2) {
    int channels = 0;
    for (const plane& q : p.planes) channels += q.width;
    anchors = read_tables(p.section(5, 5).content, 0, channels);
    differences = read_tables(p.section(5, 5).content, parameter[3], channels);
  }

  std::vector<kvtc_group> kvtc;
  std::vector<kvquant_group> kvquant;
  std::vector<aatc_group> aatc;
  if (method == 4) kvtc = read_kvtc(p, parameter[3]);
  if (method == 5) kvquant = read_kvquant(p, parameter[3]);
  if (method == 6) aatc = read_aatc(p, parameter[3]);

  std::size_t ordinal = 0, plane_channel = 0, plane_group = 0;  // of the model's
  std::vector<std::vector<double>> base;  // of each plane so far: what predictions see, [token][channel]
  for (int l = 0; l < layers; ++l)
    for (int which = 0; which < 2; ++which) {
      const shape& s = shapes[std::size_t(l)];
      const plane& own = p.planes[std::size_t(2 * l + which)];
      base.emplace_back(id[1] ? std::size_t(out.tokens) * std::size_t(own.width) : 0);
      const int dim = s.dim[which], type = s.type[which];
      const std::size_t first_of_plane = plane_channel;
      plane_channel += std::size_t(own.width);
      const std::size_t first_group = plane_group;
      plane_group += std::size_t(groups(l, which));
      const std::size_t element_size = size_of(type);
      plane_values v;
      v.width = s.heads * dim;
      v.type = type;
      const std::size_t cells = std::size_t(out.tokens) * std::size_t(v.width);
      v.x.resize(cells);
      v.stored.resize(cells * element_size);
      v.held.resize(cells);
      v.exact.resize(cells);
      for (int t = 0; t < token_tiles; ++t)
        for (int g = 0; g < groups(l, which); ++g, ++ordinal) {
          if (tile[ordinal].empty()) continue;
          const int tile_level = finest[ordinal];
          const int first_channel = g * s.group_width[which],
                    w = std::min<int>(s.group_width[which], v.width - first_channel), blocks = (w + 31) / 32,
                    stride = 32 * blocks;
          const std::size_t row_bytes = std::size_t(w) * element_size;
          std::vector<envelope> e;
          for (int pass = 0; pass <= tile_level; ++pass)
            e.push_back(open_tile(tile[ordinal + tiles * std::size_t(pass)], pass,
                                  std::min(tile_tokens, out.tokens - t * tile_tokens), row_bytes));
          const int first = t * tile_tokens + e[0].first;  // counted from the first one of the frame
          std::vector<int> row_token;
          for (int i = 0; i < e[0].count; ++i)
            if (std::find(e[0].exact.begin(), e[0].exact.end(), i) == e[0].exact.end()) row_token.push_back(i);
          const int rows = int(row_token.size());
          const auto cell = [&](int token, int channel) {
            return std::size_t(first + token) * std::size_t(v.width) + std::size_t(first_channel + channel);
          };
          const auto put_stored = [&](int token, const std::uint8_t* elements) {
            for (int i = 0; i < w; ++i) {
              const std::size_t c = cell(token, i);
              std::memcpy(&v.stored[c * element_size], elements + std::size_t(i) * element_size, element_size);
              v.x[c] = element(elements + std::size_t(i) * element_size, type);
              v.held[c] = v.exact[c] = 1;
            }
          };
          const bool turns = (transform == 1 || sectioned) && which == 0 && !p.ropes.empty();
          const rope* turn = turns ? &p.ropes[std::size_t(p.layers[std::size_t(l)].rope)] : nullptr;
          const auto rotation = [&](double* x, double to) {
            for (int head = 0; turn && head < w / dim; ++head) rotate(x + head * dim, *turn, dim, to);
          };
          for (int i = 0; i < int(e[0].exact.size()); ++i) {
            const int token = e[0].exact[std::size_t(i)];
            put_stored(token, e[0].exact_rows.data() + std::size_t(i) * row_bytes);
            if (position == out.position || !turn) continue;
            std::vector<double> x(std::size_t(w), 0.0);
            for (int c = 0; c < w; ++c) x[std::size_t(c)] = v.x[cell(token, c)];
            rotation(x.data(), double(position - out.position));  // by the difference; the factor is in them already
            for (int c = 0; c < w; ++c) {
              const bool turned = turn->pairing && c % dim < (turn->rotary_dims ? turn->rotary_dims : dim);
              v.x[cell(token, c)] = turned ? x[std::size_t(c)] / turn->attention_factor : x[std::size_t(c)];
              v.exact[cell(token, c)] = 0;
            }
          }
          const auto put_turned = [&](int row, double* x) {
            const int token = row_token[std::size_t(row)];
            rotation(x, double(position + first + token));
            for (int channel = 0; channel < w; ++channel) {
              v.x[cell(token, channel)] = x[channel];
              v.held[cell(token, channel)] = 1;
            }
          };
          const bytes entropy_bytes = e[0].section[entropy_section], unpredicted = e[0].section[predictor_section];
          if (id[1] && !unpredicted.empty())
            require(unpredicted.size() == 1 && unpredicted[0] == 0, "predicted or not");
          const bool predicted = id[1] && unpredicted.empty() && rows > 0;
          const plane& known = predicted ? predictor.planes[std::size_t(2 * l + which)].left : own;
          if (method == 1) {
            if (rows == 0) continue;
            const auto elements = entropy == 3 ? unsplit(entropy_bytes, type, rows, w)
                                               : std::vector<std::uint8_t>(entropy_bytes.begin(), entropy_bytes.end());
            require(elements.size() == row_bytes * std::size_t(rows), "elements");
            for (int i = 0; i < rows; ++i) put_stored(row_token[std::size_t(i)], &elements[std::size_t(i) * row_bytes]);
            continue;
          }

          if (method == 2) {
            const bytes scales = e[0].section[transform_section];
            if (rows == 0) require(scales.empty() && entropy_bytes.empty(), "rows of nothing");
            if (rows == 0) continue;
            const std::size_t channel = first_of_plane + std::size_t(first_channel);
            const float bin = 0.5f * float(1 + 3 * l / int(layers)) * (float(parameter[3]) / 100);
            const std::vector<float> x =
                cachegen_values(decode_cachegen(entropy_bytes, rows, w, &anchors[channel], &differences[channel]),
                                scales, rows, w, bin);
            for (int i = 0; i < rows * w; ++i) {
              const std::size_t at_value = cell(row_token[std::size_t(i / w)], i % w);
              v.x[at_value] = double(x[std::size_t(i)]);
              v.held[at_value] = 1;
            }
            continue;
          }

          if (method == 3) {
            const std::vector<float> x = released_values(e[0].section[quantizer_section], entropy_bytes, rows, w);
            for (int i = 0; i < rows * w; ++i) {
              const std::size_t at_value = cell(row_token[std::size_t(i / w)], i % w);
              v.x[at_value] = double(x[std::size_t(i)]);
              v.held[at_value] = 1;
            }
            continue;
          }

          if (sectioned) {
            const std::size_t group = first_group + std::size_t(g), n = std::size_t(rows), width = std::size_t(w);
            const bytes with = e[0].section[quantizer_section];
            std::vector<double> x;
            if (method == 4) x = kvtc_values(entropy_bytes, kvtc[group], n);
            if (method == 5)
              x = kvquant_values(with, entropy_bytes, kvquant[group], which == 0, parameter[3], n, width);
            if (method == 6) {
              const std::vector<float> c = aatc_coefficients(with, entropy_bytes, aatc[group], n);
              x.assign(c.begin(), c.end());
              const std::size_t m = std::size_t(g) * std::size_t(own.group_width) * std::size_t(own.group_width);
              for (std::size_t i = 0; !own.matrix.empty() && i < x.size(); ++i) {
                const std::size_t row = i / width, channel = i % width;
                double sum = 0;
                for (std::size_t k = 0; k < width; ++k)
                  sum += double(c[row * width + k]) * own.matrix[m + k * width + channel];
                x[i] = own.scale * sum + own.mean[std::size_t(first_channel) + channel];
              }
            }
            for (int i = 0; i < rows; ++i) put_turned(i, &x[std::size_t(i * w)]);
            continue;
          }

          // 6.1 the section of the quantiser
          double step = 1;
          bool own_step = false;
          int bits = 0, run = 0, of_head = 0, run_groups = 0;
          bool along_channels = false;
          std::vector<double> steps, zeros;
          reader q(e[0].section[quantizer_section]);
          if (quantizer == 1 && q.left() > 0) {
            own_step = true;
            step = double(q.get<float>());
            require(std::isfinite(step) && step > 0, "step");
          } else if (quantizer == 4) {
            bits = 8;
          } else if (quantizer == 5 && rows > 0) {
            bits = q.get<std::uint8_t>();
            require(bits >= 1 && bits <= 4, "bits");
            for (int i = 0; i < rows * (w / dim); ++i) {
              steps.push_back(half(q.get<std::uint16_t>()));
              require(std::isfinite(steps.back()), "scale");
            }
          } else if (quantizer != 1 && rows > 0) {
            bits = q.get<std::uint8_t>();
            require(bits >= 1 && bits <= 8, "bits");
            along_channels = quantizer == 3 || (parameter[3] >> which & 1);
            run = quantizer == 3 ? parameter[3] : parameter[3] >> (which ? 13 : 2) & 2047;
            if (run == 0) run = along_channels ? dim : 4096;
            of_head = along_channels ? (dim + run - 1) / run : 0;
            run_groups = along_channels ? rows * (w / dim) * of_head : (rows + run - 1) / run * w;
            for (int i = 0; i < run_groups; ++i) {
              steps.push_back(half(q.get<std::uint16_t>()));
              zeros.push_back(quantizer == 3 ? -std::ldexp(steps.back(), bits - 1) : half(q.get<std::uint16_t>()));
              require(std::isfinite(steps.back()) && std::isfinite(zeros.back()), "scale");
            }
          }
          require(q.left() == 0, "bytes after the quantiser's");
          // and that of the transform
          const bool described = transform == 1 && !known.mean.empty();
          std::vector<double> mean(std::size_t(w), 0.0);
          reader m(e[0].section[transform_section]);
          if (described)
            std::copy_n(known.mean.begin() + first_channel, w, mean.begin());
          else if (transform == 1 && rows > 0)
            for (double& x : mean) require(std::isfinite(x = half(m.get<std::uint16_t>())), "mean");
          require(m.left() == 0, "bytes after the transform's");
          if (rows == 0) {
            for (const envelope& pass : e) require(pass.section[entropy_section].empty(), "rows of nothing");
            continue;
          }
          // 6.6 what is expected of a token
          const auto expected = [&](int token) {
            std::vector<double> f, x(std::size_t(w), 0.0);
            const std::size_t asked = std::size_t(first + token);
            if (predictor.sources & 1) {
              const bool has = asked < ids.size() && ids[asked] >= 0 && std::uint32_t(ids[asked]) < predictor.vocab;
              for (std::size_t i = 0; i < predictor.latent_scale.size(); ++i)
                f.push_back(has ? predictor.latent_scale[i] *
                                      predictor.latents[std::size_t(ids[asked]) * predictor.latent_scale.size() + i]
                                : 0);
            }
            const auto put = [&](int layer, int of) {
              const std::size_t at_plane = std::size_t(2 * layer + of), n = std::size_t(p.planes[at_plane].width);
              for (std::size_t i = 0; i < n; ++i) f.push_back(base[at_plane][asked * n + i]);
            };
            const int below = predictor.below(p, l);
            if (predictor.sources & 2 && below >= 0) put(below, 0), put(below, 1);
            if (predictor.sources & 4 && which == 1) put(l, 0);
            const predicted_plane& how = predictor.planes[std::size_t(2 * l + which)];
            require(how.features > 0 && f.size() == std::size_t(how.features), "features");
            for (std::size_t k = 0; k < f.size(); ++k)
              for (int i = 0; i < w; ++i)
                x[std::size_t(i)] +=
                    how.scale * f[k] * how.matrix[k * std::size_t(v.width) + std::size_t(first_channel + i)];
            return x;
          };
          // 5, 6.3
          const double* matrix = nullptr;
          if (transform == 1 && !known.matrix.empty())
            matrix =
                known.matrix.data() + std::size_t(g) * std::size_t(known.group_width) * std::size_t(known.group_width);
          row_classes of_rows = open_row_classes(id[4] == 3 ? e[0].section[steps_section] : bytes{}, rows);
          // Rows without their rotation, of the passes up to one.
          const auto rows_at = [&](int at_level) {
            std::vector<double> c;
            if (entropy == 1) {
              const bool known_classes = described && quantizer == 1 && !own_step;
              c = decode_classes(std::span(e).first(std::size_t(at_level + 1)), of_rows, w, P,
                                 known_classes ? known.classes.data() + first_channel : nullptr);
            } else {
              const std::vector<int> codes = unpack(entropy_bytes, bits, rows, blocks);
              c.assign(codes.begin(), codes.end());
            }
            double scale = transform == 1 ? known.scale : 1;
            if (quantizer == 1) scale *= step * std::pow(3.0, P - 1 - at_level);
            for (int i = 0; quantizer != 1 && i < rows; ++i)
              for (int k = 0; k < w; ++k) {
                if (quantizer >= 4) {
                  double& coded = c[std::size_t(i * stride + k)];
                  const int code = int(std::clamp(coded, 0.0, double((1 << bits) - 1)));
                  coded = quantizer == 4
                              ? fp8_of(code)
                              : double(float(level_of(bits, code) * steps[std::size_t(i * (w / dim) + k / dim)]));
                  if (matrix) coded = std::clamp(std::nearbyint(coded), -32767.0, 32767.0);
                  continue;
                }
                const int group =
                    along_channels ? (i * (w / dim) + k / dim) * of_head + k % dim / run : i / run * w + k;
                double& x = c[std::size_t(i * stride + k)];
                x = double(float(x * steps[std::size_t(group)] + zeros[std::size_t(group)]));
                if (matrix) x = std::isnan(x) ? -32767.0 : std::clamp(std::nearbyint(x), -32767.0, 32767.0);
              }
            std::vector<std::vector<double>> all;
            for (int i = 0; i < rows; ++i) {
              std::vector<double>& x = all.emplace_back(std::size_t(w), 0.0);
              if (predicted) x = expected(row_token[std::size_t(i)]);
              const double of_row = scale * of_rows.classes[std::size_t(of_rows.of[std::size_t(i)])].factor();
              for (int channel = 0; channel < w; ++channel) {
                double sum = 0;
                if (!matrix) sum = c[std::size_t(i * stride + channel)];
                for (int k = 0; matrix && k < w; ++k) sum += c[std::size_t(i * stride + k)] * matrix[k * w + channel];
                x[std::size_t(channel)] += of_row * sum + mean[std::size_t(channel)];
              }
              for (int head = 0; transform == 2 && head < w / dim; ++head)
                unturn(&x[std::size_t(head * dim)], dim, std::uint32_t(parameter[2]));
            }
            return all;
          };
          auto values = rows_at(tile_level);
          if (id[1]) {
            const auto of_base = tile_level ? rows_at(0) : values;
            for (int i = 0; i < rows; ++i)
              for (int channel = 0; channel < w; ++channel)
                base.back()[cell(row_token[std::size_t(i)], channel)] =
                    of_base[std::size_t(i)][std::size_t(channel)] - own.mean[std::size_t(first_channel + channel)];
          }
          for (int i = 0; i < rows; ++i) put_turned(i, values[std::size_t(i)].data());
        }
      out.planes.push_back(std::move(v));
    }
  return out;
}

}  // namespace reference
