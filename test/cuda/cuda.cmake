# SPDX-License-Identifier: Apache-2.0
# Each cuda/*.cu is one doctest program. It is compiled wherever nvcc is found, with -use_fast_math as other people's
# projects are (sluice::cuda_kernels is compiled without), and must still compute exactly; ptxas must not spill in any
# kernel of it. Where no GPU answers it exits 77, which ctest shows as skipped. A file with a main of its own does that itself.
set(ptxas "${PROJECT_SOURCE_DIR}/cmake/ptxas.cmake")
if(cuda_sources)
  add_library(sluice_cuda_main OBJECT "${CMAKE_CURRENT_LIST_DIR}/main.cpp")
  target_link_libraries(sluice_cuda_main PRIVATE sluice_test CUDA::cudart_static)
endif()
foreach(source IN LISTS cuda_sources)
  cmake_path(GET source STEM name)
  add_executable(cuda_${name} "${source}")
  target_link_libraries(cuda_${name} PRIVATE sluice_test CUDA::cudart_static)
  file(STRINGS "${source}" own_main REGEX "^int main\\(")
  if(NOT own_main)
    target_link_libraries(cuda_${name} PRIVATE $<TARGET_OBJECTS:sluice_cuda_main>)
  endif()
  # 2810: an assignment to an object of a [[nodiscard]] type is not a result that is thrown away, as nvcc has it.
  set(ptx "${CMAKE_CURRENT_BINARY_DIR}/ptx/${name}")
  file(MAKE_DIRECTORY "${ptx}")
  target_compile_options(cuda_${name} PRIVATE
    "$<$<COMPILE_LANGUAGE:CUDA>:-use_fast_math;-keep;-keep-dir=${ptx};-Xptxas=-v;-Xcompiler=-Wall,-Wextra;-diag-suppress=2810>")
  set_target_properties(cuda_${name} PROPERTIES CUDA_COMPILER_LAUNCHER "${CMAKE_COMMAND};-P;${ptxas};--")
  add_test(NAME cuda.${name}.ptxas COMMAND "${CMAKE_COMMAND}" "-DREPORT=$<TARGET_OBJECTS:cuda_${name}>" -P "${ptxas}")
  add_test(NAME cuda.${name} COMMAND cuda_${name})
  add_test(NAME cuda.${name}.exact COMMAND "${CMAKE_COMMAND}" "-DPTX=${ptx}" -P "${CMAKE_CURRENT_LIST_DIR}/exact.cmake")
  set_tests_properties(cuda.${name}.ptxas cuda.${name}.exact cuda.${name} PROPERTIES LABELS cuda SKIP_RETURN_CODE 77)
endforeach()

# An engine of C++17 that links compiled kernels.
add_executable(cuda_cpp17 "${CMAKE_CURRENT_LIST_DIR}/cpp17.cpp")
target_link_libraries(cuda_cpp17 PRIVATE sluice_cuda_kernels sluice_dev CUDA::cudart_static)
target_compile_definitions(cuda_cpp17 PRIVATE "SLUICE_SOURCE_DIR=\"${SLUICE_DATA_ROOT}\"")
set_target_properties(cuda_cpp17 PROPERTIES CXX_STANDARD 17 CXX_STANDARD_REQUIRED ON CXX_EXTENSIONS OFF)
add_test(NAME cuda.cpp17 COMMAND cuda_cpp17)
set_tests_properties(cuda.cpp17 PROPERTIES LABELS cuda SKIP_RETURN_CODE 77)

# Issue slots of the inner loops, where there is a cuobjdump.
find_package(Python3 COMPONENTS Interpreter)
if(cuda_sources AND Python3_FOUND)
  set(objects ${cuda_sources})
  list(TRANSFORM objects REPLACE "^.*/([^/]*)[.]cu$" "$<TARGET_OBJECTS:cuda_\\1>")
  add_test(NAME cuda.sass COMMAND "${Python3_EXECUTABLE}" "${PROJECT_SOURCE_DIR}/kernels/sass.py" ${objects} COMMAND_EXPAND_LISTS)
  set_tests_properties(cuda.sass PROPERTIES LABELS cuda SKIP_RETURN_CODE 77)
endif()

# All headers in the hands of nvcc, with the flags of PyTorch extensions and of FlashInfer's builds.
string(REGEX REPLACE "#include <[^>]*calibrat[^>]*>\n" "" all_cuda "${all}")  # Eigen is not for device code
foreach(header IN LISTS cuda_headers)
  file(RELATIVE_PATH header "${PROJECT_SOURCE_DIR}/include" "${header}")
  string(APPEND all_cuda "#include <${header}>\n#include <${header}>\n")
endforeach()
file(CONFIGURE OUTPUT "${CMAKE_CURRENT_BINARY_DIR}/headers/all.cu" CONTENT "${all_cuda}int main() {}\n" @ONLY)
add_test(NAME headers.cuda COMMAND "${CMAKE_CUDA_COMPILER}" -std=c++20 -arch=sm_90 -c -Werror=all-warnings
  -use_fast_math -D__CUDA_NO_HALF_OPERATORS__ -D__CUDA_NO_HALF_CONVERSIONS__ -D__CUDA_NO_BFLOAT16_CONVERSIONS__
  -D__CUDA_NO_HALF2_OPERATORS__ --expt-relaxed-constexpr "-I${PROJECT_SOURCE_DIR}/include"
  "${CMAKE_CURRENT_BINARY_DIR}/headers/all.cu" -o "${CMAKE_CURRENT_BINARY_DIR}/headers/all.o")
set_tests_properties(headers.cuda PROPERTIES LABELS cuda)
