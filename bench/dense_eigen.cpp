// SPDX-License-Identifier: Apache-2.0
// Built with -O3 -march=native. Under another name, lest its instantiations be taken for the plain ones of other files.
#define Eigen eigen_native
#include <Eigen/Core>

#include "dense_eigen.hpp"

namespace dense_rival {

using matrix = eigen_native::Matrix<float, eigen_native::Dynamic, eigen_native::Dynamic, eigen_native::RowMajor>;

void multiply(const float* a, const float* b, float* c, int m, int k, int n) {
  eigen_native::Map<matrix>(c, m, n).noalias() =
      eigen_native::Map<const matrix>(a, m, k) * eigen_native::Map<const matrix>(b, k, n);
}

const char* instruction_sets() { return eigen_native::SimdInstructionSetsInUse(); }

}  // namespace dense_rival
