// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/calibrate/capture.hpp>
#include <sluice/model/profile.hpp>
#include <sluice/status.hpp>
#include <sluice/tensor/shape.hpp>
#include <sluice/warp/targets.hpp>

#include <memory>
#include <span>
#include <utility>

// From captured caches to a profile. Two sweeps over the captures, of which the first keeps running sums and a sample, the
// second counts; a third sees what prediction leaves. None keeps a capture. calibration.hpp, which does it, needs Eigen
// (target sluice::calibration); sluice::kernels has it compiled.

namespace sluice {

namespace detail::inline SLUICE_CALIBRATION_ABI {
class calibration;
}

inline namespace SLUICE_CALIBRATION_ABI {

/// Makes a profile from captures in sweeps: add() every capture, then measure() every capture again in the same order,
/// then, with prediction, predict() every capture, then finish(). Captures need not be in memory together. Calibrate on at
/// least 8 x 1,024 tokens of what the model will read: prose and code, many domains.
class calibrator {
 public:
  /// Reports invalid_argument; for a place that another one is moved to.
  calibrator() = default;
  /// For captures of a model of this shape. Options out of range are reported by add().
  explicit calibrator(model_shape shape, calibration_options options = {});

  /// First sweep. Errors: invalid_argument (options, shape or order), too_large (a shape beyond a profile's limits),
  /// wrong_shape, unsupported_type, and those of validate(kv_view). After an error the calibrator is done for.
  status add(const capture& c);

  /// Second sweep. Errors: as add(); too_few_tokens (of some layer), constant_values (of all), values_out_of_range; and
  /// invalid_argument where no sensitivity is positive.
  status measure(const capture& c);

  /// Third sweep, where calibration_options::prediction wants a predictor fitted: every capture again in the same order.
  /// Errors: as measure(); invalid_argument where nothing is to be predicted.
  status predict(const capture& c);

  /// The profile. plane_profile::loss[j] is sensitivity * mean squared error at level j, measured on the captures: the
  /// nats that coding this plane of the whole context would cost if nothing else were coded. They add up over planes;
  /// a chunk's share is proportional to its tokens. What is returned passes validate() and parse().
  /// Errors: those of the sweeps; invalid_argument where they differ.
  result<profile> finish();

 private:
  std::unique_ptr<detail::calibration, void (*)(detail::calibration*)> impl_{nullptr, nullptr};
};

/// A profile from captures that are all in memory; see calibrator.
inline result<profile> calibrate(const model_shape& shape, std::span<const capture> captures,
                                 const calibration_options& options = {}) {
  calibrator c(shape, options);
  for (const capture& x : captures)
    if (const status s = c.add(x); s != status::ok) return s;
  for (const capture& x : captures)
    if (const status s = c.measure(x); s != status::ok) return s;
  if (options.prediction.kind.sources)
    for (const capture& x : captures)
      if (const status s = c.predict(x); s != status::ok) return s;
  return c.finish();
}

}  // namespace SLUICE_CALIBRATION_ABI
}  // namespace sluice

#if !SLUICE_LINKS_KERNELS || !defined(SLUICE_KERNELS_CALIBRATE) || defined(SLUICE_KERNELS_SOURCE)
#include <sluice/calibrate/calibration.hpp>

#if defined(SLUICE_KERNELS_SOURCE)
#define SLUICE_CALIBRATION_FN
#else
#define SLUICE_CALIBRATION_FN inline
#endif

namespace sluice::inline SLUICE_CALIBRATION_ABI {

SLUICE_CALIBRATION_FN calibrator::calibrator(model_shape shape, calibration_options options)
    : impl_(new detail::calibration(std::move(shape), std::move(options)), [](detail::calibration* c) { delete c; }) {}
SLUICE_CALIBRATION_FN status calibrator::add(const capture& c) {
  return impl_ ? impl_->add(c) : status::invalid_argument;
}
SLUICE_CALIBRATION_FN status calibrator::measure(const capture& c) {
  return impl_ ? impl_->measure(c) : status::invalid_argument;
}
SLUICE_CALIBRATION_FN status calibrator::predict(const capture& c) {
  return impl_ ? impl_->predict(c) : status::invalid_argument;
}
SLUICE_CALIBRATION_FN result<profile> calibrator::finish() {
  if (!impl_) return status::invalid_argument;
  return impl_->finish();
}

}  // namespace sluice::inline SLUICE_CALIBRATION_ABI

#undef SLUICE_CALIBRATION_FN
#endif
