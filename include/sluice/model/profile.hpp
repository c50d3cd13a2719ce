// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/format/checksum.hpp>
#include <sluice/format/limits.hpp>
#include <sluice/model/profile_memo.hpp>
#include <sluice/numeric.hpp>
#include <sluice/status.hpp>
#include <sluice/tensor/rope.hpp>
#include <sluice/tensor/shape.hpp>

#include <array>
#include <bit>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <iterator>
#include <memory>
#include <span>
#include <utility>
#include <vector>

namespace sluice {

/// Heads that share one basis: `requested`, or for 0 all heads while they span at most 256 channels, else as many as fit.
constexpr int basis_heads(int requested, int num_kv_heads, int head_dim) noexcept {
  const int fit = requested > 0 ? requested : head_dim > 0 ? 256 / head_dim : 1;
  return fit < 1 ? 1 : fit > num_kv_heads ? num_kv_heads : fit;
}

/// What is known about K or V of one layer: how to turn channels into coefficients and how those are distributed.
/// Decoded channels of group g are x = scale * sum_k c[k] * matrix[k] + mean, with c in units of the finest step.
struct plane_profile {
  std::int32_t width = 0;        ///< num_kv_heads * head_dim; 0 = the plane is absent
  std::int32_t group_width = 0;  ///< channels that share a basis; the last group may be narrower
  float step = 0;                ///< finest quantiser step in the weighted domain (information only: folded into scale)
  float scale = 1;               ///< value of one coefficient unit, see above
  std::array<float, max_passes> loss{};  ///< expected quality loss in nats at each level when only this plane is coded
  std::vector<std::uint8_t> classes;  ///< [width] distribution class of each coefficient; empty = carried in the tiles
  std::vector<std::uint16_t> mean;    ///< [width] f16 bits; empty = carried in the tiles
  std::vector<std::uint16_t> matrix;  ///< f16 bits, group after group, row k = coefficient k; empty = identity

  /// Groups of channels, each with a basis of its own; 0 = the plane is absent.
  int groups() const noexcept { return group_width ? (width + group_width - 1) / group_width : 0; }
  /// Channels of a group: group_width, fewer in the last one.
  int width_of(int group) const noexcept { return detail::min(group_width, width - group * group_width); }
  /// A group's matrix, [width_of(group)][width_of(group)] f16 bits; null = identity.
  const std::uint16_t* matrix_of(int group) const noexcept {
    return matrix.empty() ? nullptr
                          : matrix.data() + std::size_t(group) * std::size_t(group_width) * std::size_t(group_width);
  }
  /// Elements that `matrix` has where it is not empty: those of all groups.
  std::size_t matrix_size() const noexcept {
    std::size_t n = 0;
    for (int g = 0; g < groups(); ++g) n += std::size_t(width_of(g)) * std::size_t(width_of(g));
    return n;
  }
  bool operator==(const plane_profile&) const = default;
};

/// Which stage owns a section of a profile.
enum class profile_stage : std::uint8_t { model, predictor, transform, quantizer, bit_widths, entropy };

/// What one stage of a codec keeps in a profile, tables for instance; its bytes are the stage's own and, read from a
/// file, untrusted. The model's shape and the library's stages have sections of their own in the file (FORMAT.md
/// section 7) and members below; ids from 128 on belong to users.
struct profile_section {
  std::uint8_t stage = 0;  ///< a profile_stage
  std::uint8_t id = 0;     ///< of the policy, as in stage_id
  bool optional = true;    ///< a reader that does not know it may go on without; it is then no part of the fingerprint
  std::vector<std::byte> bytes;  ///< the stage's own, as they stand in the file
  bool operator==(const profile_section&) const = default;
};

/// Everything encoder and decoder share about a model before any context arrives; made by calibrate(), or uncalibrated().
struct profile {
  model_shape shape;                      ///< layers without KV have their number and two planes of width 0
  std::int32_t passes = 4;                ///< base + refinements; levels are 0 .. passes-1
  std::int32_t sinks = 4;                 ///< tokens at the start of a sequence that are kept exact
  std::vector<plane_profile> planes;      ///< [2 * layer + plane]
  std::vector<profile_section> sections;  ///< of other stages than the library's, one for each (stage, id)
  std::array<char, 64> name{};            ///< of the model, for people; not part of the identity
  detail::profile_memo memo;              ///< what encoders derive and share; not part of the value

  /// What is known about K or V of a model layer.
  const plane_profile& of(int layer, plane p) const noexcept { return planes[2 * std::size_t(layer) + std::size_t(p)]; }
  /// The same, to be changed; encoders and decoders that borrow the profile must not be in use.
  plane_profile& of(int layer, plane p) noexcept { return planes[2 * std::size_t(layer) + std::size_t(p)]; }

  /// Nats that a level is expected to lose: the sum of all planes. 0 where nothing is expected.
  double loss_of(int level) const noexcept {
    double sum = 0;
    for (const plane_profile& q : planes)
      if (level >= 0 && level < passes) sum += double(q.loss[std::size_t(level)]);
    return sum;
  }

  /// The section of a stage; null where the profile has none.
  const profile_section* find(profile_stage stage, std::uint8_t id) const noexcept {
    for (const profile_section& s : sections)
      if (s.stage == std::uint8_t(stage) && s.id == id) return &s;
    return nullptr;
  }
  /// Adds a section, in the place of one with the same stage and id.
  void set_section(profile_section section) {
    for (profile_section& s : sections)
      if (s.stage == section.stage && s.id == section.id) return void(s = std::move(section));
    sections.push_back(std::move(section));
  }

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

  /// Identity: a frame can only be decoded with the profile that made it. Optional sections are no part of it.
  std::uint64_t fingerprint() const;
  /// The same with one optional section, for codecs that need it; 0 where the profile has none.
  std::uint64_t fingerprint(profile_stage stage, std::uint8_t id) const;

  /// The file form. Layout: FORMAT.md section 7.
  std::vector<std::byte> serialize() const;

  /// Reads the file form from untrusted bytes. `known`: sections of the caller's own stages, as stage * 256 + id; other
  /// sections that are not optional are refused. Errors: not_a_profile, wrong_version, corrupt_profile, missing_section.
  static result<profile> parse(std::span<const std::byte> bytes, std::span<const std::uint16_t> known = {});

  /// Errors: io_error, and those of parse().
  static result<profile> load(const char* path, std::span<const std::uint16_t> known = {});
  /// Writes the file form. Errors: io_error.
  status save(const char* path) const;

  /// A profile that needs no calibration: identity basis per head; mean, step and classes travel in each tile.
  static profile uncalibrated(const model_shape& shape, int passes = 4, int sinks = 4);
};

namespace detail {

inline constexpr std::uint32_t profile_magic = 0x50434c53;  // "SLCP"
inline constexpr std::uint16_t profile_version = 2;
inline constexpr std::size_t max_profile_sections = 64;

inline std::uint64_t checksum64(std::span<const std::byte> b) noexcept {
  return std::uint64_t{checksum(b.data(), b.size(), 0x736c7563)} << 32 | checksum(b.data(), b.size(), 0x65707266);
}

/// Appends plain little-endian values; where only equality matters, long runs of bytes as size and checksum.
class byte_writer {
 public:
  explicit byte_writer(std::vector<std::byte>& out, bool digest = false) : out_(out), digest_(digest) {}
  template <class T>
  void put(const T& v) {
    put_bytes(&v, sizeof v);
  }
  void put_bytes(const void* p, std::size_t n) {
    if (digest_ && n > 1024) {
      const std::uint64_t stand_in[] = {n, checksum64({static_cast<const std::byte*>(p), n})};
      return put(stand_in);
    }
    const std::size_t at = out_.size();
    out_.resize(at + n);
    if (n) std::memcpy(out_.data() + at, p, n);
  }

 private:
  std::vector<std::byte>& out_;
  bool digest_;
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
  void skip(std::size_t n) noexcept {
    if (n > in_.size()) ok_ = false, n = in_.size();
    in_ = in_.subspan(n);
  }
  bool ok() const noexcept { return ok_; }
  std::size_t left() const noexcept { return in_.size(); }

 private:
  std::span<const std::byte> in_;
  bool ok_ = true;
};

inline bool finite_f16(std::uint16_t h) noexcept { return (h & 0x7c00u) != 0x7c00u; }

// Whether all are; four at a time, for bases are megabytes.
inline bool finite_f16(std::span<const std::uint16_t> values) noexcept {
  std::uint64_t carry = 0;
  std::size_t i = 0;
  for (; i + 4 <= values.size(); i += 4) {
    std::uint64_t four = 0;
    std::memcpy(&four, values.data() + i, sizeof four);
    carry |= (four & 0x7c007c007c007c00u) + 0x0400040004000400u;  // an exponent of ones carries into the sign
  }
  bool finite = (carry & 0x8000800080008000u) == 0;
  for (; i < values.size(); ++i) finite = finite && finite_f16(values[i]);
  return finite;
}

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

// All but whether means and matrices are numbers.
inline bool valid_sizes(const plane_profile& q) noexcept {
  if (!detail::isfinite(q.step) || !detail::isfinite(q.scale) || !(q.scale > 0)) return false;
  for (float f : q.loss)
    if (!detail::isfinite(f)) return false;
  // Calibrated planes have all three parts, uncalibrated ones none.
  const std::size_t width = q.classes.empty() ? 0 : std::size_t(q.width);
  return q.classes.size() == width && q.mean.size() == width && q.matrix.size() == (width ? q.matrix_size() : 0);
}

// The sections of the library's own stages, one function each way.

inline void write_model_section(const profile& p, byte_writer& w) {
  w.put(std::uint8_t(p.sinks));
  w.put(std::uint8_t{0});
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
  for (const plane_profile& q : p.planes) w.put(q.group_width);
}

inline status read_model_section(byte_reader& r, profile& p) {
  p.sinks = r.get<std::uint8_t>();
  if (r.get<std::uint8_t>() != 0) return status::corrupt_profile;
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
    if (l.num_kv_heads < 0 || l.num_kv_heads > max_kv_heads) return status::corrupt_profile;
    p.shape.layers.push_back(l);
  }
  for (std::size_t i = 0; i < 2 * layers && r.ok(); ++i) {
    const layer_shape& l = p.shape.layers[i / 2];
    const int dim = l.head_dim(plane(i % 2));
    if (dim < 0 || dim > max_head_dim) return status::corrupt_profile;
    plane_profile q;
    q.width = l.num_kv_heads * dim;
    q.group_width = r.get<std::int32_t>();
    if (!valid_plane_shape(l, plane(i % 2), q)) return status::corrupt_profile;
    p.planes.push_back(std::move(q));
  }
  return status::ok;
}

// profile_basis: per plane f32 scale, u32 1 where mean and matrices follow.
inline void write_transform_section(const profile& p, byte_writer& w) {
  for (const plane_profile& q : p.planes) {
    w.put(q.scale);
    w.put(std::uint32_t(q.matrix.empty() ? 0 : 1));
    w.put_bytes(q.mean.data(), q.mean.size() * 2);
    w.put_bytes(q.matrix.data(), q.matrix.size() * 2);
  }
}
inline status read_transform_section(byte_reader& r, profile& p) {
  for (plane_profile& q : p.planes) {
    q.scale = r.get<float>();
    const auto with = r.get<std::uint32_t>();
    if (with > 1 || (with && q.width == 0)) return status::corrupt_profile;
    if (!with) continue;
    r.get_vector(q.mean, std::size_t(q.width));
    r.get_vector(q.matrix, q.matrix_size());
  }
  return status::ok;
}

// embedded: passes; per plane the step, for information, and the loss at each level.
inline void write_quantizer_section(const profile& p, byte_writer& w) {
  w.put(std::uint32_t(p.passes));
  for (const plane_profile& q : p.planes) {
    w.put(q.step);
    for (float f : q.loss) w.put(f);
  }
}
inline status read_quantizer_section(byte_reader& r, profile& p) {
  const auto passes = r.get<std::uint32_t>();
  if (passes < 1 || passes > std::uint32_t(max_passes)) return status::corrupt_profile;
  p.passes = std::int32_t(passes);
  for (plane_profile& q : p.planes) {
    q.step = r.get<float>();
    for (float& f : q.loss) f = r.get<float>();
  }
  return status::ok;
}

// class_rans: per plane u32 1 where classes follow.
inline void write_entropy_section(const profile& p, byte_writer& w) {
  for (const plane_profile& q : p.planes) {
    w.put(std::uint32_t(q.classes.empty() ? 0 : 1));
    w.put_bytes(q.classes.data(), q.classes.size());
  }
}
inline status read_entropy_section(byte_reader& r, profile& p) {
  for (plane_profile& q : p.planes) {
    const auto with = r.get<std::uint32_t>();
    if (with > 1 || (with && q.width == 0)) return status::corrupt_profile;
    if (with) r.get_vector(q.classes, std::size_t(q.width));
  }
  return status::ok;
}

// Those four, in the order of a file: every file has them, and none may be optional.
struct own_section {
  profile_stage stage;
  std::uint8_t id;
  void (*write)(const profile&, byte_writer&);
  status (*read)(byte_reader&, profile&);
};
inline constexpr own_section own_sections[] = {
    {profile_stage::model, 0, write_model_section, read_model_section},
    {profile_stage::transform, 1, write_transform_section, read_transform_section},
    {profile_stage::quantizer, 1, write_quantizer_section, read_quantizer_section},
    {profile_stage::entropy, 1, write_entropy_section, read_entropy_section}};

inline void write_section(byte_writer& w, std::uint8_t stage, std::uint8_t id, bool optional,
                          std::span<const std::byte> bytes) {
  w.put(stage);
  w.put(id);
  w.put(std::uint16_t(optional));
  w.put(std::uint32_t(bytes.size()));
  w.put_bytes(bytes.data(), bytes.size());
}

// The identity is a hash of these bytes without the optional sections. A digest of them is equal where they are.
inline std::vector<std::byte> profile_body(const profile& p, bool with_optional, bool digest = false) {
  std::vector<std::byte> body, bytes;
  byte_writer w(body, digest);
  for (const own_section& s : own_sections) {
    bytes.clear();
    byte_writer b(bytes, digest);
    s.write(p, b);
    write_section(w, std::uint8_t(s.stage), s.id, false, bytes);
  }
  for (const profile_section& s : p.sections)
    if (with_optional || !s.optional) write_section(w, s.stage, s.id, s.optional, s.bytes);
  return body;
}

// What validate() checks, but for the values in megabytes of means and matrices.
inline status validate_sizes(const profile& p) noexcept {
  const model_shape& shape = p.shape;
  if (p.passes < 1 || p.passes > max_passes || p.sinks < 0 || p.sinks > max_sinks || !valid_shape(shape) ||
      p.planes.size() != 2 * shape.layers.size() || p.sections.size() > max_profile_sections)
    return status::corrupt_profile;
  std::size_t streams = 0;
  for (std::size_t i = 0; i < p.planes.size(); ++i) {
    const layer_shape& l = shape.layers[i / 2];
    if (!valid_plane_shape(l, plane(i % 2), p.planes[i]) || !valid_sizes(p.planes[i])) return status::corrupt_profile;
    streams += std::size_t(p.planes[i].groups());
  }
  return streams > std::size_t(max_streams) ? status::corrupt_profile : status::ok;
}

}  // namespace detail

/// Checks everything an encoder or decoder relies on, but for the bases having inverses. Errors: corrupt_profile.
inline status validate(const profile& p) noexcept {
  if (const status s = detail::validate_sizes(p); s != status::ok) return s;
  for (const plane_profile& q : p.planes)
    if (!detail::finite_f16(q.mean) || !detail::finite_f16(q.matrix)) return status::corrupt_profile;
  return status::ok;
}

inline std::uint64_t profile::fingerprint() const {
  struct identity {
    std::uint64_t fingerprint;
  };
  const std::uint64_t key = detail::checksum64(detail::profile_body(*this, false, true));
  return memo
      .get<identity>(key,
                     [this] {
                       const std::uint64_t f = detail::checksum64(detail::profile_body(*this, false));
                       return std::make_shared<const identity>(identity{f});
                     })
      ->fingerprint;
}

inline std::uint64_t profile::fingerprint(profile_stage stage, std::uint8_t id) const {
  const profile_section* s = find(stage, id);
  if (!s) return 0;
  std::vector<std::byte> both;
  detail::byte_writer w(both);
  w.put(fingerprint());
  detail::write_section(w, s->stage, s->id, s->optional, s->bytes);
  return detail::checksum64(both);
}

inline std::vector<std::byte> profile::serialize() const {
  std::vector<std::byte> out;
  const std::vector<std::byte> body = detail::profile_body(*this, true);
  detail::byte_writer w(out);
  w.put(detail::profile_magic);
  w.put(detail::profile_version);
  w.put(std::uint16_t{0});
  w.put(std::uint64_t{body.size()});
  w.put(fingerprint());
  w.put_bytes(name.data(), name.size());
  w.put_bytes(body.data(), body.size());
  w.put(checksum(out.data(), out.size(), 0));
  return out;
}

inline result<profile> profile::parse(std::span<const std::byte> bytes, std::span<const std::uint16_t> known) {
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

  // The checksum catches accidents; what follows must also stand hostile bytes: counts are proven before anything is
  // allocated from them, and validate() judges the rest.
  detail::byte_reader r(body);
  std::size_t own = 0;
  while (r.ok() && r.left() > 0) {
    profile_section s;
    s.stage = r.get<std::uint8_t>();
    s.id = r.get<std::uint8_t>();
    const auto flags = r.get<std::uint16_t>();
    s.optional = flags == 1;
    const auto size = r.get<std::uint32_t>();
    if (!r.ok() || flags > 1 || size > r.left()) return status::corrupt_profile;
    if (own < std::size(detail::own_sections)) {
      const detail::own_section& o = detail::own_sections[own++];
      if (s.stage != std::uint8_t(o.stage) || s.id != o.id || s.optional) return status::corrupt_profile;
      detail::byte_reader bytes_of(body.subspan(body.size() - r.left(), size));
      if (const status e = o.read(bytes_of, p); e != status::ok) return e;
      if (!bytes_of.ok() || bytes_of.left() != 0) return status::corrupt_profile;
      r.skip(size);
      continue;
    }
    bool expected = s.optional;
    for (const std::uint16_t k : known) expected |= k == s.stage * 256 + s.id;
    if (!expected) return status::missing_section;
    if (p.find(profile_stage{s.stage}, s.id) || p.sections.size() == detail::max_profile_sections)
      return status::corrupt_profile;
    r.get_vector(s.bytes, size);
    p.sections.push_back(std::move(s));
  }
  if (!r.ok() || own != std::size(detail::own_sections)) return status::corrupt_profile;
  if (const status s = validate(p); s != status::ok) return s;
  if (p.fingerprint() != hash) return status::corrupt_profile;
  return p;
}

inline result<profile> profile::load(const char* path, std::span<const std::uint16_t> known) {
  std::FILE* f = std::fopen(path, "rb");
  if (!f) return status::io_error;
  std::vector<std::byte> bytes;
  std::byte buffer[1 << 16];
  for (std::size_t n; (n = std::fread(buffer, 1, sizeof buffer, f)) > 0;) bytes.insert(bytes.end(), buffer, buffer + n);
  const bool bad = std::ferror(f) != 0;
  std::fclose(f);
  return bad ? result<profile>(status::io_error) : parse(bytes, known);
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
