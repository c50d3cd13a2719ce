# SPDX-License-Identifier: Apache-2.0
# cmake -DENGINE=custom_engine -DLEVELS=<list> -DTOOL=sluice -DDATA=test/data -DSCRATCH=dir -P test.cmake: a real context
# made by the command comes back into pages; what is cut or of another model does not.
cmake_minimum_required(VERSION 3.25)
if(NOT EXISTS "${TOOL}")
  message("skipped: the sluice command is not built")
  return()
endif()
file(REMOVE_RECURSE "${SCRATCH}")
file(MAKE_DIRECTORY "${SCRATCH}")
set(context "${SCRATCH}/a.slc")

# 256 tokens in frames of 100: frames end within pages.
execute_process(COMMAND "${TOOL}" encode -p "${DATA}/smollm2.profile" --chunk-tokens 100 "${DATA}/smollm2_sample.safetensors"
  -o "${context}" COMMAND_ERROR_IS_FATAL ANY)

# Runs the engine: EXPECTED exit status, WORDS that it must say.
function(engine expected words)
  execute_process(COMMAND "${ENGINE}" ${ARGN} RESULT_VARIABLE rc OUTPUT_VARIABLE out ERROR_VARIABLE err)
  message("${out}${err}")
  if(rc EQUAL 77)  # ctest reads the words
    return()
  endif()
  if(NOT rc EQUAL expected OR NOT "${out}${err}" MATCHES "${words}")
    message(FATAL_ERROR "exit ${rc} where ${expected} was expected, with the words '${words}'")
  endif()
endfunction()
foreach(level IN LISTS LEVELS)
  engine(0 "256 tokens of 30 layers x 3 heads x 64 in 3 frames.*into 16 pages.*from the CPU's decoder: " "${DATA}/smollm2.profile" "${context}" ${level})
endforeach()
engine(1 "another profile" "${DATA}/../golden/small.profile" "${context}")
engine(1 "No such file|input/output error" "${DATA}/smollm2.profile" "${SCRATCH}/none.slc")
engine(1 "not a sluice frame" "${DATA}/smollm2.profile" "${DATA}/sample.txt")
engine(2 "usage" "${context}")
