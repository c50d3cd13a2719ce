// SPDX-License-Identifier: Apache-2.0
#pragma once

// The rival of the matrix products, in a translation unit of its own that is built for this very processor.
namespace dense_rival {

/// c[m][n] = a[m][k] * b[k][n], all row-major, with Eigen.
void multiply(const float* a, const float* b, float* c, int m, int k, int n);

/// What Eigen was built to use.
const char* instruction_sets();

}  // namespace dense_rival
