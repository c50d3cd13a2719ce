# SPDX-License-Identifier: Apache-2.0
# CMake 3.25 does not know that nvcc 12 and later take -std=c++20, so the cxx_std_20 of sluice::sluice would fail to
# carry to CUDA sources. Does nothing without CUDA and where CMake knows better.
if(CMAKE_CUDA_COMPILER_ID STREQUAL "NVIDIA" AND CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 12
    AND NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
  if(PROJECT_NAME STREQUAL "sluice" AND NOT PROJECT_IS_TOP_LEVEL)  # for a parent that has CUDA sources
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20" PARENT_SCOPE)
    set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20" PARENT_SCOPE)
  endif()
endif()
