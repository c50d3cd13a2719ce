# SPDX-License-Identifier: Apache-2.0
# The source must fail to compile with a message that matches its first line, `// expect: regex`. Where it knows
# SLUICE_GOOD, the same source must compile with it: it fails for its reason and no other.
file(STRINGS "${SOURCE}" source)
list(GET source 0 expect)
if(NOT expect MATCHES "^// expect: (.+)$")
  message(FATAL_ERROR "${SOURCE}: the first line is not `// expect: regex`")
endif()
set(regex "${CMAKE_MATCH_1}")
set(compile "${COMPILER}" -std=c++20 -fsyntax-only "-I${READ}" "-I${INCLUDE}" "${SOURCE}")

execute_process(COMMAND ${compile} RESULT_VARIABLE rc OUTPUT_VARIABLE output ERROR_VARIABLE output)
if(rc EQUAL 0)
  message(FATAL_ERROR "${SOURCE} compiles")
elseif(NOT output MATCHES "${regex}")
  message(FATAL_ERROR "no message matches `${regex}`:\n${output}")
endif()
if(source MATCHES "SLUICE_GOOD")
  execute_process(COMMAND ${compile} -DSLUICE_GOOD COMMAND_ERROR_IS_FATAL ANY)
endif()
