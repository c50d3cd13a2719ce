// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/format/checksum.hpp>
#include <sluice/format/limits.hpp>
#include <sluice/numeric.hpp>
#include <sluice/status.hpp>
#include <sluice/tensor/rope.hpp>
#include <sluice/tensor/shape.hpp>

#include <array>
#include <atomic>
#include <bit>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

namespace sluice {

/// Heads that share one basis: `requested`, or for 0 all heads while they span at most 256 channels, else as many as fit.
constexpr int basis_heads(int requested, int num_kv_heads, int head_dim) noexcept {
  const int fit = requested > 0 ? requested : head_dim > 0 ? 256 / head_dim : 1;
  return fit < 1 ? 1 : fit > num_kv_heads ? num_kv_heads : fit;
}

namespace detail {

/// One thing that is derived from a profile and costs so much that its users share it. Copies of a profile share it too,
/// each finding its own by a key over what it was derived from; it is no part of a profile's value.
class profile_memo {
 public:
  profile_memo() : state_(std::make_shared<state>()) {}
  profile_memo(const profile_memo&) = default;  // and no move: what was moved from can be used on
  profile_memo& operator=(const profile_memo&) = default;
  bool operator==(const profile_memo&) const noexcept { return true; }

  /// What make() returned for this key; other threads that ask meanwhile wait.
  template <class T, class Make>
  std::shared_ptr<const T> get(std::uint64_t key, Make make) const {
    const lock held(state_->busy);
    if (!state_->value || state_->key != key) state_->value = make(), state_->key = key;
    return std::static_pointer_cast<const T>(state_->value);
  }

 private:
  struct lock {
    explicit lock(std::atomic_flag& f) : flag(f) {
      while (flag.test_and_set(std::memory_order_acquire)) flag.wait(true, std::memory_order_relaxed);
    }
    ~lock() {
      flag.clear(std::memory_order_release);
      flag.notify_one();
    }
    lock(const lock&) = delete;
    lock& operator=(const lock&) = delete;
    std::atomic_flag& flag;
  };
  struct state {
    std::atomic_flag busy;
    std::uint64_t key = 0;
    std::shared_ptr<const void> value;
  };
  std::shared_ptr<state> state_;
};

}  // namespace detail

/// What is known about K or V of one layer: how to turn channels into coefficients and how those are distributed.
/// Decoded channels of group g are x = scale * sum_k c[k] * matrix[k] + mean, with c in units of the finest step.
struct plane_profile {
  std::int32_t width = 0;        ///< num_kv_heads * head_dim; 0 = the plane is absent
  std::int32_t group_width = 0;  ///< channels that share a basis; the last group may be narrower
  float step = 0;                ///< finest quantiser step in the weighted domain (information only: folded into scale)
  float scale = 1;
  std::array<float, max_passes> loss{};  ///< expected quality loss in nats at each level when only this plane is coded
  std::vector<std::uint8_t> classes;  ///< [width] distribution class of each coefficient; empty = carried in the tiles
  std::vector<std::uint16_t> mean;    ///< [width] f16 bits; empty = carried in the tiles
  std::vector<std::uint16_t> matrix;  ///< f16 bits, group after group, row k = coefficient k; empty = identity

  int groups() const noexcept { return group_width ? (width + group_width - 1) / group_width : 0; }
  int width_of(int group) const noexcept { return detail::min(group_width, width - group * group_width); }
  const std::uint16_t* matrix_of(int group) const noexcept {
    return matrix.empty() ? nullptr
                          : matrix.data() + std::size_t(group) * std::size_t(group_width) * std::size_t(group_width);
  }
  std::size_t matrix_size() const noexcept {
    std::size_t n = 0;
    for (int g = 0; g < groups(); ++g) n += std::size_t(width_of(g)) * std::size_t(width_of(g));
    return n;
  }
  bool operator==(const plane_profile&) const = default;
};

/// Everything encoder and decoder share about a model before any context arrives; made by calibrate(), or uncalibrated().
struct profile {
  model_shape shape;                  ///< layers without KV have their number and two planes of width 0
  std::int32_t passes = 4;            ///< base + refinements; levels are 0 .. passes-1
  std::int32_t sinks = 4;             ///< tokens at the start of a sequence that are kept exact
  std::vector<plane_profile> planes;  ///< [2 * layer + plane]
  std::array<char, 64> name{};        ///< of the model, for people; not part of the identity
  detail::profile_memo memo;          ///< what encoders derive and share; not part of the value

  const plane_profile& of(int layer, plane p) const noexcept { return planes[2 * std::size_t(layer) + std::size_t(p)]; }
  plane_profile& of(int layer, plane p) noexcept { return planes[2 * std::size_t(layer) + std::size_t(p)]; }

  /// Keeps 63 bytes at most, of UTF-8 whole characters.
  void set_name(const char* s) noexcept {
    name = {};
    std::size_t n = 0;
    while (n + 1 < name.size() && s[n]) ++n;
    for (int i = 0; i < 3 && n > 0 && (static_cast<unsigned char>(s[n]) & 0xC0) == 0x80; ++i) --n;
    for (std::size_t i = 0; i < n; ++i) name[i] = s[i];
  }

  /// Whether bases and classes come from calibration; without, they are carried in every tile at about twice the bytes.
  bool calibrated() const noexcept {
    for (const plane_profile& p : planes)
      if (p.width && p.matrix.empty()) return false;
    return true;
  }

  /// Identity: a frame can only be decoded with the profile that made it.
  std::uint64_t fingerprint() const;

  /// The file form. Layout: FORMAT.md section 7.
  std::vector<std::byte> serialize() const;

  /// Reads the file form from untrusted bytes. Errors: not_a_profile, wrong_version, corrupt_profile, too_large.
  static result<profile> parse(std::span<const std::byte> bytes);

  /// Errors: io_error, and those of parse().
  static result<profile> load(const char* path);
  status save(const char* path) const;

  /// A profile that needs no calibration: identity basis per head; mean, step and classes travel in each tile.
  static profile uncalibrated(const model_shape& shape, int passes = 4, int sinks = 4);
};

namespace detail {

inline constexpr std::uint32_t profile_magic = 0x50434c53;  // "SLCP"
inline constexpr std::uint16_t profile_version = 1;

/// Appends plain little-endian values.
class byte_writer {
 public:
  explicit byte_writer(std::vector<std::byte>& out) : out_(out) {}
  template <class T>
  void put(const T& v) {
    put_bytes(&v, sizeof v);
  }
  void put_bytes(const void* p, std::size_t n) {
    const std::size_t at = out_.size();
    out_.resize(at + n);
    if (n) std::memcpy(out_.data() + at, p, n);
  }

 private:
  std::vector<std::byte>& out_;
};

/// Reads plain little-endian values from untrusted bytes; after a read past the end every value is zero and ok() is false.
class byte_reader {
 public:
  explicit byte_reader(std::span<const std::byte> in) : in_(in) {}
  template <class T>
  T get() {
    T v{};
    get_bytes(&v, sizeof v);
    return v;
  }
  void get_bytes(void* p, std::size_t n) {
    if (n > in_.size()) {
      ok_ = false;
      in_ = {};
      return;
    }
    if (n) std::memcpy(p, in_.data(), n);
    in_ = in_.subspan(n);
  }
  template <class T>
  void get_vector(std::vector<T>& v, std::size_t n) {
    if (n > in_.size() / sizeof(T)) {
      ok_ = false;
      in_ = {};
      return;
    }
    v.resize(n);
    get_bytes(v.data(), n * sizeof(T));
  }
  bool ok() const noexcept { return ok_; }
  std::size_t left() const noexcept { return in_.size(); }

 private:
  std::span<const std::byte> in_;
  bool ok_ = true;
};

inline std::uint64_t checksum64(std::span<const std::byte> b) noexcept {
  return std::uint64_t{checksum(b.data(), b.size(), 0x736c7563)} << 32 | checksum(b.data(), b.size(), 0x65707266);
}

inline bool finite_f16(std::uint16_t h) noexcept { return (h & 0x7c00u) != 0x7c00u; }

inline bool valid_layer(const layer_shape& l, std::span<const rope> ropes) noexcept {
  if (l.absent()) return l == layer_shape{};
  if (l.num_kv_heads < 1 || l.num_kv_heads > max_kv_heads || l.head_dim_k < 0 || l.head_dim_k > max_head_dim ||
      l.head_dim_v < 0 || l.head_dim_v > max_head_dim || l.window < 0 || l.rope_index < 0)
    return false;
  if (l.head_dim_k == 0 && l.head_dim_v == 0) return false;
  if (ropes.empty()) return l.rope_index == 0;
  if (std::size_t(l.rope_index) >= ropes.size()) return false;
  return l.head_dim_k == 0 || validate(ropes[std::size_t(l.rope_index)], l.head_dim_k) == status::ok;
}

inline bool valid_shape(const model_shape& s) noexcept {
  if (s.ropes.size() > std::size_t(max_ropes) || s.layers.size() > std::size_t(max_model_layers)) return false;
  for (const rope& e : s.ropes) {
    if (e.pairing > rope_pairing::interleaved || e.scaling > rope_scaling::yarn_untruncated) return false;
    for (double d : {e.base, e.factor, e.low_freq, e.high_freq, e.original_context, e.attention_factor})
      if (!detail::isfinite(d)) return false;
  }
  for (const layer_shape& l : s.layers)
    if (!valid_layer(l, s.ropes)) return false;
  return true;
}

// Width and grouping of a plane; `l` has sizes within the limits or the answer is false.
inline bool valid_plane_shape(const layer_shape& l, plane which, const plane_profile& q) noexcept {
  if (l.num_kv_heads < 0 || l.num_kv_heads > max_kv_heads) return false;
  const int dim = l.head_dim(which);
  if (dim < 0 || dim > max_head_dim || q.width != l.num_kv_heads * dim) return false;
  if (dim == 0) return q.group_width == 0;
  return q.group_width >= dim && q.group_width <= detail::max(max_group_width, dim) && q.group_width % dim == 0;
}

inline bool valid_plane(const plane_profile& q) noexcept {
  if (!detail::isfinite(q.step) || !detail::isfinite(q.scale) || !(q.scale > 0)) return false;
  for (float f : q.loss)
    if (!detail::isfinite(f)) return false;
  // Calibrated planes have all three parts, uncalibrated ones none.
  const std::size_t width = q.classes.empty() ? 0 : std::size_t(q.width);
  if (q.classes.size() != width || q.mean.size() != width || q.matrix.size() != (width ? q.matrix_size() : 0))
    return false;
  for (std::uint16_t h : q.mean)
    if (!finite_f16(h)) return false;
  for (std::uint16_t h : q.matrix)
    if (!finite_f16(h)) return false;
  return true;
}

// The identity is a hash of these bytes, which hold all that decoding depends on.
inline void write_profile_body(const profile& p, byte_writer& w) {
  w.put(std::uint8_t(p.passes));
  w.put(std::uint8_t(p.sinks));
  w.put(std::uint16_t(p.shape.ropes.size()));
  w.put(std::uint32_t(p.shape.layers.size()));
  for (const rope& r : p.shape.ropes) {
    w.put(std::uint8_t(r.pairing));
    w.put(std::uint8_t(r.scaling));
    w.put(std::uint16_t{0});
    w.put(r.rotary_dims);
    for (double d : {r.base, r.factor, r.low_freq, r.high_freq, r.original_context, r.attention_factor}) w.put(d);
  }
  for (const layer_shape& l : p.shape.layers)
    for (std::int32_t v : {l.num_kv_heads, l.head_dim_k, l.head_dim_v, l.rope_index, l.window}) w.put(v);
  for (const plane_profile& q : p.planes) {
    w.put(q.width);
    w.put(q.group_width);
    w.put(q.step);
    w.put(q.scale);
    for (float f : q.loss) w.put(f);
    w.put(std::uint32_t((q.classes.empty() ? 0 : 1) | (q.mean.empty() ? 0 : 2) | (q.matrix.empty() ? 0 : 4)));
    w.put_bytes(q.classes.data(), q.classes.size());
    w.put_bytes(q.mean.data(), q.mean.size() * 2);
    w.put_bytes(q.matrix.data(), q.matrix.size() * 2);
  }
}

}  // namespace detail

/// Checks everything an encoder or decoder relies on, but for the bases having inverses. Errors: corrupt_profile.
inline status validate(const profile& p) noexcept {
  const model_shape& shape = p.shape;
  if (p.passes < 1 || p.passes > max_passes || p.sinks < 0 || p.sinks > max_sinks || !detail::valid_shape(shape) ||
      p.planes.size() != 2 * shape.layers.size())
    return status::corrupt_profile;
  std::size_t streams = 0;
  for (std::size_t i = 0; i < p.planes.size(); ++i) {
    const layer_shape& l = shape.layers[i / 2];
    if (!detail::valid_plane_shape(l, plane(i % 2), p.planes[i]) || !detail::valid_plane(p.planes[i]))
      return status::corrupt_profile;
    streams += std::size_t(p.planes[i].groups());
  }
  return streams > std::size_t(max_streams) ? status::corrupt_profile : status::ok;
}

inline std::uint64_t profile::fingerprint() const {
  std::vector<std::byte> body;
  detail::byte_writer w(body);
  detail::write_profile_body(*this, w);
  return detail::checksum64(body);
}

inline std::vector<std::byte> profile::serialize() const {
  std::vector<std::byte> body, out;
  detail::byte_writer b(body), w(out);
  detail::write_profile_body(*this, b);
  w.put(detail::profile_magic);
  w.put(detail::profile_version);
  w.put(std::uint16_t{0});
  w.put(std::uint64_t{body.size()});
  w.put(detail::checksum64(body));
  w.put_bytes(name.data(), name.size());
  w.put_bytes(body.data(), body.size());
  w.put(checksum(out.data(), out.size(), 0));
  return out;
}

inline result<profile> profile::parse(std::span<const std::byte> bytes) {
  detail::byte_reader head(bytes);
  if (head.get<std::uint32_t>() != detail::profile_magic) return status::not_a_profile;
  if (head.get<std::uint16_t>() != detail::profile_version) return status::wrong_version;
  if (head.get<std::uint16_t>() != 0) return status::corrupt_profile;
  const auto body_size = head.get<std::uint64_t>();
  const auto hash = head.get<std::uint64_t>();
  profile p;
  head.get_bytes(p.name.data(), p.name.size());
  if (!head.ok() || head.left() < 4 || body_size != head.left() - 4 || p.name.back() != 0)
    return status::corrupt_profile;
  std::uint32_t stored = 0;
  std::memcpy(&stored, bytes.data() + bytes.size() - 4, 4);
  if (stored != checksum(bytes.data(), bytes.size() - 4, 0)) return status::corrupt_profile;
  const auto body = bytes.subspan(bytes.size() - 4 - body_size, body_size);
  if (detail::checksum64(body) != hash) return status::corrupt_profile;

  // The checksums above catch accidents; what follows must also stand hostile bytes: counts are proven before anything
  // is allocated from them, and validate() judges the rest.
  detail::byte_reader r(body);
  p.passes = r.get<std::uint8_t>();
  p.sinks = r.get<std::uint8_t>();
  const std::size_t ropes = r.get<std::uint16_t>(), layers = r.get<std::uint32_t>();
  if (!r.ok() || layers > max_model_layers) return status::corrupt_profile;
  for (std::size_t i = 0; i < ropes && r.ok(); ++i) {
    rope e;
    e.pairing = rope_pairing{r.get<std::uint8_t>()};
    e.scaling = rope_scaling{r.get<std::uint8_t>()};
    if (r.get<std::uint16_t>() != 0) return status::corrupt_profile;
    e.rotary_dims = r.get<std::int32_t>();
    for (double* d : {&e.base, &e.factor, &e.low_freq, &e.high_freq, &e.original_context, &e.attention_factor})
      *d = r.get<double>();
    p.shape.ropes.push_back(e);
  }
  for (std::size_t i = 0; i < layers && r.ok(); ++i) {
    layer_shape l;
    for (std::int32_t* v : {&l.num_kv_heads, &l.head_dim_k, &l.head_dim_v, &l.rope_index, &l.window})
      *v = r.get<std::int32_t>();
    p.shape.layers.push_back(l);
  }
  for (std::size_t i = 0; i < 2 * layers && r.ok(); ++i) {
    plane_profile q;
    q.width = r.get<std::int32_t>();
    q.group_width = r.get<std::int32_t>();
    q.step = r.get<float>();
    q.scale = r.get<float>();
    for (float& f : q.loss) f = r.get<float>();
    const auto parts = r.get<std::uint32_t>();
    if (!r.ok() || (parts != 0 && (parts != 7 || q.width == 0)) ||
        !detail::valid_plane_shape(p.shape.layers[i / 2], plane(i % 2), q))
      return status::corrupt_profile;
    if (parts & 1) r.get_vector(q.classes, std::size_t(q.width));
    if (parts & 2) r.get_vector(q.mean, std::size_t(q.width));
    if (parts & 4) r.get_vector(q.matrix, q.matrix_size());
    p.planes.push_back(std::move(q));
  }
  if (!r.ok() || r.left() != 0) return status::corrupt_profile;
  if (const status s = validate(p); s != status::ok) return s;
  return p;
}

inline result<profile> profile::load(const char* path) {
  std::FILE* f = std::fopen(path, "rb");
  if (!f) return status::io_error;
  std::vector<std::byte> bytes;
  std::byte buffer[1 << 16];
  for (std::size_t n; (n = std::fread(buffer, 1, sizeof buffer, f)) > 0;) bytes.insert(bytes.end(), buffer, buffer + n);
  const bool bad = std::ferror(f) != 0;
  std::fclose(f);
  return bad ? result<profile>(status::io_error) : parse(bytes);
}

inline status profile::save(const char* path) const {
  const auto bytes = serialize();
  std::FILE* f = std::fopen(path, "wb");
  if (!f) return status::io_error;
  const bool written = std::fwrite(bytes.data(), 1, bytes.size(), f) == bytes.size();
  return std::fclose(f) == 0 && written ? status::ok : status::io_error;
}

inline profile profile::uncalibrated(const model_shape& shape, int passes, int sinks) {
  profile p;
  p.shape = shape;
  p.passes = passes;
  p.sinks = sinks;
  for (const layer_shape& l : shape.layers)
    for (plane which : {plane::key, plane::value}) {
      plane_profile q;
      q.width = l.num_kv_heads * l.head_dim(which);
      q.group_width = q.width ? l.head_dim(which) : 0;
      p.planes.push_back(std::move(q));
    }
  return p;
}

}  // namespace sluice
