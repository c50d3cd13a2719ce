# SPDX-License-Identifier: Apache-2.0
# Every public header compiles alone and twice in a row; a second translation unit with all of them, after system
# headers and with names poisoned that some system defines as macros, links with the first ones into one program and is
# compiled as other people's projects would compile it. Headers that need a library take part where it is found.
file(GLOB_RECURSE headers CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/include/sluice/*.hpp")
sluice_keep_buildable(headers)

set(all "")
set(alone "")
foreach(header IN LISTS headers)
  file(RELATIVE_PATH header "${PROJECT_SOURCE_DIR}/include" "${header}")
  string(MAKE_C_IDENTIFIER "${header}" name)
  set(source "${CMAKE_CURRENT_BINARY_DIR}/headers/${name}.cpp")
  file(CONFIGURE OUTPUT "${source}" CONTENT "#include <${header}>\n#include <${header}>\n" @ONLY)
  list(APPEND alone "${source}")
  string(APPEND all "#include <${header}>\n")
endforeach()
set(ALL_HEADERS "${all}")
set(OTHERS "")
if(TARGET sluice::calibration)
  string(APPEND OTHERS "#include <Eigen/Dense>\n")
endif()
if(TARGET sluice::http)
  string(APPEND OTHERS "#include <curl/curl.h>\n")
endif()
set(all_headers "${CMAKE_CURRENT_BINARY_DIR}/headers/all.cpp")
configure_file(headers.cpp.in "${all_headers}" @ONLY)

if(SLUICE_BUILD_TESTS)
  add_library(sluice_headers_alone OBJECT ${alone})
  target_link_libraries(sluice_headers_alone PRIVATE sluice_test)
  target_compile_options(sluice_headers_alone PRIVATE -O0 -Werror)
  add_executable(sluice_headers "${all_headers}" $<TARGET_OBJECTS:sluice_headers_alone>)
  target_link_libraries(sluice_headers PRIVATE sluice_test)
  target_compile_options(sluice_headers PRIVATE -O0 -Werror)
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
