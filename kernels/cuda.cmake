# SPDX-License-Identifier: Apache-2.0
# sluice::cuda_kernels: decoding and encoding on a GPU for programs without nvcc, or of C++17 (sluice/cuda/kernels.hpp). Each
# preset is one source, and another where it encodes. With SLUICE_CUDA_KERNELS the library is built and installed; else it has
# one preset, for who links it inside of this build.
option(SLUICE_CUDA_KERNELS "build and install sluice::cuda_kernels, which takes nvcc some minutes" OFF)
set(SLUICE_CUDA_PRESETS all CACHE STRING "presets that sluice::cuda_kernels has kernels of; all = those of codec/presets.hpp but for smallest")
set(SLUICE_CUDA_KERNELS_ARCHITECTURES "80-real;90-real;100" CACHE STRING "architectures of sluice::cuda_kernels")
if(NOT SLUICE_HAS_CUDA)
  return()
endif()
set(presets ${SLUICE_CUDA_PRESETS})
set(architectures ${SLUICE_CUDA_KERNELS_ARCHITECTURES})
if(NOT SLUICE_CUDA_KERNELS)
  set(presets standard)
  set(architectures ${CMAKE_CUDA_ARCHITECTURES})
endif()

set(cuda_sources "${CMAKE_CURRENT_SOURCE_DIR}/cuda_kernels.cpp")
set(table "")
set(encoders "")
set(encoding standard)  # encodes_on_device (cuda/encode.cuh)
set(host_only smallest)  # predicted from lower layers
foreach(name IN LISTS host_only)
  if(name IN_LIST presets)
    message(FATAL_ERROR "SLUICE_CUDA_PRESETS: ${name} has no kernels")
  endif()
endforeach()
foreach(row IN LISTS rows)  # of codec/presets.hpp
  string(REGEX REPLACE "row\\(([^,]+), \"(.*)\"" "\\1;\\2" row "${row}")
  list(GET row 0 codec)
  list(GET row 1 name)
  if((presets STREQUAL "all" AND NOT name IN_LIST host_only) OR name IN_LIST presets)
    set(head "#include <sluice/codec/presets.hpp>
#include <sluice/cuda/kernels.cuh>
#include <sluice/cuda/presets.cuh>
namespace sluice::cuda {
")
    set(source "${CMAKE_CURRENT_BINARY_DIR}/cuda_${name}")
    file(CONFIGURE OUTPUT "${source}.cu" CONTENT "${head}
result<std::unique_ptr<any_model>> make_${name}(const profile& p) { return compiled_model<codec::${codec}>::make(p); }
}\n" @ONLY)
    list(APPEND cuda_sources "${source}.cu")
    if(name IN_LIST encoding)
      file(CONFIGURE OUTPUT "${source}_encoder.cu" CONTENT "${head}
result<std::unique_ptr<any_encoder_model>> make_${name}_encoder(const profile& p) {
  return compiled_encoder<codec::${codec}>::make(p);
}
}\n" @ONLY)
      list(APPEND cuda_sources "${source}_encoder.cu")
      string(APPEND encoders " row(${name})")
    endif()
    string(APPEND table " row(${name})")
  endif()
endforeach()
file(CONFIGURE OUTPUT "${CMAKE_CURRENT_BINARY_DIR}/cuda_presets.inc" CONTENT "#define SLUICE_CUDA_PRESETS(row)${table}
#define SLUICE_CUDA_ENCODERS(row)${encoders}\n" @ONLY)
add_library(sluice_cuda_kernels STATIC ${cuda_sources})
add_library(sluice::cuda_kernels ALIAS sluice_cuda_kernels)
set_target_properties(sluice_cuda_kernels PROPERTIES EXPORT_NAME cuda_kernels POSITION_INDEPENDENT_CODE ON
  CUDA_ARCHITECTURES "${architectures}")
# Who links it needs no C++20: of the library's other targets it gets what there is to link.
target_include_directories(sluice_cuda_kernels PRIVATE "${CMAKE_CURRENT_BINARY_DIR}")
target_link_libraries(sluice_cuda_kernels PRIVATE sluice_kernels CUDA::cudart_static)
target_include_directories(sluice_cuda_kernels INTERFACE
  "$<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>" "$<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>")
target_compile_options(sluice_cuda_kernels PRIVATE "$<TARGET_PROPERTY:sluice_dev,INTERFACE_COMPILE_OPTIONS>")
if(SLUICE_CUDA_KERNELS AND SLUICE_INSTALL)
  install(TARGETS sluice_cuda_kernels EXPORT sluice-cuda-kernels-targets ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}"
    COMPONENT lib)
else()
  set_target_properties(sluice_cuda_kernels PROPERTIES EXCLUDE_FROM_ALL ON)
endif()
