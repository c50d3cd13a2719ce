# SPDX-License-Identifier: Apache-2.0
# What <sluice/sluice.hpp> costs a translation unit, in preprocessed lines; <immintrin.h> is not counted, most programs
# that use the library have it already.
file(WRITE "${SCRATCH}/no_intrinsics/immintrin.h" "")
file(WRITE "${SCRATCH}/umbrella.cpp" "#include <sluice/sluice.hpp>\n")
execute_process(COMMAND "${COMPILER}" -std=c++20 -E -P "-I${SCRATCH}/no_intrinsics" "-I${INCLUDE}" "${SCRATCH}/umbrella.cpp"
  OUTPUT_VARIABLE text COMMAND_ERROR_IS_FATAL ANY)
string(REGEX REPLACE "[^\n]" "" newlines "${text}")
string(LENGTH "${newlines}" lines)
message("<sluice/sluice.hpp>: ${lines} preprocessed lines, limit ${LIMIT}")
if(lines GREATER LIMIT)
  message(FATAL_ERROR "the umbrella header has grown past its limit")
endif()
string(REGEX MATCH "(Eigen|nlohmann|cuda_runtime)[A-Za-z_]*" foreign "${text}")
if(foreign)
  message(FATAL_ERROR "the umbrella header includes a third party: ${foreign}")
endif()
