# SPDX-License-Identifier: Apache-2.0
# cmake -DCOMPILER=nvcc -DSOURCE=... -DROOT=<repository> -DPTX=<file> -P exact.cmake
# Under -use_fast_math, as other people's projects compile, a kernel must still compute what the host does: nothing of it
# may be rounded less than exactly.
cmake_minimum_required(VERSION 3.25)
get_filename_component(folder "${PTX}" DIRECTORY)
file(MAKE_DIRECTORY "${folder}")
execute_process(COMMAND "${COMPILER}" -std=c++20 -arch=sm_90 -use_fast_math -ptx "-I${ROOT}/include" "-I${ROOT}/test"
  "-I${ROOT}/examples/tool" "-DSLUICE_SOURCE_DIR=\"${ROOT}\"" "-DSLUICE_TEST_DATA=\"${ROOT}/test/data\"" "${SOURCE}" -o "${PTX}" COMMAND_ERROR_IS_FATAL ANY)
file(STRINGS "${PTX}" inexact REGEX "[ \t](div|rcp|sqrt|rsqrt|sin|cos|lg2|ex2|tanh)\\.(approx|full)")
if(inexact)
  list(TRANSFORM inexact STRIP)
  list(JOIN inexact "\n" inexact)
  message(FATAL_ERROR "not exact under -use_fast_math:\n${inexact}")
endif()
file(STRINGS "${PTX}" entries REGEX "^[ \t]*(\\.weak |\\.visible )?\\.entry")
if(NOT entries)
  message(FATAL_ERROR "no kernels in ${SOURCE}")
endif()
