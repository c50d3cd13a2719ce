// SPDX-License-Identifier: Apache-2.0
// The same engine with its cache on a GPU.
#define CUSTOM_ENGINE_GPU 1
#include "main.cpp"
