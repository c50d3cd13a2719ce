# SPDX-License-Identifier: Apache-2.0
# Target `docs`: the API reference, build/docs/html/index.html. A public entity without documentation is an error, and the
# test docs.reference says so. Left out where doxygen or awk is not installed.
find_package(Doxygen 1.9 QUIET)
find_program(SLUICE_AWK awk)
if(NOT TARGET Doxygen::doxygen OR NOT SLUICE_AWK)
  return()
endif()

set(DOXYGEN_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/docs")
set(DOXYGEN_FILE_PATTERNS *.hpp *.cuh)
set(DOXYGEN_EXTENSION_MAPPING cuh=C++)
set(DOXYGEN_STRIP_FROM_PATH "${PROJECT_SOURCE_DIR}/include")
set(DOXYGEN_STRIP_FROM_INC_PATH "${PROJECT_SOURCE_DIR}/include")
set(DOXYGEN_INCLUDE_PATH "${PROJECT_SOURCE_DIR}/include")
set(DOXYGEN_GENERATE_LATEX NO)
set(DOXYGEN_HAVE_DOT NO)
set(DOXYGEN_QUIET YES)

# What users may rely on. `detail` namespaces promise nothing, nor do the bodies of kernels and the machine they run on.
set(DOXYGEN_EXTRACT_ALL NO)
set(DOXYGEN_EXCLUDE_SYMBOLS sluice::detail *::detail::* sluice::*::detail_* *::detail_*::*)
set(DOXYGEN_EXCLUDE_PATTERNS */cuda/*/* */cuda/ptx.cuh */cuda/launch.cuh */cuda/rope_angles.cuh */cuda/convert.cuh */cuda/kernels.cuh
  */cuda/encode_strand.hpp)  # what the kernels are made of
set(DOXYGEN_INPUT_FILTER "\"'${SLUICE_AWK}' -f '${CMAKE_CURRENT_LIST_DIR}/doxygen.awk'\"")
set(DOXYGEN_VERBATIM_VARS DOXYGEN_INPUT_FILTER)
set(DOXYGEN_JAVADOC_AUTOBRIEF YES)
set(DOXYGEN_DISTRIBUTE_GROUP_DOC YES)
set(DOXYGEN_MACRO_EXPANSION YES)
set(DOXYGEN_EXPAND_ONLY_PREDEF YES)
set(DOXYGEN_PREDEFINED SLUICE_HD= SLUICE_INLINE=inline "SLUICE_EQUALITY(type)=")

set(DOXYGEN_WARN_IF_UNDOCUMENTED YES)
set(DOXYGEN_WARN_NO_PARAMDOC NO)
set(DOXYGEN_WARN_AS_ERROR FAIL_ON_WARNINGS)

doxygen_add_docs(docs "${PROJECT_SOURCE_DIR}/include/sluice" COMMENT "API reference in ${DOXYGEN_OUTPUT_DIRECTORY}/html")

if(SLUICE_BUILD_TESTS)
  add_test(NAME docs.reference COMMAND Doxygen::doxygen "${PROJECT_BINARY_DIR}/Doxyfile.docs")
  set_tests_properties(docs.reference PROPERTIES LABELS docs)
endif()
