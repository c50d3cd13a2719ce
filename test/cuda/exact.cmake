# SPDX-License-Identifier: Apache-2.0
# cmake -DPTX=<folder> -P exact.cmake
# Under -use_fast_math, as other people's projects compile, a kernel must still compute what the host does: nothing of it
# may be rounded less than exactly.
cmake_minimum_required(VERSION 3.25)
file(GLOB files "${PTX}/*.ptx")
set(inexact "")
set(entries "")
foreach(file IN LISTS files)
  file(STRINGS "${file}" found REGEX "[ \t](div|rcp|sqrt|rsqrt|sin|cos|lg2|ex2|tanh)\\.(approx|full)")
  list(APPEND inexact ${found})
  file(STRINGS "${file}" found REGEX "^[ \t]*(\\.weak |\\.visible )?\\.entry")
  list(APPEND entries "${found}")
endforeach()
if(inexact)
  list(TRANSFORM inexact STRIP)
  list(JOIN inexact "\n" inexact)
  message(FATAL_ERROR "not exact under -use_fast_math:\n${inexact}")
endif()
if(NOT entries)
  message(FATAL_ERROR "no kernels in ${PTX}")
endif()
