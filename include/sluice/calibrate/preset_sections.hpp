// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/calibrate/aatc.hpp>
#include <sluice/calibrate/cachegen.hpp>
#include <sluice/calibrate/kvquant.hpp>
#include <sluice/calibrate/kvtc.hpp>
#include <sluice/codec/presets.hpp>
#include <sluice/model/profile.hpp>
#include <sluice/status.hpp>
#include <sluice/tensor/view.hpp>

#include <memory>
#include <span>
#include <utility>
#include <vector>

// What presets with a section of their own need in a profile: whoever names such a preset calls its type `calibrator`,
// and its header stands among the includes above.

namespace sluice {

/// Makes the optional sections of presets, in one sweep over captured caches. A preset that needs one has a member type
/// `calibrator`, constructible from a profile, with `add(view)` and `finish()`.
class preset_calibrator {
 public:
  /// Borrows the profile, which says how heads are grouped; sections fit profiles of this shape and grouping only.
  explicit preset_calibrator(const profile& p) : profile_(&p) {}
  explicit preset_calibrator(profile&&) = delete;  // it must outlive the calibrator

  /// Asks for what the preset of this name needs. Returns false where there is none; one that needs nothing adds
  /// nothing.
  bool want(const char* preset) {
    return codec::with_preset(preset, [&]<class Codec>() { want<Codec>(); });
  }
  /// Asks for what a codec needs; presets that share a section ask for it once.
  template <class Codec>
  void want() {
    if constexpr (requires { typename Codec::calibrator; }) {
      using maker = section_maker<typename Codec::calibrator>;
      for (const auto& m : makers_)
        if (m->kind() == &maker::tag) return;
      makers_.push_back(std::make_unique<maker>(*profile_));
    }
  }
  /// Asks for what all presets need.
  void want_all() {
    codec::any_preset([&]<class Codec>(const char*, const char*) { return want<Codec>(), false; });
  }
  /// Whether nothing has to be made.
  bool empty() const noexcept { return makers_.empty(); }

  /// Learns from one context. Errors: corrupt_profile, those of validate(kv_view), wrong_shape, unsupported_type.
  status add(const kv_view& cache) {
    for (const auto& m : makers_)
      if (const status s = m->add(cache); s != status::ok) return s;
    return status::ok;
  }

  /// Puts the sections into a profile of the same shape and grouping. Errors: those of add().
  status finish(profile& to) const {
    for (const auto& m : makers_) {
      result<profile_section> section = m->finish();
      if (!section) return section.status();
      to.set_section(std::move(*section));
    }
    return status::ok;
  }

 private:
  struct any_maker {
    virtual ~any_maker() = default;
    virtual const void* kind() const noexcept = 0;
    virtual status add(const kv_view&) = 0;
    virtual result<profile_section> finish() const = 0;
  };
  template <class Calibrator>
  struct section_maker final : any_maker {
    static constexpr char tag = 0;
    Calibrator c;
    explicit section_maker(const profile& p) : c(p) {}
    const void* kind() const noexcept override { return &tag; }
    status add(const kv_view& v) override { return c.add(v); }
    result<profile_section> finish() const override { return c.finish(); }
  };

  const profile* profile_;
  std::vector<std::unique_ptr<any_maker>> makers_;
};

/// Puts the optional sections of all presets into a profile, from captured caches, one view a context. Without captures
/// they hold what is assumed of a cache that nobody has seen. Errors: those of preset_calibrator.
inline status calibrate_presets(profile& p, std::span<const kv_view> captures) {
  preset_calibrator c(p);
  c.want_all();
  for (const kv_view& v : captures)
    if (const status s = c.add(v); s != status::ok) return s;
  return c.finish(p);
}

}  // namespace sluice
