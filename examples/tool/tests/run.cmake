# SPDX-License-Identifier: Apache-2.0
# For scripts that test the command TOOL in the folder SCRATCH.

# Runs the command; it has to end with this code.
function(sluice code)
  execute_process(COMMAND "${TOOL}" ${ARGN} WORKING_DIRECTORY "${SCRATCH}" RESULT_VARIABLE rc OUTPUT_VARIABLE out ERROR_VARIABLE err)
  if(NOT rc STREQUAL code)
    message(FATAL_ERROR "sluice ${ARGN}: exit code ${rc}, not ${code}\n${out}${err}")
  endif()
  set(out "${out}" PARENT_SCOPE)
  set(err "${err}" PARENT_SCOPE)
endfunction()

# What the last command wrote to out or err.
function(expect stream pattern)
  if(NOT "${${stream}}" MATCHES "${pattern}")
    message(FATAL_ERROR "${stream} should match ${pattern}:\n${${stream}}")
  endif()
endfunction()
function(expect_not stream pattern)
  if("${${stream}}" MATCHES "${pattern}")
    message(FATAL_ERROR "${stream} should not match ${pattern}:\n${${stream}}")
  endif()
endfunction()
function(json_is path value)
  string(JSON there GET "${out}" ${path})
  if(NOT "${there}" STREQUAL "${value}")
    message(FATAL_ERROR "${path} is ${there}, not ${value}:\n${out}")
  endif()
endfunction()

# Two files of SCRATCH.
function(same a b)
  file(SHA256 "${SCRATCH}/${a}" x)
  file(SHA256 "${SCRATCH}/${b}" y)
  if(NOT x STREQUAL y)
    message(FATAL_ERROR "${a} and ${b} differ")
  endif()
endfunction()
