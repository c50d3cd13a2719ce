// expect: use of deleted function|call to deleted constructor
// SPDX-License-Identifier: Apache-2.0
#include <sluice/codec/decoder.hpp>
#include <sluice/codec/presets.hpp>

void f(const sluice::model_shape& shape) {
#ifdef SLUICE_GOOD
  const sluice::profile p = sluice::profile::uncalibrated(shape);
  sluice::decoder<> e(p);
#else
  sluice::decoder<> e(sluice::profile::uncalibrated(shape));
#endif
  (void)e;
}
