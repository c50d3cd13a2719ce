# SPDX-License-Identifier: Apache-2.0
# Every public header compiles alone, twice in a row, and in two translation units of one program; all of them together
# compile as other people's projects would compile them. calibrate.hpp takes part where Eigen is found.
file(GLOB_RECURSE headers CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/include/sluice/*.hpp")
sluice_keep_buildable(headers)

set(all "")
set(once "")
set(again "")
foreach(header IN LISTS headers)
  file(RELATIVE_PATH HEADER "${PROJECT_SOURCE_DIR}/include" "${header}")
  string(MAKE_C_IDENTIFIER "${HEADER}" name)
  set(EIGEN "")
  if(HEADER MATCHES "calibrat")
    set(EIGEN "#include <Eigen/Dense>")
  endif()
  foreach(set once again)
    configure_file(header.cpp.in "${CMAKE_CURRENT_BINARY_DIR}/headers/${set}_${name}.cpp" @ONLY)
    list(APPEND ${set} "${CMAKE_CURRENT_BINARY_DIR}/headers/${set}_${name}.cpp")
  endforeach()
  string(APPEND all "#include <${HEADER}>\n")
endforeach()
set(all_headers "${CMAKE_CURRENT_BINARY_DIR}/headers/all.cpp")
file(CONFIGURE OUTPUT "${all_headers}" CONTENT "${all}int main() {}\n" @ONLY)

if(SLUICE_BUILD_TESTS)
  foreach(set once again)
    add_library(sluice_headers_${set} OBJECT ${${set}})
    target_link_libraries(sluice_headers_${set} PRIVATE sluice_test)
    target_compile_options(sluice_headers_${set} PRIVATE -O0 -Werror)
  endforeach()
  # Names that system headers define as macros somewhere.
  target_compile_definitions(sluice_headers_again PRIVATE SLUICE_TEST_POISON)
  add_executable(sluice_headers "${all_headers}" $<TARGET_OBJECTS:sluice_headers_once>
    $<TARGET_OBJECTS:sluice_headers_again>)
  target_link_libraries(sluice_headers PRIVATE sluice_test)
  target_compile_options(sluice_headers PRIVATE -O0)
  add_test(NAME headers.double_link COMMAND sluice_headers)

  set(compile -std=c++20 -fsyntax-only -Wall -Wextra -Wconversion -Wshadow -Wpedantic -Werror
    "-I${PROJECT_SOURCE_DIR}/include" "${all_headers}")
  if(TARGET sluice::calibration)
    get_target_property(eigen Eigen3::Eigen INTERFACE_INCLUDE_DIRECTORIES)
    list(APPEND compile -isystem "${eigen}")
  endif()
  add_test(NAME headers.no_exceptions COMMAND "${CMAKE_CXX_COMPILER}" -fno-exceptions -fno-rtti ${compile})
  add_test(NAME headers.portable COMMAND "${CMAKE_CXX_COMPILER}" -DSLUICE_PORTABLE_ONLY ${compile})
  add_test(NAME headers.native_fast_math COMMAND "${CMAKE_CXX_COMPILER}" -O2 -march=native -ffast-math ${compile})
  # The compiler that does not build the tests reads the headers at least.
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    find_program(SLUICE_OTHER_COMPILER clang++)
  else()
    find_program(SLUICE_OTHER_COMPILER g++)
  endif()
  if(SLUICE_OTHER_COMPILER)
    add_test(NAME headers.other_compiler COMMAND "${SLUICE_OTHER_COMPILER}" ${compile})
  endif()
  add_test(NAME headers.preprocessed_lines COMMAND "${CMAKE_COMMAND}" "-DCOMPILER=${CMAKE_CXX_COMPILER}"
    "-DINCLUDE=${PROJECT_SOURCE_DIR}/include" "-DSCRATCH=${CMAKE_CURRENT_BINARY_DIR}/headers" -DLIMIT=30000
    -P "${PROJECT_SOURCE_DIR}/cmake/preprocessed_lines.cmake")
endif()
